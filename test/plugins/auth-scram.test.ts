// auth_scram over real sockets, with a client of SCRAM that shares nothing with the broker.
import assert from 'node:assert/strict'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import test, { type TestContext } from 'node:test'
import { begin, type Ended } from '../support/cli.js'
import { ScramClient, type ScramClientOptions } from '../support/scram.js'
import {
  type Got,
  type Property,
  packet,
  propertyBytes,
  type Running,
  Speaker,
  type SpeakerOptions,
  startServer
} from '../support/server.js'

const METHOD = 0x15
const DATA = 0x16
const method: Property = [METHOD, 'SCRAM-SHA-256']

const auth = (reason: number, data: string): Buffer => packet(0xf0, reason, propertyBytes([method, [DATA, data]]))
const dataOf = ({ properties }: Got): string => String(properties.find(([id]) => id === DATA)?.[1])

/** With lamp, whose password is `secret`, and root, a superuser. */
async function start(t: TestContext, conf = ''): Promise<Running> {
  const running = await startServer(t, {
    acl: '{deny, {user, "lamp"}, publish, ["secret/#"]}.\n{allow, all}.\n',
    plugins: { 'auth-scram': `auth.scram.iterations = 4096\nauth.scram.superusers = root\n${conf}` }
  })
  await running.server.plugins.load('auth_scram')
  await running.admin.call('scram add', { username: 'lamp', password: 'secret' })
  await running.admin.call('scram add', { username: 'root', password: 'toor' })
  return running
}

interface Login extends SpeakerOptions, ScramClientOptions {
  /** Spoils the client's last message. */
  readonly spoil?: (final: string) => string
}

/** A whole handshake within CONNECT; the answer to its last message is the connack. */
async function login(t: TestContext, to: Running, name: string, password: string, options: Login = {}) {
  const scram = new ScramClient(name, password, options)
  const properties = [method, [DATA, scram.first] as Property]
  const speaker = await Speaker.connect(t, to, { version: 5, id: 'c', ...options, properties })
  if (speaker.connack.type !== 15) return { speaker, scram, challenge: '', final: '' }
  assert.equal(speaker.connack.code, 0x18)
  const challenge = dataOf(speaker.connack)
  const final = (options.spoil ?? (same => same))(scram.final(challenge))
  speaker.send(auth(0x18, final))
  speaker.connack = await speaker.next()
  return { speaker, scram, challenge, final }
}

const codeOf = async (t: TestContext, to: Running, name: string, password: string, options?: Login) => {
  const { speaker } = await login(t, to, name, password, options)
  const { type, code } = speaker.connack
  assert.equal(type, 2)
  return code
}

test('a user comes in with the right password, and CONNACK has the server’s proof', async t => {
  const running = await start(t)
  const { speaker, scram, challenge } = await login(t, running, 'lamp', 'secret')
  assert.match(challenge, /,i=4096$/)
  assert.deepEqual([speaker.connack.type, speaker.connack.code], [2, 0])
  assert.equal(dataOf(speaker.connack), scram.expected)
  assert.equal(running.server.clients.client('c').username, 'lamp')
  assert.equal((await speaker.publish('secret/x', '', { qos: 1 })).code, 0x87)

  const root = await login(t, running, 'root', 'toor', { id: 'r', gs2: 'y,,' })
  assert.equal(root.speaker.connack.code, 0)
  assert.equal((await root.speaker.publish('secret/x', '', { qos: 1 })).code, 0x10, 'a superuser')
})

test('nobody else comes in, and all refusals are alike', async t => {
  const running = await start(t)
  const earlier = await login(t, running, 'lamp', 'secret')
  earlier.speaker.send(packet(0xe0))
  await earlier.speaker.raw.closed
  const rows: [title: string, name: string, password: string, options?: Login][] = [
    ['a wrong password', 'lamp', 'wrong'],
    ['a user who is not known', 'nobody', 'secret'],
    ['channel binding', 'lamp', 'secret', { gs2: 'p=tls-exporter,,' }],
    ['on behalf of another', 'lamp', 'secret', { gs2: 'n,a=root,' }],
    ['an answer of before', 'lamp', 'secret', { spoil: () => earlier.final }],
    ['not a message', 'lamp', 'secret', { spoil: () => 'let me in' }],
    ['nothing', 'lamp', 'secret', { spoil: () => '' }]
  ]
  for (const [title, ...row] of rows) assert.equal(await codeOf(t, running, ...row), 0x87, title)
  // What is said to somebody who is not known has the form and, asked again, the salt of somebody who is.
  const nonceless = (challenge: string) => challenge.replace(/^r=[^,]+/, '')
  const [a, b, known] = [
    (await login(t, running, 'nobody', 'x')).challenge,
    (await login(t, running, 'nobody', 'y')).challenge,
    earlier.challenge
  ]
  assert.equal(nonceless(a), nonceless(b))
  assert.equal(a.length - nonceless(a).length, known.length - nonceless(known).length)
  assert.equal(nonceless(a).length, nonceless(known).length)
  await running.server.plugins.reload('auth_scram')
  assert.equal(nonceless((await login(t, running, 'nobody', 'x')).challenge), nonceless(a), 'also after a reload')
  assert.equal(running.server.clients.clientCount, 0)
})

test('a client may leave the first word to the server', async t => {
  const running = await start(t)
  const scram = new ScramClient('lamp', 'secret')
  const speaker = await Speaker.connect(t, running, { version: 5, id: 'c', properties: [method] })
  assert.deepEqual([speaker.connack.type, speaker.connack.properties], [15, [method]])
  speaker.send(auth(0x18, scram.first))
  speaker.send(auth(0x18, scram.final(dataOf(await speaker.next()))))
  const connack = await speaker.next()
  assert.deepEqual([connack.type, connack.code, dataOf(connack)], [2, 0, scram.expected])
})

test('a client authenticates anew, and is ended when it cannot', async t => {
  const running = await start(t)
  const { speaker } = await login(t, running, 'lamp', 'secret')
  const anew = async (name: string, password: string): Promise<[Got, string]> => {
    const scram = new ScramClient(name, password)
    speaker.send(auth(0x19, scram.first))
    const final = scram.final(dataOf(await speaker.nextOf(15)))
    await speaker.publish('a', '', { qos: 1 })
    speaker.send(auth(0x18, final))
    return [await speaker.next(), scram.expected]
  }
  const [done, expected] = await anew('lamp', 'secret')
  assert.deepEqual([done.type, done.code, dataOf(done)], [15, 0, expected])
  const [failed] = await anew('lamp', 'wrong')
  assert.deepEqual([failed.type, failed.code], [14, 0x87])
  assert.equal((await speaker.next()).type, 0)
})

test('clients without the method are refused, or left to other plugins', async t => {
  const running = await start(t)
  assert.equal((await Speaker.connect(t, running, { version: 4, id: 'p' })).connack.code, 4)
  assert.equal((await Speaker.connect(t, running, { version: 5, id: 'p' })).connack.code, 0x86)
  await running.server.plugins.unload('auth_scram')
  assert.equal(await codeOf(t, running, 'lamp', 'secret'), 0x8c)
  assert.equal((await Speaker.connect(t, running, { version: 5, id: 'p' })).connack.code, 0)
})

test('the file keeps verifiers only, for the broker alone, and what was written by hand', async t => {
  const running = await start(t)
  const path = running.home.path('data/scram_users')
  const read = () => readFileSync(path, 'utf8')
  assert.equal(statSync(path).mode & 0o777, 0o600)
  assert.match(read(), /^(SCRAM-SHA-256\$4096:[\w+/]{22}==\$[\w+/]{43}=:[\w+/]{43}= (lamp|root)\n){2}$/)
  assert(!read().includes('secret'))

  // RFC 7677's user, with the form that PostgreSQL has for it
  const user =
    'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU= user\n'
  writeFileSync(path, `# by hand\n\n${user}${read()}`)
  assert.equal(await codeOf(t, running, 'user', 'pencil'), 0x87, 'not before a reload')
  await running.server.plugins.reload('auth_scram')
  assert.equal(await codeOf(t, running, 'user', 'pencil'), 0)
  await running.admin.call('scram add', { username: 'a,b =c', password: 'p' })
  await running.admin.call('scram add', { username: 'lamp', password: 'new' })
  await running.admin.call('scram del', { username: 'root' })
  assert(read().startsWith(`# by hand\n\n${user}`))
  assert.equal(await codeOf(t, running, 'a,b =c', 'p'), 0)
  assert.equal(await codeOf(t, running, 'lamp', 'new'), 0)
  assert.equal(await codeOf(t, running, 'lamp', 'secret'), 0x87)
  assert.equal(await codeOf(t, running, 'root', 'toor'), 0x87)
})

test('a file that cannot be read is said with its line, and refuses everybody with 0x88', async t => {
  const running = await start(t)
  const path = running.home.path('data/scram_users')
  const good = readFileSync(path, 'utf8')
  for (const [bad, problem] of [
    ['lamp:secret\n', /scram_users:3: expected SCRAM-SHA-256\$.*\(auth\.scram\.file\)/],
    [good, /scram_users:3: user "lamp" is there twice/]
  ] as const) {
    writeFileSync(path, good + bad)
    await assert.rejects(running.admin.call('scram add', { username: 'x', password: 'x' }), problem)
    assert.equal(await codeOf(t, running, 'lamp', 'secret'), 0, 'what is in force stays')
    await assert.rejects(running.server.plugins.reload('auth_scram'), problem)
    assert.equal(await codeOf(t, running, 'lamp', 'secret'), 0x88)
    assert.match((await running.server.plugins.list())[0]!.trouble ?? '', problem)
    writeFileSync(path, good)
    await running.server.plugins.reload('auth_scram')
    assert.equal(await codeOf(t, running, 'lamp', 'secret'), 0)
  }
})

test('broker-ctl scram adds, lists and deletes users; the password comes from standard input', async t => {
  const running = await start(t)
  const ctl = (args: string[], input?: string): Promise<Ended> =>
    begin('broker-ctl', ['--home', running.home.root, 'scram', ...args], input === undefined ? {} : { input }).ended
  const added = await ctl(['add', 'meter'], 'pass phrase\nmore\n')
  assert.deepEqual([added.code, added.out, added.err], [0, 'ok\n', ''])
  assert.equal(await codeOf(t, running, 'meter', 'pass phrase'), 0)
  assert.equal((await ctl(['list'])).out, 'lamp\nmeter\nroot\n')
  assert.deepEqual(JSON.parse((await ctl(['list', '--json'])).out), [
    { username: 'lamp', iterations: 4096, superuser: false },
    { username: 'meter', iterations: 4096, superuser: false },
    { username: 'root', iterations: 4096, superuser: true }
  ])
  assert.equal((await ctl(['del', 'meter'])).out, 'ok\n')
  assert.equal(await codeOf(t, running, 'meter', 'pass phrase'), 0x87)

  for (const [args, input, status, error] of [
    [['del', 'meter'], undefined, 1, /^Not Found\.\n$/],
    [['add', 'meter'], '', 2, /no password was given/],
    [['add', 'meter'], '\n', 2, /a password must not be empty/],
    [['add', 'a\nb'], 'x\n', 2, /a user name must not be empty, nor have control/]
  ] as const) {
    const { code, err } = await ctl([...args], input)
    assert.equal(code, status, err)
    assert.match(err, error)
  }
  await assert.rejects(running.admin.call('scram add', { username: 'x' }), /missing argument "password"/)
  await running.server.plugins.unload('auth_scram')
  const away = await ctl(['list'])
  assert.deepEqual([away.code, away.err], [1, "Please 'broker-ctl plugins load auth_scram' first.\n"])
})
