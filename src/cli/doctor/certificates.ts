/** The certificates of the TLS listeners, and who else can read what is secret. */
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf } from '../../base/errors.js'
import { listenersOf, type TlsOptions } from '../../config/broker-keys.js'
import { certificateDaysLeft } from '../../net/certificates.js'
import { type Check, type DoctorContext, type Finding, needsConfig } from './finding.js'

const soonDays = 30

export const certificates: Check = context => {
  if (context.settings === undefined) return [needsConfig('certificates')]
  const tls = listenersOf(context.settings.options).flatMap(l => (l.tls === undefined ? [] : [l.tls]))
  const pairs = new Map(tls.map(t => [`${t.certfile}\n${t.keyfile}`, t]))
  const authorities = new Set(tls.flatMap(t => (t.cacertfile === undefined ? [] : [t.cacertfile])))
  return [...[...pairs.values()].map(t => pair(t, context)), ...[...authorities].map(file => authority(file, context))]
}

function pair({ certfile, keyfile }: TlsOptions, { home, near, host }: DoctorContext): Finding {
  const file = home.path(certfile)
  const keyFile = home.path(keyfile)
  const check = near(file)
  const why = 'without a certificate and its key no TLS listener opens; clients refuse an expired one'
  const ours = file === home.path('etc/certs/cert.pem')
  if (ours && !existsSync(file) && !anyPem(home.certs)) {
    return { check, verdict: 'ok', found: 'not there yet: a start makes it', why }
  }
  let certificate: X509Certificate
  try {
    certificate = new X509Certificate(readFileSync(file))
  } catch (err) {
    return { check, verdict: 'error', found: `cannot be used: ${messageOf(err)}`, why, mend: renewal(ours, home.certs) }
  }
  try {
    if (!certificate.checkPrivateKey(createPrivateKey(readFileSync(keyFile)))) {
      const found = `${near(keyFile)} is not its key`
      return { check, verdict: 'error', found, why, mend: renewal(ours, home.certs) }
    }
  } catch (err) {
    const found = `its key ${near(keyFile)} cannot be used: ${messageOf(err)}`
    return { check, verdict: 'error', found, why, mend: renewal(ours, home.certs) }
  }
  return dates(certificate, check, why, host.now(), renewal(ours, home.certs))
}

function authority(cacertfile: string, { home, near, host }: DoctorContext): Finding {
  const file = home.path(cacertfile)
  const check = near(file)
  const why = 'clients whose certificates it issued are refused without it'
  const mend = ['put the authority that issues your clients’ certificates there, then: broker restart']
  try {
    return dates(new X509Certificate(readFileSync(file)), check, why, host.now(), mend)
  } catch (err) {
    return { check, verdict: 'error', found: `cannot be used: ${messageOf(err)}`, why, mend }
  }
}

function dates(certificate: X509Certificate, check: string, why: string, now: Date, mend: string[]): Finding {
  const days = certificateDaysLeft(certificate.toString(), now)
  const from = Date.parse(certificate.validFrom)
  const until = new Date(certificate.validTo).toISOString().slice(0, 10)
  if (days < 0) return { check, verdict: 'error', found: `expired on ${until}`, why, mend }
  if (from > now.getTime()) {
    const found = `valid only from ${new Date(from).toISOString().slice(0, 10)} on`
    return { check, verdict: 'error', found, why, mend: ['date', ...mend] }
  }
  if (days < soonDays) return { check, verdict: 'warning', found: `expires in ${days} days, on ${until}`, why, mend }
  return { check, verdict: 'ok', found: `valid until ${until} (${days} days)`, why }
}

/** Ours are renewed by a start; those of others are theirs to renew, and read again while the broker runs. */
const renewal = (ours: boolean, dir: string): string[] =>
  ours
    ? [
        'broker restart   (renews what the broker made itself)',
        `or a new set: mkdir ${dir}.old && mv ${dir}/*.pem ${dir}.old/ && broker restart`
      ]
    : ['put a new certificate and key in place; the broker reads them by itself']

const anyPem = (dir: string): boolean => existsSync(dir) && readdirSync(dir).some(name => name.endsWith('.pem'))

/** Keys, and configuration with passwords, that other users of the host can read. */
export const secrets: Check = context => {
  const { home, near, settings } = context
  const keys = new Set<string>()
  if (existsSync(home.certs)) {
    for (const name of readdirSync(home.certs)) if (/key.*\.pem$|\.key$/.test(name)) keys.add(join(home.certs, name))
  }
  for (const { tls } of settings === undefined ? [] : listenersOf(settings.options))
    if (tls !== undefined) keys.add(home.path(tls.keyfile))
  const etcDir = home.path(settings?.options.mqtt.plugins.etcDir ?? 'etc/plugins')
  const confs = existsSync(etcDir) ? readdirSync(etcDir).map(name => join(etcDir, name)) : []
  const withPassword = [home.conf, ...confs].filter(
    file => file.endsWith('.conf') && /^\s*[\w.-]*(password|secret|token)\s*=\s*\S/m.test(textOf(file))
  )
  const findings = [
    ...[...keys].flatMap(file => readable(file, 'error', 'who has the key can pose as the broker', near)),
    ...readable(join(home.data, 'scram_users'), 'error', 'who has it can try passwords against it', near),
    ...withPassword.flatMap(file => readable(file, 'warning', 'there is a password in it', near))
  ]
  const looked = keys.size + withPassword.length
  if (findings.length > 0) return findings
  const found = looked === 0 ? 'no keys and no passwords yet' : 'keys and passwords are for this user alone'
  return [{ check: 'secrets', verdict: 'ok', found, why: 'other users of the host must not read them' }]
}

function readable(
  file: string,
  verdict: 'warning' | 'error',
  why: string,
  near: (file: string) => string
): readonly Finding[] {
  const mode = statSync(file, { throwIfNoEntry: false })?.mode
  if (mode === undefined || (mode & 0o044) === 0) return []
  const everybody = (mode & 0o004) !== 0
  return [
    {
      check: near(file),
      verdict: everybody ? verdict : 'warning',
      found: `mode ${(mode & 0o777).toString(8).padStart(4, '0')}: ${everybody ? 'every user' : 'its group'} can read it`,
      why,
      mend: [`chmod 600 ${file}`]
    }
  ]
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
