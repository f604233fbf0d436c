// Limits and promises of one client's connection and session, from end to end; in parts they are tested beside their files.
import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type Got,
  type Property,
  pingreq,
  RawClient,
  type Running,
  Speaker,
  startServer,
  until
} from '../support/server.js'

const of = (packets: readonly Got[], type: number): Got[] => packets.filter(got => got.type === type)
const value = ({ properties }: Got, id: number): Property[1] | undefined => properties.find(p => p[0] === id)?.[1]
const says = (server: Running, pattern: RegExp): string[] => server.log.filter(line => pattern.test(line))

/** A subscriber with QoS 2 that takes what comes and says nothing, and a publisher. */
async function silent(t: TestContext, server: Running, version: 4 | 5): Promise<Speaker> {
  const to = await Speaker.connect(t, server, { version, id: `silent${version}` })
  await to.subscribe([[`t${version}`, 2]])
  return to
}

describe('limits', { concurrency: true }, () => {
  test('mqtt.session.retry_interval: MQTT 3.1.1 gets it again with DUP on the same connection, MQTT 5 does not [MQTT-4.4.0-1]', async t => {
    const server = await startServer(t, { conf: 'mqtt.session.retry_interval = 500ms' })
    const [old, five] = [await silent(t, server, 4), await silent(t, server, 5)]
    const from = await Speaker.connect(t, server)
    for (const topic of ['t4', 't5']) {
      await from.publish(topic, 'one', { qos: 1 })
      await from.publish(topic, 'two', { qos: 2 })
    }
    // On a slow machine more of them come again, and more than once.
    const publication = async (dup: boolean, payload: string): Promise<Got> => {
      for (;;) {
        const got = await old.nextOf(3)
        if (got.dup === dup && got.payload === payload) return got
      }
    }
    const first = [await publication(false, 'one'), await publication(false, 'two')]
    old.send(old.ack(5, first[1]!.id))
    await old.nextOf(6)
    const again = await publication(true, 'one')
    assert.deepEqual([again.dup, again.id, again.payload], [true, first[0]!.id, 'one'])
    assert.equal((await old.nextOf(6)).id, first[1]!.id)
    old.send(old.ack(4, again.id), old.ack(7, first[1]!.id))
    await old.heard()
    assert.deepEqual(
      of(await five.heard(), 3).map(({ dup, payload }) => [dup, payload]),
      [
        [false, 'one'],
        [false, 'two']
      ]
    )
    const session = server.server.clients.session('silent4')
    assert.deepEqual([session.inflightLength, session.delivered], [0, 2])
  })

  test('mqtt.session.await_rel_timeout: an id that is not released makes room after it, for MQTT 3.1.1', async t => {
    const server = await startServer(t, { conf: 'mqtt.session.await_rel_timeout = 300ms' })
    const old = await Speaker.connect(t, server, { id: 'old' })
    const five = await Speaker.connect(t, server, { id: 'five', version: 5 })
    for (const one of [old, five]) {
      one.send(one.publication('t', 'a', { qos: 2, id: 5 }))
      await one.nextOf(5)
    }
    const waiting = (id: string): number => server.server.clients.session(id).awaitingRel.size
    await until('forgotten', () => waiting('old') === 0)
    assert.equal(waiting('five'), 1)
  })

  test('mqtt.mqueue: a queue over its high watermark is an alarm until it is low or the session ends', async t => {
    const conf =
      'mqtt.mqueue.max_length = 10\nmqtt.mqueue.high_watermark = 50%\nmqtt.mqueue.type = priority\nmqtt.mqueue.priority = u=3'
    const server = await startServer(t, { conf })
    const from = await Speaker.connect(t, server)
    for (const id of ['back', 'gone']) {
      const one = await Speaker.connect(t, server, { id, clean: false })
      await one.subscribe([
        ['t', 1],
        ['u', 1]
      ])
      await one.leave()
    }
    for (let i = 0; i < 5; i++) await from.publish('t', `${i}`, { qos: 1 })
    assert.deepEqual(await server.admin.call('alarms list', {}), [])
    await from.publish('u', 'urgent', { qos: 1 })
    const alarms = await server.admin.call('alarms list', {})
    assert.deepEqual(
      alarms.map(({ id, severity, details }) => [id, severity, details]),
      ['back', 'gone'].map(clientId => [`queue_high_watermark.${clientId}`, 'warning', { clientId, length: 6 }])
    )
    const back = await Speaker.connect(t, server, { id: 'back', clean: false })
    assert.deepEqual(await back.payloads(), ['urgent', '0', '1', '2', '3', '4'])
    await Speaker.connect(t, server, { id: 'gone', clean: true })
    const ids = async (): Promise<string[]> => (await server.admin.call('alarms history', {})).map(({ id }) => id)
    assert.deepEqual(await ids(), ['queue_high_watermark.gone'])
    await until('the other one', async () => (await ids()).length === 2)
    assert.deepEqual(await server.admin.call('alarms list', {}), [])
    assert.equal(says(server, /\[warning\] alarm: .* alarm=queue_high_watermark\.back/).length, 1)
    assert.equal(says(server, /\[info\] alarm is over: .* alarm=queue_high_watermark\.back/).length, 1)
  })

  test('mqtt.client.max_publish_rate: who publishes faster is slowed down, loses nothing and keeps order; nobody else is', async t => {
    const server = await startServer(t, { conf: 'mqtt.client.max_publish_rate = 10,10' })
    const [to, fast, other] = [
      await Speaker.connect(t, server),
      await Speaker.connect(t, server),
      await Speaker.connect(t, server)
    ]
    await to.subscribe([['#', 1]])
    const began = performance.now()
    fast.send(...Array.from({ length: 30 }, (_, i) => fast.publication('fast', `${i}`, { qos: 1, id: i + 1 })))
    const got: string[] = []
    while (got.length < 5) got.push((await to.nextOf(3)).payload)
    await other.publish('other', 'at once', { qos: 1 })
    while (got.length < 31) got.push((await to.nextOf(3)).payload)
    const took = performance.now() - began
    assert.deepEqual(
      got.filter(payload => payload !== 'at once'),
      Array.from({ length: 30 }, (_, i) => `${i}`)
    )
    assert.notEqual(got.at(-1), 'at once', 'another is not held up')
    // ten at once, twenty at ten a second
    assert.ok(took > 1700, `${took} ms`)
    for (let i = 0; i < 30; i++) assert.equal((await fast.nextOf(4)).id, i + 1)
    fast.send(pingreq)
    assert.equal((await fast.nextOf(13)).type, 13)
  })

  test('mqtt.check_payload_format: a payload that is not the text it says gets 0x99, and is not passed on (section 3.3.2.3.2)', async t => {
    const server = await startServer(t, { conf: 'mqtt.check_payload_format = on' })
    const to = await Speaker.connect(t, server, { version: 5 })
    await to.subscribe([['#', 2]])
    const from = await Speaker.connect(t, server, { version: 5 })
    const bad = Buffer.from([0x66, 0xff])
    const text: Property[] = [[0x01, 1]]
    for (const qos of [1, 2]) assert.equal((await from.publish('t', bad, { qos, properties: text })).code, 0x99)
    await from.publish('t', bad, { qos: 1, properties: [[0x01, 0]] })
    await from.publish('t', bad, { qos: 1 })
    await from.publish('t', 'grün', { qos: 2, properties: text })
    await from.publish('t', bad, { qos: 1, properties: [...text, [0x23, 1]] })
    from.send(from.publication('', 'through the alias', { properties: [[0x23, 1]] }))
    await from.heard()
    from.send(from.publication('t', bad, { properties: text }))
    const end = await from.next()
    assert.deepEqual([end.type, end.code, (await from.next()).type], [14, 0x99, 0])
    const got = of(await to.heard(), 3)
    assert.deepEqual(
      got.map(({ payload, properties }) => [payload, properties.length]),
      [
        ['f\ufffd', 1],
        ['f\ufffd', 0],
        ['grün', 1],
        ['through the alias', 0]
      ]
    )
    const will = (properties: Property[]) => ({ topic: 'w', payload: 'gr\ufffd', properties })
    const fine = await Speaker.connect(t, server, { version: 5, will: will(text) })
    assert.equal(fine.connack.code, 0)
    const bytes = Speaker.connectBytes({ version: 5, will: will(text) })
    bytes[bytes.length - 1] = 0xff
    const one = new Speaker(await RawClient.connect(t, server), 5)
    one.send(bytes)
    const answer = await one.next()
    assert.deepEqual([answer.type, answer.code, (await one.next()).type], [2, 0x99, 0])
    const careless = await startServer(t)
    const free = await Speaker.connect(t, careless, { version: 5 })
    assert.equal((await free.publish('t', bad, { qos: 1, properties: text })).code, 0x10)
  })

  test('mqtt.max_keepalive: MQTT 5 is told and held to it [MQTT-3.1.2-21] [MQTT-3.2.2-22], MQTT 3 keeps its own', async t => {
    const server = await startServer(t, { conf: 'mqtt.max_keepalive = 1s\nmqtt.keepalive_backoff = 0.5' })
    const kept = new Map<string, number>()
    server.server.hooks
      .scope('test')
      .on('client.connected', ({ clientId, keepAlive }) => void kept.set(clientId, keepAlive))
    const cases = [
      [5, 0, 1],
      [5, 60, 1],
      [5, 1, undefined],
      [4, 60, undefined],
      [4, 0, undefined]
    ] as const
    const all = await Promise.all(
      cases.map(([version, keepAlive]) =>
        Speaker.connect(t, server, { version, keepAlive, id: `${version}-${keepAlive}` })
      )
    )
    for (const [i, [, , told]] of cases.entries()) assert.equal(value(all[i]!.connack, 0x13), told)
    assert.equal(kept.get('5-60'), 1)
    for (const one of all.slice(0, 3)) assert.equal((await one.next()).code, 0x8d)
    const left = server.server.clients.clients().map(({ clientId }) => clientId)
    assert.deepEqual(left, ['4-0', '4-60'])
  })

  test('Maximum Packet Size: no CONNACK, SUBACK or UNSUBACK over it [MQTT-3.1.2-24]', async t => {
    const server = await startServer(t)
    const connect = (size: number, id = ''): Promise<Speaker> =>
      Speaker.connect(t, server, { version: 5, id, properties: [[0x27, size]] })
    const { length } = (await connect(1000)).connack.bytes
    assert.equal((await connect(length)).connack.bytes.length, length)
    const before = server.server.clients.sessions.size
    const refused = await connect(length - 1)
    assert.deepEqual([refused.connack.type, server.server.clients.sessions.size], [0, before], 'closed without a word')
    await until('the log', () => says(server, /CONNECT refused .*CONNACK/).length > 0)
    const filters = Array.from({ length: 30 }, (_, i) => [`f${i}`, 0] as const)
    for (const verb of ['subscribe', 'unsubscribe']) {
      const one = await connect(30, verb)
      assert.equal((await one.subscribe(filters.slice(0, 25))).length, 25)
      one.send(verb === 'subscribe' ? one.subscription(filters) : one.unsubscription(filters.map(([name]) => name)))
      const end = await one.next()
      assert.deepEqual([end.type, end.code, (await one.next()).type], [14, 0x95, 0])
    }
  })

  test('`a` and `$local/a` are two subscriptions: both identifiers, and one left when the other goes', async t => {
    const server = await startServer(t)
    const one = await Speaker.connect(t, server, { version: 5 })
    const from = await Speaker.connect(t, server)
    await one.subscribe([['a', 1]], [[0x0b, 1]])
    await one.subscribe([['$local/a', 2]], [[0x0b, 2]])
    const next = async (): Promise<[number, number[]]> => {
      await from.publish('a', 'x', { qos: 2 })
      const got = of(await one.heard(), 3)
      assert.equal(got.length, 1)
      for (const { id, qos } of got) one.send(one.ack(qos === 1 ? 4 : 5, id))
      const identifiers = got[0]!.properties.filter(([id]) => id === 0x0b).map(([, n]) => n as number)
      return [got[0]!.qos, identifiers.sort()]
    }
    assert.deepEqual(await next(), [2, [1, 2]])
    assert.deepEqual(await one.unsubscribe(['$local/a']), [0])
    assert.deepEqual(await next(), [1, [1]])
    assert.deepEqual(await one.unsubscribe(['a', '$local/a']), [0, 0x11])
    assert.equal(server.server.clients.dispatcher.router.size, 0)
  })

  test('a slow client that misses messages is in the log at once, not for each, and in clients show', async t => {
    const conf = 'mqtt.mqueue.max_length = 5\nmqtt.session.max_inflight = 1'
    const server = await startServer(t, { conf })
    const slow = await Speaker.connect(t, server, { id: 'slow' })
    await slow.subscribe([['t', 1]])
    const from = await Speaker.connect(t, server)
    for (let i = 0; i < 40; i++) await from.publish('t', `${i}`, { qos: 1 })
    assert.equal((await server.admin.call('clients show', { clientId: 'slow' })).session.mqueue_dropped, 34)
    assert.equal(
      says(server, /\[warning\] messages are dropped: the client is too slow clientId=slow dropped=1$/m).length,
      1
    )
    await sleep(10)
    assert.equal(says(server, /messages are dropped/).length, 1)
  })
})
