/**
 * The certificate files of a broker: makes a small authority of its own where
 * there are none, renews what that authority issued, and notices when files change.
 *
 * A user's own file is never replaced. Whatever is about to be written is first
 * written down in `.making`, together with what it replaces: after a kill the next
 * call finishes exactly that work, and a file which the list does not explain is
 * somebody else's. While it exists, `.making` holds private keys like the files
 * themselves. One caller at a time.
 */
import { createHash, createPrivateKey, KeyObject, randomBytes, webcrypto, X509Certificate } from 'node:crypto'
import { type BigIntStats, statSync } from 'node:fs'
import { chmod, lstat, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { join } from 'node:path'
import type * as X509 from '@peculiar/x509'
import { BrokerError, messageOf } from '../base/errors.js'

const fileNames = ['cacert.pem', 'cakey.pem', 'key.pem', 'cert.pem', 'client-key.pem', 'client-cert.pem'] as const
type FileName = (typeof fileNames)[number]
/** Text by name, of the files that are there. */
type Files = ReadonlyMap<FileName, string>

const day = 86_400_000
const authorityDays = 3652
/** Apple's platforms refuse more than 825 days, the day before `now` included. */
const certificateDays = 820
const renewalDays = 30

/**
 * Sees to it that `dir` has certificates that are good for 30 days, where they are
 * its own to see to. UNAVAILABLE is the system's refusal to write, as in a directory
 * mounted read-only; a caller that has usable certificates may go on.
 */
export async function ensureCertificates(
  dir: string,
  { hostname }: { hostname: string },
  now = new Date()
): Promise<'made' | 'renewed' | 'kept'> {
  try {
    await mkdir(dir, { recursive: true })
    const finished = await finishWork(dir)
    const files = await readFiles(dir)
    if (files.size === 0) {
      await write(dir, 'made', files, await makeSet(hostname, now))
      return 'made'
    }
    if (!files.has('cert.pem')) {
      throw new BrokerError(
        'CONFIG_INVALID',
        `${join(dir, 'cert.pem')} is missing, though ${theseAre(files)} there; ` +
          `add the certificate, or move what is there away to have a new set made`
      )
    }
    const renewed = await renew(files, hostname, now)
    if (renewed === undefined) return finished ?? 'kept'
    await write(dir, 'renewed', files, renewed)
    return finished ?? 'renewed'
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).syscall === undefined) throw cause
    throw new BrokerError('UNAVAILABLE', `cannot make certificates in ${dir}: ${messageOf(cause)}`, { cause })
  }
}

/** Whole days; below 0 when it has expired. Of several certificates in `pem` the first counts. */
export function certificateDaysLeft(pem: string | Buffer, now = new Date()): number {
  return Math.floor((endOf(new X509Certificate(pem)) - now.getTime()) / day)
}

const endOf = (certificate: X509Certificate): number => Date.parse(certificate.validTo)

// Writing so that a kill at any moment does no harm.

const workFile = '.making'

interface Work {
  readonly result: 'made' | 'renewed'
  readonly files: readonly { readonly name: FileName; readonly text: string; readonly replaces: string | null }[]
}

async function write(dir: string, result: Work['result'], before: Files, after: Files): Promise<void> {
  const files = [...after].map(([name, text]) => ({ name, text, replaces: digest(before.get(name)) }))
  const work: Work = { result, files }
  await replace(dir, workFile, JSON.stringify(work))
  await carryOut(dir, work)
}

/** Does what a killed process left undone; says what that was. */
async function finishWork(dir: string): Promise<Work['result'] | undefined> {
  await rm(join(dir, temporary(workFile)), { force: true })
  const text = await read(join(dir, workFile))
  if (text === undefined) return undefined
  const work = parseWork(text)
  if (work !== undefined) {
    await carryOut(dir, work)
    return work.result
  }
  const there = await readFiles(dir)
  if (there.size > 0) {
    throw new BrokerError(
      'CONFIG_INVALID',
      `${join(dir, workFile)} is damaged, so it does not tell whose ${theseAre(there)}; ` +
        `remove ${workFile} to keep what is there, or all of them to have a new set made`
    )
  }
  await rm(join(dir, workFile))
  return undefined
}

function parseWork(text: string): Work | undefined {
  try {
    const { result, files } = JSON.parse(text) as Work
    const whole = files.every(f => fileNames.includes(f.name) && typeof f.text === 'string' && f.replaces !== undefined)
    return whole && (result === 'made' || result === 'renewed') ? { result, files } : undefined
  } catch {
    return undefined
  }
}

/** Looks at every file before it writes the first. */
async function carryOut(dir: string, { files }: Work): Promise<void> {
  const missing = []
  for (const file of files) {
    const text = await read(join(dir, file.name))
    if (text === file.text) continue
    if (text !== undefined && digest(text) !== file.replaces) {
      throw new BrokerError(
        'CONFIG_INVALID',
        `${join(dir, file.name)} was changed while a set of certificates was unfinished; ` +
          `remove ${workFile} to keep what is there, or ${file.name} to have the set finished`
      )
    }
    missing.push(file)
  }
  for (const { name, text } of missing) await replace(dir, name, text)
  await rm(join(dir, workFile))
}

/** A reader sees the file before or after, never a part of it. */
async function replace(dir: string, name: FileName | typeof workFile, text: string): Promise<void> {
  const file = join(dir, temporary(name))
  await rm(file, { force: true })
  await writeFile(file, text, { flag: 'wx', mode: 0o600, flush: true })
  // Not by `mode` alone: a strict umask would keep the certificates from other users' clients.
  if (name.endsWith('cert.pem')) await chmod(file, 0o644)
  await rename(file, join(dir, name))
}

const temporary = (name: string): string => `.${name.replace(/^\./, '')}.tmp`

async function readFiles(dir: string): Promise<Files> {
  const texts = new Map<FileName, string>()
  for (const name of fileNames) {
    const text = await read(join(dir, name))
    if (text !== undefined) texts.set(name, text)
  }
  return texts
}

const theseAre = (files: Files): string => `${[...files.keys()].join(', ')} ${files.size === 1 ? 'is' : 'are'}`

/** Undefined when there is none. What cannot be read, such as a link to nowhere, is there and reads as empty. */
async function read(file: string): Promise<string | undefined> {
  try {
    await lstat(file)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw err
  }
  return readFile(file, 'utf8').catch(() => '')
}

const digest = (text: string | undefined): string | null =>
  text === undefined ? null : createHash('sha256').update(text).digest('hex')

// What is issued, and when anew.

const serverName = 'localhost'
const clientName = 'client'
const authorityName = 'tsmqttd CA'

interface Authority {
  readonly certificate: X509.X509Certificate
  readonly key: webcrypto.CryptoKey
}

async function makeSet(hostname: string, now: Date): Promise<Files> {
  const x509 = await loadX509()
  const keys = await newKeys()
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=${authorityName} ${randomBytes(4).toString('hex')}`,
    ...validity(now, now.getTime() + authorityDays * day),
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey)
    ]
  })
  const authority = { certificate, key: keys.privateKey }
  return new Map([
    ['cacert.pem', certificatePem(certificate)],
    ['cakey.pem', keyPem(keys.privateKey)],
    ...(await issueServer(authority, hostname, now)),
    ...(await issueClient(authority, now))
  ])
}

/** Undefined when there is nothing to renew, or nothing that is ours to renew. */
async function renew(files: Files, hostname: string, now: Date): Promise<Files | undefined> {
  const ca = parsed(files, 'cacert.pem', 'cakey.pem')
  if (ca === undefined || !ca.certificate.subject.startsWith(`CN=${authorityName} `)) return undefined
  const issued = (certificateFile: FileName, keyFile: FileName, name: string): X509Certificate | undefined => {
    const { certificate } = parsed(files, certificateFile, keyFile) ?? {}
    const ours = certificate?.checkIssued(ca.certificate) === true && certificate.verify(ca.certificate.publicKey)
    return ours && certificate.subject === `CN=${name}` ? certificate : undefined
  }
  const server = issued('cert.pem', 'key.pem', serverName)
  if (server === undefined || endOf(server) - now.getTime() >= renewalDays * day) return undefined
  // In the authority's last days a new certificate would end with the old one, and be made at every start.
  if (endOf(ca.certificate) <= Math.max(endOf(server), now.getTime())) return undefined

  const authority = await loadAuthority(ca)
  const noClient = !files.has('client-cert.pem') && !files.has('client-key.pem')
  const oursToo = noClient || issued('client-cert.pem', 'client-key.pem', clientName) !== undefined
  return new Map([
    ...(await issueServer(authority, hostname, now)),
    ...(oursToo ? await issueClient(authority, now) : [])
  ])
}

/** A certificate with its key, where both are there and belong together. */
function parsed(files: Files, certificateFile: FileName, keyFile: FileName) {
  try {
    const certificate = new X509Certificate(files.get(certificateFile) ?? '')
    const key = createPrivateKey(files.get(keyFile) ?? '')
    return certificate.checkPrivateKey(key) ? { certificate, key } : undefined
  } catch {
    return undefined
  }
}

async function loadAuthority(ca: { certificate: X509Certificate; key: KeyObject }): Promise<Authority> {
  const x509 = await loadX509()
  const der = ca.key.export({ type: 'pkcs8', format: 'der' })
  return {
    certificate: new x509.X509Certificate(ca.certificate.raw),
    key: await webcrypto.subtle.importKey('pkcs8', der, algorithm, false, ['sign'])
  }
}

async function issueServer(authority: Authority, hostname: string, now: Date): Promise<[FileName, string][]> {
  const x509 = await loadX509()
  const { certificate, key } = await issue(authority, serverName, now, [
    new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
    new x509.SubjectAlternativeNameExtension(alternativeNames(hostname))
  ])
  return [
    ['key.pem', key],
    ['cert.pem', certificate]
  ]
}

async function issueClient(authority: Authority, now: Date): Promise<[FileName, string][]> {
  const x509 = await loadX509()
  const { certificate, key } = await issue(authority, clientName, now, [
    new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth])
  ])
  return [
    ['client-key.pem', key],
    ['client-cert.pem', certificate]
  ]
}

async function issue(authority: Authority, name: string, now: Date, extensions: X509.Extension[]) {
  const x509 = await loadX509()
  const keys = await newKeys()
  const certificate = await x509.X509CertificateGenerator.create({
    subject: `CN=${name}`,
    issuer: authority.certificate.subjectName,
    ...validity(now, Math.min(now.getTime() + certificateDays * day, authority.certificate.notAfter.getTime())),
    publicKey: keys.publicKey,
    signingKey: authority.key,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      ...extensions,
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(authority.certificate.publicKey)
    ]
  })
  return { certificate: certificatePem(certificate), key: keyPem(keys.privateKey) }
}

/** A host's name may be anything that its owner typed; what no certificate can hold is left out. */
function alternativeNames(hostname: string): X509.JsonGeneralNames {
  const names: X509.JsonGeneralNames = [
    { type: 'dns', value: serverName },
    { type: 'ip', value: '127.0.0.1' },
    { type: 'ip', value: '::1' }
  ]
  const known = names.some(({ value }) => value === hostname.toLowerCase())
  if (!known && isIP(hostname) !== 0) names.push({ type: 'ip', value: hostname })
  else if (!known && /^[\w-]+(\.[\w-]+)*$/.test(hostname)) names.push({ type: 'dns', value: hostname })
  return names
}

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }

const newKeys = (): Promise<webcrypto.CryptoKeyPair> =>
  webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])

/** What every certificate has: a day's grace for clocks that are behind, and a number that is never 0 or negative. */
function validity(now: Date, end: number) {
  const serial = randomBytes(16)
  serial[0] = (serial[0]! & 0x3f) | 0x40
  const second = (time: number): Date => new Date(Math.floor(time / 1000) * 1000)
  return {
    serialNumber: serial.toString('hex'),
    notBefore: second(now.getTime() - day),
    notAfter: second(end),
    signingAlgorithm: algorithm
  }
}

const certificatePem = (certificate: X509.X509Certificate): string => `${certificate.toString('pem')}\n`
const keyPem = (key: webcrypto.CryptoKey): string =>
  KeyObject.from(key).export({ type: 'pkcs8', format: 'pem' }) as string

/** Slow to load, and only needed to make certificates; its dependency injection asks for the polyfill to be there first. */
async function loadX509(): Promise<typeof X509> {
  await import('reflect-metadata')
  return await import('@peculiar/x509')
}

// Noticing changes.

/** How long files must stay as they are: a certificate and its key are seldom replaced in one moment. */
const everyMs = 2000
const settleMs = 200

/**
 * Calls `changed` after any of the files has new content, written in place, renamed
 * to its name or reached through another link (certbot, Kubernetes). It looks
 * instead of listening, since fs.watch misses the last two. A file that goes away
 * is no new content; it is, when it is back. Start to watch before reading.
 */
export function watchFiles(
  files: readonly string[],
  changed: () => void,
  later: (look: () => void, ms: number) => NodeJS.Timeout | undefined = (look, ms) => setTimeout(look, ms).unref()
): () => void {
  let known = files.map(identityNow)
  let unsettled = false
  let stopped = false
  let timer = later(look, everyMs)
  return () => {
    stopped = true
    clearTimeout(timer)
  }

  function look(): void {
    void Promise.all(files.map(file => stat(file, { bigint: true }).then(identity, () => undefined))).then(seen => {
      if (stopped) return
      const differs = seen.some((id, i) => id !== undefined && id !== known[i])
      const away = seen.some((id, i) => id === undefined && known[i] !== undefined)
      known = known.map((id, i) => seen[i] ?? id)
      const before = unsettled
      unsettled = differs || (before && away)
      timer = later(look, unsettled ? settleMs : everyMs)
      if (before && !unsettled) changed()
    })
  }
}

function identityNow(file: string): string | undefined {
  try {
    return identity(statSync(file, { bigint: true }))
  } catch {
    return undefined
  }
}

const identity = ({ dev, ino, size, mtimeNs }: BigIntStats): string => `${dev}:${ino}:${size}:${mtimeNs}`
