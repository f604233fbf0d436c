import assert from 'node:assert/strict'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import mqtt, { type IClientOptions, type IPublishPacket, type MqttClient } from 'mqtt'
import { createLog } from '../../src/base/log/log.js'
import { Server } from '../../src/server/server.js'
import { readSettings } from '../../src/server/settings.js'
import { makeHome, until } from '../support/server.js'

type Heard = [topic: string, payload: string, qos: number, retain: boolean]

function setUp(t: Parameters<typeof makeHome>[0], conf = '') {
  const home = makeHome(t, { conf: `mqtt.allow_anonymous = true\n${conf || 'store.type = lmdb'}` })
  const log: string[] = []
  let server: Server | undefined
  const clients = new Set<MqttClient>()
  t.after(async () => {
    for (const one of clients) one.end(true)
    await server?.stop('fast')
  })
  const start = async (): Promise<Server> => {
    const write = (line: string): void => void log.push(line)
    server = await Server.start({
      home,
      settings: readSettings(home, {}),
      log: createLog({ level: 'debug', format: 'text', write })
    })
    return server
  }
  return {
    home,
    log,
    start,
    async restart(): Promise<Server> {
      for (const one of clients) one.end(true)
      clients.clear()
      await server!.stop()
      return await start()
    },
    async client(clientId: string, options: IClientOptions = {}) {
      const one = mqtt.connect(`mqtt://127.0.0.1:${server!.listeners[0]!.port}`, {
        clientId,
        clean: false,
        reconnectPeriod: 0,
        ...options
      })
      const heard: Heard[] = []
      const packets: IPublishPacket[] = []
      one.on('message', (topic, payload, packet) => {
        heard.push([topic, payload.toString(), packet.qos, packet.retain])
        packets.push(packet)
      })
      clients.add(one)
      const present = await new Promise<boolean>((resolve, reject) => {
        one.once('connect', ({ sessionPresent }) => resolve(sessionPresent))
        one.once('error', reject)
      })
      return { one, heard, packets, present }
    }
  }
}

describe('over a restart', () => {
  test('a stored session has its subscriptions, and what came while its client was away, in order', async t => {
    const { start, restart, client } = setUp(t)
    await start()
    const { one } = await client('lamp')
    await one.subscribeAsync({ 'a/#': { qos: 2 }, '+/b': { qos: 1 } })
    await one.endAsync()
    const { one: from } = await client('from')
    for (let i = 0; i < 20; i++)
      await from.publishAsync(i % 3 === 0 ? 'a/x' : 'x/b', `${i}`, { qos: i % 2 === 0 ? 1 : 2 })
    await restart()
    const { present, heard } = await client('lamp')
    assert.equal(present, true)
    await until('all is here', () => heard.length >= 20)
    // Order is kept for each QoS [MQTT-4.6.0-5]; this client tells of QoS 2 when it is released.
    const sent = Array.from({ length: 20 }, (_, i) => {
      const granted = i % 3 === 0 ? 2 : 1
      return [i % 3 === 0 ? 'a/x' : 'x/b', `${i}`, Math.min(granted, i % 2 === 0 ? 1 : 2)] as const
    })
    for (const qos of [1, 2]) {
      const of = (all: readonly (readonly [string, string, number, ...unknown[]])[]) =>
        all.filter(one => one[2] === qos).map(([topic, payload]) => [topic, payload])
      assert.deepEqual(of(heard), of(sent))
    }
    const again = await client('from')
    await again.one.publishAsync('a/later', 'live', { qos: 1 })
    await until('it is subscribed still', () => heard.some(([topic]) => topic === 'a/later'))
  })

  test('options, identifiers and properties are as they were; what has expired meanwhile is not sent', async t => {
    const { start, restart, client } = setUp(t)
    const v5: IClientOptions = { protocolVersion: 5, properties: { sessionExpiryInterval: 3600 } }
    await start()
    const { one } = await client('lamp', v5)
    await one.subscribeAsync('p/#', { qos: 1, rap: true, properties: { subscriptionIdentifier: 77 } })
    await one.subscribeAsync('own', { qos: 1, nl: true })
    await one.endAsync()
    const { one: from } = await client('from', v5)
    const userProperties = { k: ['1', '2'] }
    await from.publishAsync('p/a', 'kept', {
      qos: 1,
      retain: true,
      properties: {
        userProperties,
        contentType: 'text/x',
        correlationData: Buffer.from('c'),
        messageExpiryInterval: 100
      }
    })
    await from.publishAsync('p/b', 'short', { qos: 1, properties: { messageExpiryInterval: 1 } })
    await sleep(1100)
    await restart()
    const { packets, one: back } = await client('lamp', v5)
    await until('it came', () => packets.length > 0)
    await back.publishAsync('own', 'mine', { qos: 1 })
    await back.publishAsync('p/c', 'last', { qos: 1 })
    await until('the last came', () => packets.some(({ topic }) => topic === 'p/c'))
    assert.deepEqual(
      packets.map(({ topic }) => topic),
      ['p/a', 'p/c']
    )
    const [{ retain, properties }] = packets as [IPublishPacket]
    assert.equal(retain, true)
    assert.deepEqual({ ...properties?.userProperties }, userProperties)
    assert.equal(properties?.subscriptionIdentifier, 77)
    assert.equal(properties?.contentType, 'text/x')
    assert.equal(properties?.correlationData?.toString(), 'c')
    assert.ok(properties!.messageExpiryInterval! <= 99)
  })

  test('retained messages are there, changed ones as they were last, removed ones not', async t => {
    const { start, restart, client } = setUp(t)
    await start()
    const { one } = await client('from')
    const long = `long/${'x'.repeat(3000)}`
    for (const [topic, payload] of [
      ['r/1', 'old'],
      ['r/1', 'new'],
      ['r/2', 'gone'],
      ['r/2', ''],
      [long, 'long']
    ] as const)
      await one.publishAsync(topic, payload, { qos: 1, retain: true })
    await restart()
    const { one: to, heard } = await client('to', { clean: true })
    await to.subscribeAsync('#', { qos: 1 })
    await until('they come', () => heard.length >= 2)
    assert.deepEqual(heard.sort(), [
      [long, 'long', 1, true],
      ['r/1', 'new', 1, true]
    ])
  })

  test('a session that ends with its connection, or has expired meanwhile, is not there', async t => {
    const { start, restart, client } = setUp(t)
    await start()
    for (const [id, options] of [
      ['clean', { clean: true }],
      ['short', { protocolVersion: 5, properties: { sessionExpiryInterval: 1 } }],
      ['long', { protocolVersion: 5, properties: { sessionExpiryInterval: 100 } }]
    ] as [string, IClientOptions][]) {
      const { one } = await client(id, options)
      await one.subscribeAsync('a', { qos: 1 })
      await one.endAsync()
    }
    await sleep(1100)
    const server = await restart()
    await until('the short one is over', () => server.clients.sessions.size === 1)
    assert.deepEqual(
      server.clients.sessions.all().map(({ clientId }) => clientId),
      ['long']
    )
  })

  test('a will that waits for its delay is sent after the restart, as its client had it', async t => {
    const { start, restart, client } = setUp(t)
    await start()
    const { one: to } = await client('to')
    await to.subscribeAsync('w', { qos: 1 })
    await to.endAsync() // so that it waits for it, whenever it comes
    const will = {
      topic: 'w',
      payload: Buffer.from('gone'),
      qos: 1 as const,
      retain: false,
      properties: { willDelayInterval: 1, contentType: 'text/w' }
    }
    const { one } = await client('lamp', { protocolVersion: 5, properties: { sessionExpiryInterval: 100 }, will })
    one.stream.destroy()
    await restart()
    const { packets } = await client('to')
    await until('the will comes', () => packets.length > 0)
    assert.deepEqual(
      packets.map(({ topic, payload }) => [topic, payload.toString()]),
      [['w', 'gone']]
    )
  })

  test('members of a shared subscription keep what waits for them', async t => {
    const { start, restart, client } = setUp(t)
    await start()
    for (const id of ['m1', 'm2']) {
      const { one } = await client(id)
      await one.subscribeAsync('$share/g/s', { qos: 1 })
      await one.endAsync()
    }
    const { one: from } = await client('from')
    for (let i = 0; i < 10; i++) await from.publishAsync('s', `${i}`, { qos: 1 })
    await restart()
    const members = [await client('m1'), await client('m2')]
    await until('all came', () => members.flatMap(({ heard }) => heard).length >= 10)
    const payloads = members.flatMap(({ heard }) => heard.map(([, payload]) => Number(payload)))
    assert.deepEqual(
      payloads.sort((a, b) => a - b),
      Array.from({ length: 10 }, (_, i) => i)
    )
  })

  test('a store that is none is put aside; the broker runs, says so and raises an alarm', async t => {
    const { home, log, start, restart } = setUp(t)
    const first = await start()
    await first.stop()
    writeFileSync(join(home.root, 'data/store/data.mdb'), 'not a store '.repeat(1000))
    const server = await restart()
    assert.equal(server.phase, 'running')
    assert.deepEqual(
      server.alarms.list().map(({ id, severity }) => [id, severity]),
      [['store_damaged', 'critical']]
    )
    assert.ok(log.some(line => line.includes('the store was damaged and put aside')))
    assert.equal(readdirSync(join(home.root, 'data')).filter(name => name.startsWith('store.bad-')).length, 1)
  })

  test('store.type = memory keeps nothing, and makes no file', async t => {
    const { home, start, restart, client } = setUp(t, 'store.type = memory')
    await start()
    const { one } = await client('lamp')
    await one.subscribeAsync('a', { qos: 1 })
    await restart()
    assert.equal((await client('lamp')).present, false)
    assert.equal(existsSync(join(home.root, 'data/store')), false)
  })
})
