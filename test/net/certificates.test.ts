import assert from 'node:assert/strict'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, renameSync, rmdirSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { connect, createServer, type TlsOptions } from 'node:tls'
import { certificateDaysLeft, ensureCertificates, watchFiles } from '../../src/net/certificates.js'
import { until } from '../support/server.js'

const names = ['cacert.pem', 'cakey.pem', 'cert.pem', 'client-cert.pem', 'client-key.pem', 'key.pem']
const hostname = 'broker.example'
const day = 86_400_000
const inDays = (days: number): Date => new Date(Date.now() + days * day)

async function freshDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'certificates-'))
  t.after(() => rm(dir, { recursive: true }))
  return dir
}

type Contents = Record<string, string>

async function contents(dir: string): Promise<Contents> {
  const files = (await readdir(dir)).sort()
  return Object.fromEntries(await Promise.all(files.map(async f => [f, await readFile(join(dir, f), 'utf8')])))
}

function put(dir: string, files: Contents): void {
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text)
}

/** Every file is there and nothing else, both pairs belong together, and the authority has issued them. */
async function assertWhole(dir: string): Promise<Contents> {
  const files = await contents(dir)
  assert.deepEqual(Object.keys(files), names)
  const ca = new X509Certificate(files['cacert.pem']!)
  assert.ok(ca.checkPrivateKey(createPrivateKey(files['cakey.pem']!)))
  for (const pair of ['', 'client-']) {
    const certificate = new X509Certificate(files[`${pair}cert.pem`]!)
    assert.ok(certificate.checkPrivateKey(createPrivateKey(files[`${pair}key.pem`]!)), pair)
    assert.ok(certificate.checkIssued(ca) && certificate.verify(ca.publicKey), pair)
  }
  return files
}

const same = (a: Contents, b: Contents, ...files: string[]): boolean => files.every(f => a[f] === b[f])

describe('certificates', { concurrency: true }, () => {
  let madeIn: string
  let made: Contents
  before(async () => {
    madeIn = await mkdtemp(join(tmpdir(), 'certificates-'))
    assert.equal(await ensureCertificates(madeIn, { hostname }), 'made')
    made = await assertWhole(madeIn)
  })
  after(() => rm(madeIn, { recursive: true }))

  const modes: Record<string, number> = { 'key.pem': 0o600, 'client-key.pem': 0o600, 'cakey.pem': 0o600 }
  test('ensureCertificates() lets nobody else read a key', { skip: process.platform === 'win32' }, () => {
    for (const name of names) assert.equal(statSync(join(madeIn, name)).mode & 0o777, modes[name] ?? 0o644, name)
  })

  test('ensureCertificates() writes keys as PKCS#8', () => {
    for (const name of Object.keys(modes)) assert.match(made[name]!, /^-----BEGIN PRIVATE KEY-----\n/)
  })

  test('ensureCertificates() gives each certificate what its use asks for', () => {
    const [ca, server, client] = ['cacert.pem', 'cert.pem', 'client-cert.pem'].map(f => new X509Certificate(made[f]!))
    assert.match(ca!.subject, /^CN=tsmqttd CA [0-9a-f]{8}$/)
    assert.deepEqual([server!.subject, client!.subject], ['CN=localhost', 'CN=client'])
    assert.deepEqual([ca!.ca, server!.ca, client!.ca], [true, false, false])
    assert.deepEqual(server!.keyUsage, ['1.3.6.1.5.5.7.3.1'])
    assert.deepEqual(client!.keyUsage, ['1.3.6.1.5.5.7.3.2'])
    assert.equal(
      server!.subjectAltName,
      'DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:broker.example'
    )
    const extensions = { basicConstraints: '551d13', keyUsage: '551d0f', subjectKeyIdentifier: '551d0e' }
    for (const certificate of [ca!, server!, client!]) {
      for (const [name, oid] of Object.entries(extensions)) {
        assert.ok(certificate.raw.includes(Buffer.from(`0603${oid}`, 'hex')), `${certificate.subject}: ${name}`)
      }
    }
    for (const certificate of [server!, client!]) {
      assert.ok(certificate.raw.includes(Buffer.from('0603551d23', 'hex')), `${certificate.subject}: authority key`)
    }
  })

  test('ensureCertificates() keeps to the times that clients accept', () => {
    const span = (file: string): number => {
      const { validFrom, validTo } = new X509Certificate(made[file]!)
      assert.ok(Date.parse(validFrom) <= Date.now() - day, `${file} begins a day back`)
      return Math.round((Date.parse(validTo) - Date.parse(validFrom)) / day)
    }
    assert.equal(span('cert.pem'), 821)
    assert.equal(span('client-cert.pem'), 821)
    assert.equal(span('cacert.pem'), 3653)
  })

  test('ensureCertificates() numbers certificates positively and differently', () => {
    const numbers = names.filter(f => f.endsWith('cert.pem')).map(f => new X509Certificate(made[f]!).serialNumber)
    for (const number of numbers) assert.match(number, /^[4-7][0-9A-F]{31}$/)
    assert.equal(new Set(numbers).size, 3)
  })

  const hostnames: readonly [string, RegExp][] = [
    ['localhost', /^DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1$/],
    ['192.0.2.7', /, IP Address:192.0.2.7$/],
    ['küche', /:1$/],
    ['', /:1$/]
  ]
  for (const [name, expected] of hostnames) {
    test(`ensureCertificates() copes with a host that is called "${name}"`, async t => {
      const dir = await freshDir(t)
      await ensureCertificates(dir, { hostname: name })
      assert.match(new X509Certificate((await assertWhole(dir))['cert.pem']!).subjectAltName!, expected)
    })
  }

  /** The name in the client's certificate as the server saw it; rejects where either side refuses the other. */
  async function handshake(
    t: TestContext,
    server: TlsOptions,
    client: { servername?: string; cert?: string; key?: string } = {},
    host = '127.0.0.1'
  ): Promise<string> {
    const listener = createServer({ cert: made['cert.pem']!, key: made['key.pem']!, ...server }, socket => {
      socket.end(`client: ${socket.getPeerCertificate().subject?.CN ?? 'nobody'}`)
    })
    t.after(() => listener.close())
    listener.listen(0, host)
    await once(listener, 'listening')
    const { port } = listener.address() as { port: number }
    const socket = connect({ host, port, ca: made['cacert.pem']!, ...client })
    t.after(() => socket.destroy())
    const said = (await socket.setEncoding('utf8').toArray()).join('')
    // In TLS 1.3 a client that is refused may hear no more than a close.
    assert.notEqual(said, '', 'refused')
    return said
  }

  for (const servername of ['localhost', hostname]) {
    test(`ensureCertificates() makes a server that its authority proves to be ${servername}`, async t => {
      assert.equal(await handshake(t, {}, { servername }), 'client: nobody')
    })
  }
  for (const host of ['127.0.0.1', '::1']) {
    test(`ensureCertificates() makes a server that its authority proves to be ${host}`, async t => {
      try {
        assert.equal(await handshake(t, {}, {}, host), 'client: nobody')
      } catch (err) {
        if (!/^EADDRNOTAVAIL|EAFNOSUPPORT$/.test((err as NodeJS.ErrnoException).code ?? '')) throw err
        t.skip('this host has no IPv6 loopback')
      }
    })
  }
  test('ensureCertificates() makes a server that is nobody else', async t => {
    await assert.rejects(handshake(t, {}, { servername: 'other.example' }), { code: 'ERR_TLS_CERT_ALTNAME_INVALID' })
  })

  test('ensureCertificates() makes a client that a strict server lets in, and only as a client', async t => {
    const strict = { ca: made['cacert.pem']!, requestCert: true, rejectUnauthorized: true }
    const client = { cert: made['client-cert.pem']!, key: made['client-key.pem']! }
    assert.equal(await handshake(t, strict, client), 'client: client')
    await assert.rejects(handshake(t, strict))
    await assert.rejects(handshake(t, strict, { cert: made['cert.pem']!, key: made['key.pem']! }))
    await assert.rejects(handshake(t, client), { code: 'INVALID_PURPOSE' })
  })

  test('ensureCertificates() keeps what it has made', async t => {
    const dir = await freshDir(t)
    put(dir, made)
    assert.equal(await ensureCertificates(dir, { hostname: 'renamed' }), 'kept')
    assert.deepEqual(await contents(dir), made)
  })

  test('ensureCertificates() makes the directory', async t => {
    const dir = join(await freshDir(t), 'etc', 'certs')
    assert.equal(await ensureCertificates(dir, { hostname }), 'made')
    await assertWhole(dir)
  })

  /** A directory in the place of the temporary file stops the work right before `name` is renamed to its place. */
  async function interrupt(dir: string, name: string, now?: Date): Promise<void> {
    const obstacle = join(dir, `.${name}.tmp`)
    mkdirSync(obstacle)
    await assert.rejects(ensureCertificates(dir, { hostname }, now), { name: 'BrokerError', code: 'UNAVAILABLE' })
    rmdirSync(obstacle)
  }

  for (const name of names) {
    test(`ensureCertificates() finishes a set that was interrupted before ${name}`, async t => {
      const dir = await freshDir(t)
      await interrupt(dir, name)
      const partial = await contents(dir)
      assert.equal(await ensureCertificates(dir, { hostname }), 'made')
      const { '.making': _, ...written } = partial
      assert.ok(same(await assertWhole(dir), partial, ...Object.keys(written)), 'what was written stays')
      assert.equal(await ensureCertificates(dir, { hostname }), 'kept')
    })
  }

  test('ensureCertificates() starts over when nothing but a damaged .making is there', async t => {
    const dir = await freshDir(t)
    put(dir, { '.making': '', '.making.tmp': '{"result":' })
    assert.equal(await ensureCertificates(dir, { hostname }), 'made')
    await assertWhole(dir)
  })

  const conflicts: readonly [string, Contents, RegExp][] = [
    ['a key', { 'key.pem': 'mine' }, /cert\.pem is missing, though key\.pem is there; add the certificate, or move/],
    ['an authority', { 'cacert.pem': 'a', 'cakey.pem': 'b' }, /missing, though cacert\.pem, cakey\.pem are there/],
    [
      'what a damaged .making leaves open',
      { 'key.pem': 'mine', '.making': '{' },
      /\.making is damaged.* whose key\.pem is/
    ]
  ]
  for (const [name, files, message] of conflicts) {
    test(`ensureCertificates() does not touch ${name} of the user's`, async t => {
      const dir = await freshDir(t)
      put(dir, files)
      await assert.rejects(ensureCertificates(dir, { hostname }), {
        name: 'BrokerError',
        code: 'CONFIG_INVALID',
        message
      })
      assert.deepEqual(await contents(dir), files)
    })
  }

  test('ensureCertificates() does not touch a file that was put into an unfinished set', async t => {
    const dir = await freshDir(t)
    await interrupt(dir, 'key.pem')
    put(dir, { 'cert.pem': 'mine' })
    const files = await contents(dir)
    const message = /cert\.pem was changed while.*; remove \.making to keep what is there, or cert\.pem to have/
    await assert.rejects(ensureCertificates(dir, { hostname }), { code: 'CONFIG_INVALID', message })
    assert.deepEqual(await contents(dir), files)
  })

  const own: readonly [string, Contents][] = [
    ['is no certificate', { 'cert.pem': 'mine', 'key.pem': 'mine' }],
    ['stands alone', { 'cert.pem': 'mine' }]
  ]
  for (const [name, files] of own) {
    test(`ensureCertificates() keeps a cert.pem that ${name}`, async t => {
      const dir = await freshDir(t)
      put(dir, files)
      assert.equal(await ensureCertificates(dir, { hostname }, inDays(10_000)), 'kept')
      assert.deepEqual(await contents(dir), files)
    })
  }

  test('ensureCertificates() keeps a link to nowhere', { skip: process.platform === 'win32' }, async t => {
    const dir = await freshDir(t)
    symlinkSync('/nowhere/fullchain.pem', join(dir, 'cert.pem'))
    assert.equal(await ensureCertificates(dir, { hostname }), 'kept')
    assert.deepEqual(await readdir(dir), ['cert.pem'])
  })

  for (const [days, result] of [
    [789, 'kept'],
    [791, 'renewed'],
    [900, 'renewed']
  ] as const) {
    test(`ensureCertificates() after ${days} of 820 days: ${result}`, async t => {
      const dir = await freshDir(t)
      put(dir, made)
      const now = inDays(days)
      assert.equal(await ensureCertificates(dir, { hostname: 'renamed' }, now), result)
      const files = await assertWhole(dir)
      assert.ok(same(files, made, 'cacert.pem', 'cakey.pem'))
      if (result === 'kept') return assert.deepEqual(files, made)
      for (const name of names.slice(2)) assert.notEqual(files[name], made[name], name)
      assert.match(new X509Certificate(files['cert.pem']!).subjectAltName!, /DNS:renamed$/)
      assert.equal(certificateDaysLeft(files['cert.pem']!, now), 819)
      assert.equal(await ensureCertificates(dir, { hostname }, now), 'kept')
    })
  }

  for (const name of ['key.pem', 'cert.pem', 'client-key.pem', 'client-cert.pem']) {
    test(`ensureCertificates() finishes a renewal that was interrupted before ${name}`, async t => {
      const dir = await freshDir(t)
      put(dir, made)
      await interrupt(dir, name, inDays(800))
      assert.equal(await ensureCertificates(dir, { hostname }, inDays(800)), 'renewed')
      const files = await assertWhole(dir)
      assert.ok(same(files, made, 'cacert.pem', 'cakey.pem'), 'clients keep their authority')
    })
  }

  test('ensureCertificates() renews once more and no longer when its authority ends', async t => {
    const dir = await freshDir(t)
    put(dir, made)
    const results = []
    for (const days of [3500, 3640, 3640, 4000]) {
      results.push(await ensureCertificates(dir, { hostname }, inDays(days)))
    }
    assert.deepEqual(results, ['renewed', 'kept', 'kept', 'kept'])
    const files = await assertWhole(dir)
    const [ca, server] = ['cacert.pem', 'cert.pem'].map(f => new X509Certificate(files[f]!))
    assert.equal(server!.validTo, ca!.validTo)
  })

  test("ensureCertificates() does not renew without the authority's key, nor what another authority issued", async t => {
    const other = await freshDir(t)
    await ensureCertificates(other, { hostname })
    const { 'cacert.pem': cacert, 'cakey.pem': cakey } = await contents(other)
    const { 'cakey.pem': _, ...withoutKey } = made
    for (const files of [withoutKey, { ...made, 'cacert.pem': cacert!, 'cakey.pem': cakey! }]) {
      const dir = await freshDir(t)
      put(dir, files)
      assert.equal(await ensureCertificates(dir, { hostname }, inDays(900)), 'kept')
      assert.deepEqual(await contents(dir), files)
    }
  })

  test("ensureCertificates() renews the server's certificate beside a client's that is the user's", async t => {
    const dir = await freshDir(t)
    put(dir, { ...made, 'client-key.pem': 'mine' })
    assert.equal(await ensureCertificates(dir, { hostname }, inDays(900)), 'renewed')
    const files = await contents(dir)
    assert.ok(same(files, made, 'client-cert.pem') && files['client-key.pem'] === 'mine')
    assert.notEqual(files['cert.pem'], made['cert.pem'])
  })

  test('ensureCertificates() says what the system refused', async t => {
    const dir = join(await freshDir(t), 'file')
    writeFileSync(dir, '')
    const message = /^cannot make certificates in .*: EEXIST/
    await assert.rejects(ensureCertificates(dir, { hostname }), { name: 'BrokerError', code: 'UNAVAILABLE', message })
  })

  test('certificateDaysLeft() counts whole days, below 0 after the end', () => {
    const pem = made['cert.pem']!
    const end = Date.parse(new X509Certificate(pem).validTo)
    const at = (days: number): Date => new Date(end - days * day)
    assert.equal(certificateDaysLeft(pem), 819)
    assert.equal(certificateDaysLeft(Buffer.from(pem + made['cacert.pem']!), at(30)), 30)
    assert.equal(certificateDaysLeft(pem, at(0.5)), 0)
    assert.equal(certificateDaysLeft(pem, at(-0.5)), -1)
    assert.throws(() => certificateDaysLeft('mine'))
  })

  interface Watched {
    readonly dir: string
    readonly calls: () => number
    /** Has it look, and says how long it would wait for the next time. */
    readonly look: () => Promise<number>
    /** The look that waits for its time. */
    readonly next: () => void
    readonly stop: () => void
  }

  /** The test is the clock: it looks when it is told to. */
  async function watched(t: TestContext, prepare: (dir: string) => void): Promise<Watched> {
    const dir = await freshDir(t)
    prepare(dir)
    let calls = 0
    let due: { look: () => void; ms: number } | undefined
    const stop = watchFiles(
      ['cert.pem', 'key.pem'].map(f => join(dir, f)),
      () => calls++,
      (look, ms) => {
        due = { look, ms }
        return undefined
      }
    )
    t.after(stop)
    const next = (): void => {
      const { look } = due!
      due = undefined
      look()
    }
    const look = async (): Promise<number> => {
      next()
      return (await until('it has looked', () => due)).ms
    }
    return { dir, calls: () => calls, look, next, stop }
  }

  const pair = (dir: string): void => put(dir, { 'cert.pem': 'old', 'key.pem': 'old' })
  const changes: readonly [string, (dir: string) => void, (dir: string, look: Watched['look']) => unknown][] = [
    ['a write in place', pair, dir => put(dir, { 'cert.pem': 'newer' })],
    [
      'a rename of the same size and time',
      dir => {
        pair(dir)
        put(dir, { new: 'new' })
        for (const name of ['cert.pem', 'new']) utimesSync(join(dir, name), 1e9, 1e9)
      },
      dir => renameSync(join(dir, 'new'), join(dir, 'cert.pem'))
    ],
    [
      'a directory link that is switched',
      dir => {
        for (const version of ['1', '2']) {
          mkdirSync(join(dir, version))
          pair(join(dir, version))
        }
        symlinkSync('1', join(dir, 'data'))
        for (const name of ['cert.pem', 'key.pem']) symlinkSync(join('data', name), join(dir, name))
      },
      dir => {
        symlinkSync('2', join(dir, 'data.new'))
        renameSync(join(dir, 'data.new'), join(dir, 'data'))
      }
    ],
    [
      'two files, one after the other',
      pair,
      async (dir, look) => {
        put(dir, { 'key.pem': 'newer' })
        await look()
        put(dir, { 'cert.pem': 'newer' })
      }
    ],
    [
      'a file that is away for a while',
      pair,
      async (dir, look) => {
        put(dir, { 'key.pem': 'newer' })
        rmSync(join(dir, 'cert.pem'))
        for (let i = 0; i < 3; i++) await look()
        put(dir, { 'cert.pem': 'newer' })
      }
    ],
    ['a file that was not there', () => {}, pair]
  ]
  for (const [name, prepare, change] of changes) {
    test(`watchFiles() tells once of ${name}`, { skip: process.platform === 'win32' }, async t => {
      const { dir, calls, look } = await watched(t, prepare)
      const usual = await look()
      assert.equal(calls(), 0)
      await change(dir, look)
      assert.ok((await look()) < usual, 'it looks again soon')
      assert.equal(calls(), 0, 'not before it has settled')
      assert.equal(await look(), usual)
      assert.equal(calls(), 1)
      await look()
      assert.equal(calls(), 1)
    })
  }

  test('watchFiles() tells of nothing when a file goes away or comes back as it was', async t => {
    const { dir, calls, look } = await watched(t, pair)
    renameSync(join(dir, 'key.pem'), join(dir, 'away'))
    for (let i = 0; i < 3; i++) await look()
    renameSync(join(dir, 'away'), join(dir, 'key.pem'))
    for (let i = 0; i < 3; i++) await look()
    assert.equal(calls(), 0)
  })

  test('watchFiles() is silent once stopped, also between a change and its call', async t => {
    const { dir, calls, look, next, stop } = await watched(t, pair)
    put(dir, { 'cert.pem': 'newer' })
    await look()
    stop()
    next()
    await setTimeout(100)
    assert.equal(calls(), 0)
  })
})
