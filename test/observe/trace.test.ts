// Traces: which packets are written, how, and for how long; and that nothing secret is among them.
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import test from 'node:test'
import { begin } from '../support/cli.js'
import {
  client,
  lengthBytes,
  packet,
  publishPacket,
  type Running,
  Speaker,
  startServer,
  text,
  until
} from '../support/server.js'

type Line = Record<string, any>

/** The lines of a trace in JSON, once one of them is there. */
async function lines({ home }: Running, file: string, last: (line: Line) => boolean): Promise<Line[]> {
  const all = (): Line[] =>
    readFileSync(home.path(file), 'utf8')
      .split('\n')
      .filter(line => line !== '')
      .map(line => JSON.parse(line) as Line)
  await until('the line is written', () => all().some(last))
  return all()
}

const json = { file: 'x.log', format: 'json' }
const short = ({ direction, type, client_id }: Line): string => `${client_id} ${direction} ${type ?? ''}`.trim()
const packetsOf = (all: Line[]): string[] => all.filter(line => line['direction'] !== undefined).map(short)

test('a client’s trace has every packet of both directions, from its CONNECT to its end, and of nobody else', async t => {
  const running = await startServer(t)
  const { admin } = running
  assert.deepEqual(await admin.call('trace client', { clientId: 'lamp', ...json }), {
    kind: 'client',
    value: 'lamp',
    tracing: true,
    file: 'log/x.log',
    named: true
  })
  const other = await Speaker.connect(t, running, { id: 'other', version: 5 })
  const lamp = await Speaker.connect(t, running, { id: 'lamp', version: 5 })
  lamp.send(packet(0x82, 0, 7, 0, text('a/#'), 1))
  await lamp.nextOf(9)
  other.send(publishPacketOf5('a/b', 'secret? no: a payload'))
  const got = await lamp.nextOf(3)
  lamp.send(packet(0x40, got.id >> 8, got.id & 255))
  lamp.send(packet(0xc0))
  await lamp.nextOf(13)
  lamp.send(packet(0xe0))
  const all = await lines(running, 'log/x.log', line => line['direction'] === 'closed')
  assert.deepEqual(packetsOf(all), [
    'lamp recv CONNECT',
    'lamp send CONNACK',
    'lamp recv SUBSCRIBE',
    'lamp send SUBACK',
    'lamp send PUBLISH',
    'lamp recv PUBACK',
    'lamp recv PINGREQ',
    'lamp send PINGRESP',
    'lamp recv DISCONNECT',
    'lamp closed'
  ])
  const of = (type: string): Line => all.find(line => line['type'] === type)!
  assert.deepEqual(of('SUBSCRIBE')['filters'], [
    { filter: 'a/#', qos: 1, no_local: false, retain_as_published: false, retain_handling: 0 }
  ])
  assert.deepEqual(
    [of('SUBSCRIBE')['packet_id'], of('SUBACK')['codes'], of('CONNACK')['reason']],
    [7, [1], '0x00 SUCCESS']
  )
  const { topic, qos, retain, dup, payload, payload_size, size } = of('PUBLISH')
  assert.deepEqual(
    [topic, qos, retain, dup, payload, payload_size, size],
    ['a/b', 1, false, false, 'secret? no: a payload', 21, got.bytes.length]
  )
  assert.equal(statSync(running.home.path('log/x.log')).mode & 0o777, 0o600)
})

const publishPacketOf5 = (topic: string, payload: string, qos = 1): Buffer =>
  packet(0x30 | (qos << 1), text(topic), ...(qos > 0 ? [0, 9] : []), 0, Buffer.from(payload))

test('one who is connected is traced from now on, and not after off', async t => {
  const running = await startServer(t)
  const { admin } = running
  const lamp = await Speaker.connect(t, running, { id: 'lamp' })
  await admin.call('trace client', { clientId: 'lamp', ...json })
  lamp.send(packet(0xc0))
  await lamp.nextOf(13)
  await lines(running, 'log/x.log', line => line['type'] === 'PINGRESP')
  await admin.call('trace client', { clientId: 'lamp', file: 'off' })
  const ended = await lines(running, 'log/x.log', line => line['end'] === 'asked to')
  lamp.send(packet(0xc0))
  await lamp.nextOf(13)
  assert.deepEqual(packetsOf(ended), ['lamp recv PINGREQ', 'lamp send PINGRESP'])
  assert.deepEqual(await lines(running, 'log/x.log', () => true), ended)
  const channel = [...(await admin.call('trace list', {}))]
  assert.deepEqual(channel, [])
  await assert.rejects(admin.call('trace client', { clientId: 'lamp', file: 'off' }), {
    code: 'NOT_FOUND',
    message: 'stop tracing client lamp error: not_found.'
  })
})

test('a topic’s trace has each PUBLISH under the filter, from and to anyone, and nothing else', async t => {
  const running = await startServer(t, { conf: 'mqtt.max_topic_alias = 10' })
  const sub = await Speaker.connect(t, running, { id: 'sub' })
  sub.send(packet(0x82, 0, 1, text('#'), 0))
  await sub.nextOf(9)
  // An alias that was agreed on before the trace began.
  const pub = await Speaker.connect(t, running, { id: 'pub', version: 5 })
  const aliased = (topic: string, payload: string): Buffer =>
    packet(0x30, text(topic), 3, 0x23, 0, 4, Buffer.from(payload))
  pub.send(aliased('hall/lamp', 'early'))
  await sub.nextOf(3)
  await running.admin.call('trace topic', { topic: 'hall/+', ...json })
  pub.send(aliased('', 'on'), publishPacketOf5('kitchen/lamp', 'no', 0), publishPacketOf5('hall/door', 'open', 0))
  const all = await lines(running, 'log/x.log', l => l['direction'] === 'send' && l['topic'] === 'hall/door')
  assert.deepEqual(
    all.filter(l => l['direction']).map(l => [short(l), l['topic'], l['payload']]),
    [
      ['pub recv PUBLISH', 'hall/lamp', 'on'],
      ['pub recv PUBLISH', 'hall/door', 'open'],
      ['sub send PUBLISH', 'hall/lamp', 'on'],
      ['sub send PUBLISH', 'hall/door', 'open']
    ]
  )
  await running.admin.call('trace topic', { topic: 'hall/+', file: 'off' })
})

test('traces of a user and of an address mean whoever that is', async t => {
  const running = await startServer(t)
  await running.admin.call('trace user', { username: 'alice', file: 'user.log', format: 'json' })
  await running.admin.call('trace ip', { address: '127.0.0.0/8', file: 'ip.log', format: 'json' })
  const alice = await client(t, running, { clientId: 'a', username: 'alice' })
  const bob = await client(t, running, { clientId: 'b', username: 'bob' })
  await alice.endAsync()
  await bob.endAsync()
  const ip = await lines(running, 'log/ip.log', l => short(l) === 'b closed')
  const user = await lines(running, 'log/user.log', l => short(l) === 'a closed')
  assert.deepEqual(packetsOf(user), ['a recv CONNECT', 'a send CONNACK', 'a recv DISCONNECT', 'a closed'])
  assert.deepEqual([...new Set(ip.map(l => l['client_id']))].sort(), ['a', 'b', undefined])
})

test('no password and no authentication data is ever in a trace', async t => {
  const running = await startServer(t)
  await running.admin.call('trace ip', { address: '127.0.0.1', ...json })
  await running.admin.call('trace client', { clientId: 'x', file: 'x.txt' })
  const c = await client(t, running, { clientId: 'x', username: 'alice', password: 'hunter2' })
  await c.endAsync()
  const five = await Speaker.connect(t, running, {
    id: 'x',
    version: 5,
    properties: [
      [0x15, 'SCRAM-SHA-256'],
      [0x16, Buffer.from('hunter2-data')]
    ]
  })
  assert.equal(five.connack.code, 0x8c)
  const all = await lines(running, 'log/x.log', l => l['reason'] === '0x8c BAD_AUTHENTICATION_METHOD')
  const connects = all.filter(l => l['type'] === 'CONNECT')
  assert.deepEqual([connects[0]!['username'], connects[0]!['password']], ['alice', '******'])
  assert.deepEqual(connects[1]!['properties'], { authenticationMethod: 'SCRAM-SHA-256', authenticationData: '******' })
  const plain = readFileSync(running.home.path('log/x.txt'), 'utf8')
  assert.match(plain, /RECV CONNECT .* username=alice password=\*{6}/)
  for (const file of readdirSync(running.home.path('log'))) {
    const written = readFileSync(running.home.path(`log/${file}`), 'latin1')
    assert(!written.includes('hunter2') && !written.includes(Buffer.from('hunter2').toString('hex')), file)
  }
})

test('a line of text, byte for byte; a payload that is no text is shown in hexadecimal, and cut', async t => {
  const running = await startServer(t)
  const lamp = await Speaker.connect(t, running, { id: 'la mp' })
  await running.admin.call('trace client', { clientId: 'la mp', file: 'log/x.log', payload: '6' })
  lamp.send(publishPacket('a/b', 'äöüß', { qos: 1, id: 3 }))
  await lamp.nextOf(4)
  lamp.send(publishPacket('a/b', Buffer.from([1, 2, 3, 4, 5, 6, 7, 8]), { retain: true }))
  lamp.send(packet(0x82, 0, 1, text('x y'), 0))
  await lamp.nextOf(9)
  const file = running.home.path('log/x.log')
  await until('it is written', () => readFileSync(file, 'utf8').includes('SUBACK'))
  const peername = `127.0.0.1:${lamp.raw.socket.localPort}`
  const stamp = String.raw`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}`
  const written = readFileSync(file, 'utf8').split('\n')
  assert.match(written[0]!, new RegExp(`^# trace of client "la mp", ${stamp} until ${stamp}$`))
  assert.deepEqual(
    written.slice(1, -1).map(line => line.replace(new RegExp(`^${stamp} `), '')),
    [
      `"la mp"@${peername} RECV PUBLISH size=17 qos=1 retain=false dup=false topic=a/b packet_id=3 payload_size=8 payload="äöü"`,
      `"la mp"@${peername} SEND PUBACK size=4 packet_id=3`,
      `"la mp"@${peername} RECV PUBLISH size=15 qos=0 retain=true dup=false topic=a/b payload_size=8 payload_hex=010203040506`,
      `"la mp"@${peername} RECV SUBSCRIBE size=10 packet_id=1 filters=[{"filter":"x y","qos":0}]`,
      `"la mp"@${peername} SEND SUBACK size=5 packet_id=1 codes=[0]`
    ]
  )
})

test('a trace ends when its time is over or its file is full, and says so', async t => {
  const running = await startServer(t)
  const { admin } = running
  const lamp = await Speaker.connect(t, running, { id: 'lamp' })
  await admin.call('trace client', { clientId: 'lamp', ...json, for: '100ms' })
  await lines(running, 'log/x.log', l => l['end'] === 'its time is over')
  assert.deepEqual(await admin.call('trace list', {}), [])
  await admin.call('trace client', { clientId: 'lamp', file: 'full.log', format: 'json', size: '2KB' })
  for (let i = 0; i < 30; i++) lamp.send(packet(0xc0))
  await lines(running, 'log/full.log', l => l['end'] === 'the file is full')
  assert(statSync(running.home.path('log/full.log')).size < 2048 + 100)
  await assert.rejects(admin.call('trace client', { clientId: 'lamp', file: 'full.log', size: '1KB' }), /is full/)
  await until('both ends are logged', () => running.log.filter(l => l.includes('trace ends')).length === 2)
})

test('a trace goes to a file under log/, and to none that is something else', async t => {
  const running = await startServer(t)
  const { admin, home } = running
  await admin.call('trace client', { clientId: 'a', ...json })
  writeFileSync(home.path('log/broker.log'), 'a line of the log\n')
  for (const [terms, code, message] of [
    [{ file: '../x' }, 'BAD_REQUEST', 'expected a file under log/, got "../x"'],
    [{ file: '/etc/passwd' }, 'BAD_REQUEST', 'expected a file under log/, got "/etc/passwd"'],
    [{ file: 'broker.log' }, 'CONFLICT', `${home.path('log/broker.log')} is there already, and no trace`],
    [{ for: 'x' }, 'BAD_REQUEST', '--for: expected a duration such as 30s, 5m or 1h30m, got "x"'],
    [{ format: 'xml' }, 'BAD_REQUEST', '--format: expected text | json, got "xml"']
  ] as const) {
    await assert.rejects(admin.call('trace client', { clientId: 'b', ...terms }), { code, message })
  }
  await assert.rejects(admin.call('trace topic', { topic: 'a/#/b' }), /expected a topic filter/)
  await assert.rejects(admin.call('trace ip', { address: 'here' }), /expected an IP address or a network/)
  assert.equal(readFileSync(home.path('log/broker.log'), 'utf8'), 'a line of the log\n')
  assert.equal((await admin.call('trace list', {})).length, 1)
})

test('a client cannot forge a line of a trace', async t => {
  const running = await startServer(t)
  const id = 'x\n2026-01-01 00:00:00.000 root@1.1.1.1:1 RECV CONNECT'
  await running.admin.call('trace ip', { address: '127.0.0.1', file: 'x.log' })
  const lamp = await Speaker.connect(t, running, { id })
  lamp.send(packet(0x30, text('a\u001b[2J b'), Buffer.from('c\nd\u009be')))
  const file = running.home.path('log/x.log')
  await until('it is written', () => readFileSync(file, 'utf8').includes('RECV PUBLISH'))
  const written = readFileSync(file, 'utf8')
  assert.equal(written.split('\n').length, 5)
  assert(!/[\u001b\u009b]/.test(written))
})

test('broker-ctl trace prints emqttd’s lines', async t => {
  const { home } = await startServer(t)
  const ctl = async (...args: string[]): Promise<string> => {
    const { code, out, err } = await begin('broker-ctl', ['--home', home.root, 'trace', ...args]).ended
    return `${out}${err}${code}`
  }
  assert.equal(await ctl('list'), '0')
  assert.equal(await ctl('client', 'sub1', 'log/sub1_trace.log'), 'trace client sub1 successfully.\n0')
  assert.equal(await ctl('client', 'sub1', 'log/sub1_trace.log'), 'trace client sub1 successfully.\n0')
  assert.equal(await ctl('topic', 'sensor/#', 'log/topic_trace.log'), 'trace topic sensor/# successfully.\n0')
  assert.equal(
    await ctl('list'),
    'trace client sub1 -> log/sub1_trace.log\ntrace topic sensor/# -> log/topic_trace.log\n0'
  )
  assert.equal(await ctl('client', 'sub1', 'off'), 'stop tracing client sub1 successfully.\n0')
  assert.equal(await ctl('client', 'sub1', 'off'), 'stop tracing client sub1 error: not_found.\n1')
  assert.equal(await ctl('topic', 'sensor/#', 'off'), 'stop tracing topic sensor/# successfully.\n0')
  assert.match(
    await ctl('user', 'al/ice', '--for', '5m', '--format', 'json'),
    /^trace user al\/ice successfully\.\ntrace user al\/ice -> log\/trace_user_al_ice_\d{8}-\d{6}\.log\n0$/
  )
})

test('a packet of many bytes that is sent is cut off from the next', async t => {
  const running = await startServer(t)
  const lamp = await Speaker.connect(t, running, { id: 'lamp' })
  lamp.send(packet(0x82, 0, 1, text('a'), 0))
  await lamp.nextOf(9)
  await running.admin.call('trace client', { clientId: 'lamp', ...json, payload: '0' })
  for (const size of [100, 200, 20_000]) lamp.send(publishPacket('a', Buffer.alloc(size)))
  const all = await lines(running, 'log/x.log', l => l['direction'] === 'send' && l['payload_size'] === 20_000)
  const sent = all.filter(l => l['direction'] === 'send').map(l => [l['payload_size'], l['size']])
  assert.deepEqual(
    sent,
    [100, 200, 20_000].map(n => [n, 1 + lengthBytes(n + 3).length + 3 + n])
  )
})
