/** The metrics are what the clients counted: every packet by kind, every byte. */
import assert from 'node:assert/strict'
import type net from 'node:net'
import test, { type TestContext } from 'node:test'
import mqtt, { type IClientOptions, type MqttClient, type Packet } from 'mqtt'
import { Histogram } from '../../src/observe/metrics.js'
import { connectPacket, packet, publishPacket, RawClient, type Running, startServer, until } from '../support/server.js'

/** What clients have sent and got, by the broker's names. */
class Counted {
  readonly counts = new Map<string, number>()
  readonly sockets = new Set<net.Socket>()

  add(name: string, n = 1): void {
    this.counts.set(name, (this.counts.get(name) ?? 0) + n)
  }

  async client(t: TestContext, { port }: Running, options: IClientOptions): Promise<MqttClient> {
    const once = { reconnectPeriod: 0, keepalive: 0, manualConnect: true, ...options }
    const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, once)
    t.after(() => client.endAsync(true))
    client.on('packetsend', each => this.#packet(each, 'received'))
    client.on('packetreceive', each => this.#packet(each, 'sent'))
    client.connect()
    this.sockets.add(client.stream as net.Socket)
    await new Promise((resolve, reject) => client.once('connect', resolve).once('error', reject))
    return client
  }

  #packet(each: Packet, way: 'received' | 'sent'): void {
    const { cmd } = each
    this.add(`packets/${way}`)
    if (cmd === 'publish') {
      this.add(`packets/publish/${way}`)
      this.add(`messages/${way}`)
      this.add(`messages/qos${each.qos}/${way}`)
    } else if (['puback', 'pubrec', 'pubrel', 'pubcomp'].includes(cmd)) this.add(`packets/${cmd}/${way}`)
    else this.add(`packets/${cmd}`)
  }

  bytes(way: 'bytesRead' | 'bytesWritten'): number {
    return [...this.sockets].reduce((sum, socket) => sum + socket[way], 0)
  }
}

test('the 38 metrics equal what clients of three kinds counted over a mixed load', async t => {
  const running = await startServer(t, { acl: '{deny, all, publish, ["denied/#"]}.\n{allow, all}.' })
  const counted = new Counted()
  const make = (options: IClientOptions): Promise<MqttClient> => counted.client(t, running, options)
  const subscribers = [
    await make({ clientId: 's0' }),
    await make({ clientId: 's1', protocolVersion: 5, properties: { topicAliasMaximum: 5 } }),
    await make({ clientId: 's2', protocolVersion: 3, protocolId: 'MQIsdp' })
  ]
  for (const [qos, client] of subscribers.entries()) await client.subscribeAsync('load/#', { qos: qos as 0 | 1 | 2 })
  await subscribers[0]!.subscribeAsync(['one/more', 'two/more'])
  await subscribers[0]!.unsubscribeAsync('one/more')
  const publishers = [await make({ clientId: 'p4' }), await make({ clientId: 'p5', protocolVersion: 5 })]
  let heard = 0
  for (const client of subscribers) client.on('message', () => heard++)

  const work: Promise<unknown>[] = []
  const payload = Buffer.alloc(200, 'x')
  for (let i = 0; i < 90; i++) {
    const client = publishers[i % 2]!
    work.push(client.publishAsync(`load/${i % 7}`, payload.subarray(0, i), { qos: (i % 3) as 0 | 1 | 2 }))
  }
  work.push(publishers[0]!.publishAsync('nobody/wants', 'it', { qos: 1 }))
  work.push(publishers[1]!.publishAsync('nobody/wants', 'it either'))
  work.push(publishers[1]!.publishAsync('denied/it', 'x', { qos: 0 }))
  work.push(publishers[0]!.publishAsync('kept', 'for later', { qos: 1, retain: true }))
  await Promise.all(work)
  await until('all have what they wanted', () => heard === 90 * 3)
  for (const client of subscribers) client.sendPing()
  await publishers[0]!.endAsync()

  // What no client of a library sends.
  const raw = await RawClient.connect(t, running)
  counted.sockets.add(raw.socket)
  raw.send(connectPacket({ id: 'raw' }))
  await raw.read(4)
  const strange = [packet(0x40, 0, 9), packet(0x50, 0, 9), packet(0x62, 0, 9), packet(0x70, 0, 9)]
  raw.send(...strange, publishPacket('nobody/wants', 'twice', { qos: 2, id: 5 }))
  raw.send(publishPacket('nobody/wants', 'twice', { qos: 2, id: 5 }))
  await raw.read(4 * 4)
  for (const [name, n] of [
    ...['puback', 'pubrec', 'pubrel', 'pubcomp'].flatMap(of => [
      [`packets/${of}/missed`, 1] as const,
      [`packets/${of}/received`, 1] as const
    ]),
    ...(['packets/connect', 'packets/connack', 'packets/pubrel/sent', 'packets/pubcomp/sent'] as const).map(
      name => [name, 1] as const
    ),
    ['packets/pubrec/sent', 2],
    ['packets/publish/received', 2],
    ['messages/received', 2],
    ['messages/qos2/received', 2],
    ['packets/received', 7],
    ['packets/sent', 5]
  ] as const) {
    counted.add(name, n)
  }
  counted.add('messages/dropped', 4)
  counted.add('messages/retained', 1)

  const { clients } = running.server
  const now = (): Record<string, number> => clients.metrics.standard(clients.dispatcher.retained.size)
  await until('everything has arrived', () => {
    counted.counts.set('bytes/received', counted.bytes('bytesWritten'))
    counted.counts.set('bytes/sent', counted.bytes('bytesRead'))
    return now()['bytes/received'] === counted.bytes('bytesWritten') && now()['packets/pingresp'] === 3
  })
  await until('and has been answered', () => now()['bytes/sent'] === counted.bytes('bytesRead'))
  counted.counts.set('bytes/sent', counted.bytes('bytesRead'))
  const expected = Object.fromEntries(Object.keys(now()).map(name => [name, counted.counts.get(name) ?? 0]))
  assert.equal(Object.keys(expected).length, 38)
  assert.deepEqual(now(), expected)
  assert.deepEqual(
    [...counted.counts.keys()].filter(name => !(name in expected)),
    [],
    'nothing else was counted'
  )
  assert.equal(clients.metrics.more()['messages/denied'], 1)
  const { latency } = clients.metrics
  assert.ok(latency.count > 0 && latency.count <= 96, `${latency.count} samples`)
  assert.ok(latency.sum > 0 && latency.sum < 5000)
})

test('Histogram.add() counts a value in the first bucket that it fits', () => {
  const histogram = new Histogram([1, 5])
  for (const value of [0, 1, 1.5, 5, 6, 100]) histogram.add(value)
  assert.deepEqual([histogram.counts, histogram.count, histogram.sum], [[2, 2, 2], 6, 113.5])
})
