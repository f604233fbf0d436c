// Bans: who is kept out, where and with what words, and for how long.
import assert from 'node:assert/strict'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import test from 'node:test'
import { Banned } from '../../src/access/banned.js'
import { jsonRecordsIn } from '../../src/base/json-records.js'
import { begin } from '../support/cli.js'
import { connectPacket, makeHome, RawClient, Speaker, startServer, until } from '../support/server.js'

const suspect = { clientId: 'lamp', username: 'alice', address: '10.1.2.3' }

test('Banned.find() knows client ids, user names, addresses and networks, in any spelling', () => {
  for (const [kind, value] of [
    ['clientid', 'lamp'],
    ['username', 'alice'],
    ['ip', '10.1.2.3'],
    ['cidr', '10.1.0.0/16']
  ] as const) {
    const banned = new Banned()
    banned.add(kind, value)
    assert.equal(banned.find(suspect)?.kind, kind)
    assert.equal(banned.find({ clientId: 'alice', username: 'lamp', address: '10.2.0.1' }), undefined)
    banned.remove(kind, value)
    assert.equal(banned.find(suspect), undefined)
  }
  const banned = new Banned()
  banned.add('ip', 'FE80:0:0::1')
  assert.ok(banned.findAddress('fe80::1'))
  assert.equal(banned.findAddress('fe80::2'), undefined)
})

test('Banned.add() says what is wrong with its words', () => {
  const banned = new Banned()
  for (const [kind, value, terms, message] of [
    ['client', 'lamp', {}, 'expected clientid, username, ip, cidr, got "client"'],
    ['ip', '10.0.0.0/8', {}, 'expected an IP address, got "10.0.0.0/8"; a network is a cidr'],
    ['cidr', '10.0.0.0/33', {}, 'expected an IP address or a network such as 10.0.0.0/8, got "10.0.0.0/33"'],
    ['clientid', '', {}, 'a clientid must not be empty'],
    ['clientid', 'x', { for: 'soon' }, 'expected a time such as 30m, 1h or 7d after --for, got "soon"'],
    ['clientid', 'x', { until: 'soon' }, 'expected a date such as 2027-01-31T18:00:00Z after --until, got "soon"'],
    ['clientid', 'x', { until: '2001-01-01' }, '2001-01-01T00:00:00.000Z is over'],
    ['clientid', 'x', { for: '1h', until: '2101-01-01' }, '--for and --until exclude each other']
  ] as const) {
    assert.throws(() => banned.add(kind, value, terms), { code: 'BAD_REQUEST', message })
  }
  assert.deepEqual(banned.list(), [])
})

test('a ban is over by itself, also in the file; what is kept is for this user alone', async t => {
  const path = makeHome(t).path('data/banned.json')
  const banned = new Banned()
  t.after(() => banned.close())
  banned.open(jsonRecordsIn(path))
  banned.add('clientid', 'lamp', { reason: 'too loud' })
  const soon = new Date(Date.now() + 1000).toISOString()
  banned.add('username', 'alice', { until: soon })
  assert.equal(statSync(path).mode & 0o777, 0o600)
  assert.ok(banned.find({ ...suspect, clientId: 'x' }) !== undefined || Date.now() >= Date.parse(soon))
  await until('it is over', () => banned.find({ ...suspect, clientId: 'x' }) === undefined)
  await until('it is gone', () => !readFileSync(path, 'utf8').includes('alice'))
  const again = new Banned()
  t.after(() => again.close())
  again.open(jsonRecordsIn(path))
  assert.equal(again.find(suspect)?.reason, 'too loud')
  writeFileSync(path, '{')
  assert.throws(() => jsonRecordsIn(path), /cannot read .*banned\.json: .*; mend it, or remove it/)
})

test('a banned client is told so: CONNACK 5 in MQTT 3, 0x8A in MQTT 5, before anybody is asked', async t => {
  const running = await startServer(t)
  let asked = 0
  running.server.hooks.scope('test').on('client.authenticate', () => {
    asked++
    return 'allow'
  })
  await running.admin.call('banned add', { as: 'clientid', who: 'lamp' })
  for (const [version, code] of [
    [3, 5],
    [4, 5],
    [5, 0x8a]
  ] as const) {
    const speaker = await Speaker.connect(t, running, { id: 'lamp', version })
    assert.equal(speaker.connack.code, code)
    await speaker.raw.closed
  }
  assert.equal(asked, 0)
  assert.equal((await Speaker.connect(t, running, { id: 'door' })).connack.code, 0)
  assert.equal(asked, 1)
})

test('banned add kicks at once: DISCONNECT 0x8A for MQTT 5; also who is still being judged', async t => {
  const running = await startServer(t)
  const hooks = running.server.hooks.scope('test')
  hooks.on('client.authenticate', ({ clientId }) => (clientId === 'slow' ? new Promise(() => {}) : 'allow'))
  const five = await Speaker.connect(t, running, { id: 'five', version: 5 })
  const four = await Speaker.connect(t, running, { id: 'four' })
  const other = await Speaker.connect(t, running, { id: 'other' })
  const slow = await RawClient.connect(t, running)
  slow.send(Speaker.connectBytes({ id: 'slow', version: 5 }))
  await until('it is being judged', () => running.server.clients.connectionCount === 4)
  const add = (as: string, who: string) => running.admin.call('banned add', { as, who })
  assert.equal((await add('clientid', 'five')).kicked, 1)
  const bye = await five.next()
  assert.deepEqual([bye.type, bye.code], [14, 0x8a])
  assert.equal((await add('clientid', 'four')).kicked, 1)
  await four.raw.closed
  await until('its CONNECT was read', async () => (await add('clientid', 'slow')).kicked === 1)
  assert.deepEqual([...(await slow.read(4))], [0x20, 3, 0, 0x8a])
  assert.equal((await add('clientid', 'nobody')).kicked, 0)
  other.send(Buffer.from([0xc0, 0]))
  assert.equal((await other.next()).type, 13)
  const [listener] = await running.admin.call('listeners', {})
  assert.equal(listener!.shutdown_count['banned'], 2)
})

test('a banned user is refused also when only an exchange shows who that is', async t => {
  const running = await startServer(t)
  running.server.hooks.scope('test').authenticator('BADGE', () => ({
    start: () => ({ result: 'success', username: 'alice' }),
    next: () => ({ result: 'refuse' })
  }))
  const connect = () => Speaker.connect(t, running, { id: 'x', version: 5, properties: [[0x15, 'BADGE']] })
  assert.equal((await connect()).connack.code, 0)
  assert.equal((await running.admin.call('banned add', { as: 'username', who: 'alice' })).kicked, 1)
  assert.equal((await connect()).connack.code, 0x8a)
})

test('a banned address or network is turned away at the door', async t => {
  const running = await startServer(t)
  const inside = await Speaker.connect(t, running, { id: 'inside' })
  assert.equal((await running.admin.call('banned add', { as: 'cidr', who: '127.0.0.0/8' })).kicked, 1)
  await inside.raw.closed
  const raw = await RawClient.connect(t, running)
  raw.send(connectPacket())
  assert.equal((await raw.read(1)).length, 0)
  await until('it is logged', () => running.log.some(line => /turned away.*why=banned/.test(line)))
  await running.admin.call('banned del', { as: 'cidr', who: '127.0.0.0/8' })
  assert.equal((await Speaker.connect(t, running)).connack.code, 0)
})

test('broker-ctl banned prints one line each, and its options reach the broker', async t => {
  const { home } = await startServer(t)
  const ctl = (...args: string[]) => begin('broker-ctl', ['--home', home.root, ...args]).ended
  const added = await ctl('banned', 'add', 'clientid', 'lamp', '--until', '2101-01-01', '--reason', 'too loud')
  assert.deepEqual([added.code, added.out, added.err], [0, 'ok\n', ''])
  assert.equal((await ctl('banned', 'add', 'cidr', '10.0.0.0/8', '--for', '1h')).out, 'ok\n')
  const [one, other] = (await ctl('banned', 'list')).out.trim().split('\n')
  assert.match(one!, /^Banned\(clientid=lamp, at=\d{10}, until=4133980800, reason=too loud\)$/)
  assert.match(other!, /^Banned\(cidr=10\.0\.0\.0\/8, at=\d{10}, until=\d{10}\)$/)
  assert.deepEqual(Object.keys(JSON.parse((await ctl('banned', 'list', '--json')).out)[0]), [
    'as',
    'who',
    'at',
    'until',
    'reason'
  ])
  assert.equal((await ctl('banned', 'del', 'clientid', 'lamp')).out, 'ok\n')
  const none = await ctl('banned', 'del', 'clientid', 'lamp')
  assert.deepEqual([none.code, none.err], [1, 'Not Found.\n'])
  assert.equal((await ctl('banned', 'add', 'who', 'x')).code, 2)
})
