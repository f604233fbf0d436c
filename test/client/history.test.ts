// clients why: each way a connection can end is told, after it is gone; what is kept is bounded.
import assert from 'node:assert/strict'
import net from 'node:net'
import test from 'node:test'
import { ConnectionHistory, type ConnectionRecord } from '../../src/client/history.js'
import { begin } from '../support/cli.js'
import {
  connectPacket,
  next,
  packet,
  RawClient,
  type Running,
  Speaker,
  startServer,
  text,
  until
} from '../support/server.js'

const attempt = (clientId: string, address = '10.0.0.1', more: Partial<ConnectionRecord> = {}): ConnectionRecord => ({
  at: new Date(),
  clientId,
  username: undefined,
  peer: { address, port: 1 },
  listener: 'tcp:x',
  version: 4,
  accepted: true,
  endedAt: undefined,
  end: undefined,
  why: undefined,
  ...more
})

test('ConnectionHistory keeps ten of an id and ten thousand in all, and forgets first the one that it has not seen for longest', () => {
  const history = new ConnectionHistory()
  for (let i = 0; i < 100; i++) history.add(attempt('busy', '10.0.0.2', { version: i }))
  assert.deepEqual(
    history.of('busy', undefined).map(a => a.version),
    [90, 91, 92, 93, 94, 95, 96, 97, 98, 99]
  )
  history.add(attempt('first'))
  for (let i = 0; i < 9989; i++) history.add(attempt(`c${i}`))
  assert.equal(history.size, 10_000)
  history.add(attempt('busy'))
  history.add(attempt('one more'))
  assert.equal(history.size, 10_000)
  assert.deepEqual(history.of('first', undefined), [])
  assert.equal(history.of('busy', undefined).length, 10)
  assert.equal(history.of('10.0.0.2', '10.0.0.2').length, 9)
})

test('ConnectionHistory keeps no more of a long text than fits a line', () => {
  const history = new ConnectionHistory()
  const long = 'x'.repeat(60_000)
  history.add(attempt(long, '10.0.0.1', { username: long, why: long }))
  const [kept] = history.of(long, undefined)
  assert.deepEqual([kept!.clientId.length, kept!.username!.length, kept!.why!.length], [200, 200, 200])
})

async function why(running: Running, clientId: string, count = 1) {
  return await until(`${count} connections of ${clientId} have ended`, async () => {
    const rows = await running.admin.call('clients why', { clientId }).catch(() => [])
    return rows.filter(row => row.ended_at !== null).length >= count ? rows : undefined
  })
}

test('how a connection ended is remembered, and why', async t => {
  const running = await startServer(t, { conf: 'mqtt.client.idle_timeout = 30s' })
  running.server.hooks.scope('x').on('client.authenticate', ({ username }) => {
    if (username === 'away') throw new Error('no database')
    return username === 'bad' ? 'deny' : 'allow'
  })
  const { admin } = running
  const last = async (clientId: string) => {
    const { accepted, end, why: what } = (await why(running, clientId)).at(-1)!
    return [accepted, end, what]
  }

  const door = await Speaker.connect(t, running, { id: 'door' })
  door.send(packet(0xe0))
  assert.deepEqual(await last('door'), [true, 'normal', null])

  const one = await Speaker.connect(t, running, { id: 'twice' })
  const other = await Speaker.connect(t, running, { id: 'twice', version: 5 })
  await one.raw.closed
  const peer = `127.0.0.1:${other.raw.socket.localPort}`
  const [gone, there] = await why(running, 'twice')
  assert.deepEqual([gone!.end, gone!.why], ['takeover', `by ${peer} on tcp:test`])
  assert.deepEqual([there!.end, there!.ended_at, there!.proto_ver, there!.peername], [null, null, 5, peer])

  await Speaker.connect(t, running, { id: 'kick' })
  await admin.call('clients kick', { clientId: 'kick' })
  assert.deepEqual(await last('kick'), [true, 'kicked', null])

  await Speaker.connect(t, running, { id: 'ban' })
  await admin.call('banned add', { as: 'clientid', who: 'ban', reason: 'loud' })
  assert.deepEqual(await last('ban'), [true, 'banned', 'banned: clientid ban, loud'])
  await Speaker.connect(t, running, { id: 'ban' })
  assert.equal((await why(running, 'ban', 2)).at(-1)!.end, 'refused')

  const login = async (id: string, username: string): Promise<void> => {
    const raw = await RawClient.connect(t, running)
    raw.send(packet(0x10, text('MQTT'), 4, 0x82, 0, 0, text(id), text(username)))
    await raw.closed
  }
  await login('wrong', 'bad')
  assert.deepEqual(await last('wrong'), [false, 'refused', 'wrong user name or password'])
  assert.equal((await why(running, 'wrong'))[0]!.username, 'bad')
  await login('db', 'away')
  assert.deepEqual(await last('db'), [false, 'refused', 'an authenticator failed'])

  const evil = await Speaker.connect(t, running, { id: 'evil' })
  evil.send(packet(0x82, 0, 0, text('a'), 0))
  assert.deepEqual(await last('evil'), [true, 'protocol_error', 'packet identifier 0'])

  const web = await RawClient.connect(t, running)
  web.send('GET / HTTP/1.1\r\n\r\n')
  await web.closed
  const http = (await why(running, '127.0.0.1', 9)).find(row => row.client_id === '')!
  assert.deepEqual([http.end, http.why], ['protocol_error', 'this looks like HTTP; connect to the ws listener'])
})

test('a keep alive that was missed, and those who do not come to CONNECT, are told as such', async t => {
  const running = await startServer(t, { conf: 'mqtt.client.idle_timeout = 3s' })
  const quiet = await RawClient.connect(t, running)
  quiet.send(connectPacket({ id: 'quiet', keepAlive: 1 }))
  await RawClient.connect(t, running)
  const [row] = await why(running, 'quiet')
  assert.deepEqual([row!.end, row!.why], ['keepalive_timeout', 'its keep alive is 1 s'])
  const idle = (await why(running, '127.0.0.1', 2)).find(({ client_id }) => client_id === '')!
  assert.deepEqual([idle.accepted, idle.end, idle.proto_ver], [false, 'idle_timeout', 0])
})

test('those who are turned away before MQTT are found by their address', async t => {
  const running = await startServer(t, {
    conf: 'listener.tcp.test = 127.0.0.1:0\nlistener.tcp.test.access.1 = deny 127.0.0.1'
  })
  const socket = net.connect(running.port, '127.0.0.1')
  t.after(() => void socket.destroy())
  await next(socket, 'close')
  const [row] = await why(running, '127.0.0.1')
  assert.deepEqual(
    [row!.client_id, row!.accepted, row!.end, row!.why],
    ['', false, 'turned_away', 'denied by an access rule']
  )
})

test('broker-ctl clients why prints a line for each, and 1 when it knows nothing', async t => {
  const running = await startServer(t)
  const ctl = (...args: string[]) => begin('broker-ctl', ['--home', running.home.root, 'clients', 'why', ...args]).ended
  const none = await ctl('lamp')
  assert.deepEqual([none.code, none.out, none.err], [1, '', 'no connection of lamp is remembered\n'])
  await Speaker.connect(t, running, { id: 'lamp' })
  await running.admin.call('clients kick', { clientId: 'lamp' })
  await running.admin.call('banned add', { as: 'clientid', who: 'lamp', reason: 'too loud' })
  await Speaker.connect(t, running, { id: 'lamp', version: 5 })
  await running.admin.call('banned del', { as: 'clientid', who: 'lamp' })
  await Speaker.connect(t, running, { id: 'lamp', version: 3 })
  await why(running, 'lamp', 2)
  const { out } = await ctl('lamp')
  const shown = out
    .replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'TIME')
    .replace(/:\d{4,5}/g, ':PORT')
    .replace(/ \d s/g, ' N s')
  assert.equal(
    shown,
    `TIME lamp from 127.0.0.1:PORT on tcp:test, MQTT 3.1.1: accepted, ended after N s: kicked
TIME lamp from 127.0.0.1:PORT on tcp:test, MQTT 5: refused (banned: clientid lamp, too loud)
TIME lamp from 127.0.0.1:PORT on tcp:test, MQTT 3.1: accepted, and is connected
`
  )
})
