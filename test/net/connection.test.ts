import assert from 'node:assert/strict'
import net from 'node:net'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'ws'
import type { EndReason } from '../../src/base/client-info.js'
import { now, TimerWheel, type WheelItem } from '../../src/base/timer-wheel.js'
import {
  client,
  connectPacket,
  disconnect,
  next,
  packet,
  pingreq,
  publishPacket,
  RawClient,
  type Running,
  startServer,
  subscribePacket,
  text,
  until
} from '../support/server.js'

/** CONNACK 0. */
const accepted = Buffer.from([0x20, 2, 0, 0])

/** A raw client that is in. */
async function joined(
  t: TestContext,
  on: Pick<Running, 'port'>,
  options: Parameters<typeof connectPacket>[0] = {}
): Promise<RawClient> {
  const raw = await RawClient.connect(t, on)
  raw.send(connectPacket(options))
  assert.deepEqual(await raw.read(4), accepted)
  return raw
}

/** That it ends by itself, and not before `ms` from when it began. */
async function endsAfter(ms: number, began: number, { closed }: RawClient): Promise<void> {
  await closed
  const took = performance.now() - began
  assert.ok(took >= ms, `${took} ms`)
}

const shutdowns = async ({ admin }: Running): Promise<Record<string, number>> =>
  (await admin.call('listeners', {}))[0]!.shutdown_count

/** Why each client left, by client id; a client that was never in is not there. */
function reasonsOf({ server }: Running): Map<string, EndReason[]> {
  const reasons = new Map<string, EndReason[]>()
  server.hooks.scope('test').on('client.disconnected', ({ clientId }, reason) => {
    reasons.set(clientId, [...(reasons.get(clientId) ?? []), reason])
  })
  return reasons
}

/** What a subscriber to everything has got so far, as `topic=payload`. */
async function watcher(t: TestContext, on: Running): Promise<string[]> {
  const got: string[] = []
  const c = await client(t, on, { clientId: 'watcher' })
  c.on('message', (topic, payload) => got.push(`${topic}=${payload.length > 20 ? payload.length : payload.toString()}`))
  await c.subscribeAsync('#')
  return got
}

/** Makes every publish wait for its verdict, as a database would. */
function slowAcl({ server }: Running, ms = 20): void {
  server.hooks.scope('slow').on('client.authorize', async () => {
    await sleep(ms)
    return 'allow' as const
  })
}

describe('Connection', { concurrency: true }, () => {
  describe('idle_timeout', { concurrency: 4 }, () => {
    const conf = 'mqtt.client.idle_timeout = 400ms'

    test('Connection closes a peer that says nothing', async t => {
      const running = await startServer(t, { conf })
      const began = performance.now()
      await endsAfter(400, began, await RawClient.connect(t, running))
      await until('counted', async () => (await shutdowns(running))['idle_timeout'] === 1)
    })

    test('Connection closes a peer that dribbles a CONNECT it never finishes', async t => {
      const running = await startServer(t, { conf })
      const began = performance.now()
      const raw = await RawClient.connect(t, running)
      const bytes = connectPacket({ id: 'x'.repeat(1000) })
      let at = 0
      const timer = setInterval(() => {
        if (at < bytes.length) raw.send(bytes[at++]!)
        else raw.socket.destroy()
      }, 20)
      t.after(() => clearInterval(timer))
      await endsAfter(400, began, raw)
      assert.ok(at < bytes.length, 'long before it was done')
    })

    test('Connection closes a peer that stops in the middle of CONNECT', async t => {
      const running = await startServer(t, { conf })
      const began = performance.now()
      const raw = await RawClient.connect(t, running)
      raw.send(connectPacket().subarray(0, 10))
      await endsAfter(400, began, raw)
    })

    test('Connection closes a WebSocket that says nothing', async t => {
      const running = await startServer(t, { conf: `listener.ws.test = 127.0.0.1:0\n${conf}` })
      const ws = new WebSocket(`ws://127.0.0.1:${running.port}/mqtt`, 'mqtt')
      t.after(() => ws.terminate())
      await next(ws, 'close')
      await until('counted', async () => (await shutdowns(running))['idle_timeout'] === 1)
    })

    test('Connection closes a peer whose login takes too long', async t => {
      const running = await startServer(t, { conf })
      let answer = (_: 'allow'): void => assert.fail('it was not asked')
      running.server.hooks.scope('slow').on('client.authenticate', async () => {
        return await new Promise<'allow'>(resolve => {
          answer = resolve
        })
      })
      const began = performance.now()
      const raw = await RawClient.connect(t, running)
      raw.send(connectPacket())
      await endsAfter(400, began, raw)
      answer('allow')
      assert.deepEqual(await raw.read(1), Buffer.alloc(0))
      await until('counted', async () => (await shutdowns(running))['idle_timeout'] === 1)
      assert.equal(running.server.clients.clientCount, 0)
    })
  })

  describe('keep alive', { concurrency: 4 }, () => {
    test('Connection closes a silent client after 1.5 times its keep alive and sends its will [MQTT-3.1.2-24]', async t => {
      const running = await startServer(t)
      const reasons = reasonsOf(running)
      const got = await watcher(t, running)
      const raw = await RawClient.connect(t, running)
      const will = [text('will'), text('gone')]
      const began = performance.now()
      raw.send(packet(0x10, text('MQTT'), 4, 2 | 4, 0, 1, text('silent'), ...will))
      assert.deepEqual(await raw.read(4), accepted)
      await endsAfter(1500, began, raw)
      await until('will', () => got.includes('will=gone'))
      assert.deepEqual(reasons.get('silent'), ['keepalive_timeout'])
    })

    test('Connection keeps a client that pings, and one that publishes', async t => {
      const running = await startServer(t)
      const began = performance.now()
      const pinging = await joined(t, running, { id: 'pinging', keepAlive: 4 })
      const publishing = await joined(t, running, { id: 'publishing', keepAlive: 4 })
      let pings = 0
      // Beyond what a client may be silent, and far more often than it must.
      for (; performance.now() - began < 7000; pings++) {
        await sleep(200)
        pinging.send(pingreq)
        publishing.send(publishPacket('t', 'x'))
      }
      assert.deepEqual(await pinging.read(2 * pings), Buffer.from('d000'.repeat(pings), 'hex'))
      publishing.send(pingreq)
      assert.deepEqual(await publishing.read(2), Buffer.from([0xd0, 0]))
      assert.equal(running.server.clients.clientCount, 2)
    })

    test('Connection keeps a silent client whose keep alive is 0 [MQTT-3.1.2-10]', async t => {
      const running = await startServer(t, { conf: 'mqtt.client.idle_timeout = 3s' })
      await joined(t, running)
      await sleep(5000)
      assert.equal(running.server.clients.clientCount, 1)
    })

    test('Connection does not take the time in which it did not read for silence of the client', async t => {
      const conf = 'listener.tcp.test = 127.0.0.1:0\nlistener.tcp.test.rate_limit = 1,16'
      const running = await startServer(t, { conf })
      const raw = await joined(t, running, { keepAlive: 1 })
      // Read at once, and over the limit for 3 to 4 seconds.
      raw.send(publishPacket('t', Buffer.alloc(60_000)))
      const timer = setInterval(() => raw.send(pingreq), 300)
      t.after(() => clearInterval(timer))
      await sleep(4500)
      assert.equal(running.server.clients.clientCount, 1)
    })
  })

  describe('send_timeout', { concurrency: 4 }, () => {
    test('Connection closes a subscriber that stops reading, and the others go on', async t => {
      const conf =
        'listener.tcp.test = 127.0.0.1:0\nlistener.tcp.test.send_timeout = 400ms\nlistener.tcp.patient = 127.0.0.1:0'
      const running = await startServer(t, { conf })
      const reasons = reasonsOf(running)
      const stuck = await joined(t, running, { id: 'stuck' })
      stuck.send(subscribePacket([['t', 0]]))
      await stuck.readPacket()
      stuck.socket.pause()

      const patient = { port: running.portOf('tcp:patient') } // the machine may be slow itself
      const good = await client(t, patient, { clientId: 'good' })
      let received = 0
      good.on('message', () => received++)
      await good.subscribeAsync('t')
      const publisher = await client(t, patient, { clientId: 'publisher' })
      const payload = Buffer.alloc(128 * 1024)
      const count = 160 // more than both sockets' buffers take
      for (let i = 0; i < count; i++) await publisher.publishAsync('t', payload, { qos: 1 })
      await until('the good subscriber has all', () => received === count)
      await until('reason', () => reasons.has('stuck'))
      assert.deepEqual(reasons.get('stuck'), ['send_timeout'])
      assert.equal((await shutdowns(running))['send_timeout'], 1)
    })

    test('Server.stop() ends while a subscriber does not read', async t => {
      const running = await startServer(t)
      const stuck = await joined(t, running, { id: 'stuck' })
      stuck.send(subscribePacket([['t', 0]]))
      await stuck.readPacket()
      stuck.socket.pause()
      const publisher = await joined(t, running, { id: 'publisher' })
      const payload = Buffer.alloc(500_000)
      for (let i = 0; i < 40; i++) publisher.send(publishPacket('t', payload))
      publisher.send(pingreq)
      await publisher.readPacket() // all is on its way, and more than the system takes
      assert.equal(running.server.clients.connectionCount, 2)
      await running.server.stop('drain', 300)
      assert.equal(running.server.clients.connectionCount, 0)
    })
  })

  describe('rate_limit', { concurrency: 4 }, () => {
    test('Connection slows a publisher down and loses nothing', async t => {
      const conf =
        'listener.tcp.test = 127.0.0.1:0\nlistener.tcp.test.rate_limit = 10,200\nlistener.tcp.unlimited = 127.0.0.1:0'
      const running = await startServer(t, { conf })
      const got = await watcher(t, { ...running, port: running.portOf('tcp:unlimited') })
      const raw = await joined(t, running)
      const start = performance.now()
      for (let i = 0; i < 200; i++) raw.send(publishPacket('t', `${i}`.padEnd(1024)))
      raw.send(publishPacket('last', 'x'))
      await until('all', () => got.includes('last=x'))
      const took = performance.now() - start
      assert.equal(got.length, 201)
      // 10 KB are free, and what was read last, 64 KB at most, is paid for afterwards.
      assert.ok(took > 600, `200 KB at 200 KB/s took ${took} ms`)
    })
  })

  describe('max_packet_size', { concurrency: 4 }, () => {
    test('Connection closes over a packet that is too large, from its header', async t => {
      const running = await startServer(t, { conf: 'mqtt.max_packet_size = 1KB' })
      const raw = await joined(t, running)
      raw.send(publishPacket('t', Buffer.alloc(1024 - 6)))
      raw.send(pingreq)
      assert.deepEqual(await raw.read(2), Buffer.from([0xd0, 0]), '1024 bytes are allowed')
      raw.send(Buffer.from([0x30, 0xfe, 0x07])) // 1025 bytes, of which only the header comes
      await raw.closed
      await until('counted', async () => (await shutdowns(running))['packet_too_large'] === 1)
    })

    test('Connection closes over a WebSocket message that is too large', async t => {
      const conf = 'listener.ws.test = 127.0.0.1:0\nmqtt.max_packet_size = 1KB'
      const running = await startServer(t, { conf })
      const ws = new WebSocket(`ws://127.0.0.1:${running.port}/mqtt`, 'mqtt')
      t.after(() => ws.terminate())
      await next(ws, 'open')
      ws.send(connectPacket())
      await next(ws, 'message')
      ws.send(Buffer.alloc(200_000))
      assert.equal((await next(ws, 'close'))[0], 1009)
      await until('counted', async () => (await shutdowns(running))['packet_too_large'] === 1)
    })
  })

  describe('what comes first and last', { concurrency: 4 }, () => {
    test('Connection takes packets that come behind CONNECT before its answer [MQTT-3.1.4-5]', async t => {
      const running = await startServer(t)
      const got = await watcher(t, running)
      running.server.hooks.scope('slow').on('client.authenticate', async () => {
        await sleep(50)
        return 'allow' as const
      })
      const raw = await RawClient.connect(t, running)
      const messages = Array.from({ length: 100 }, (_, i) => publishPacket('t', `${i}`))
      raw.send(connectPacket(), ...messages, pingreq)
      assert.deepEqual(await raw.read(6), Buffer.concat([accepted, Buffer.from([0xd0, 0])]))
      await until('all', () => got.length === 100)
      assert.deepEqual(
        got,
        messages.map((_, i) => `t=${i}`)
      )
    })

    test('Connection handles a whole life in one segment, without the will [MQTT-3.14.4-3]', async t => {
      const running = await startServer(t)
      const reasons = reasonsOf(running)
      const got = await watcher(t, running)
      const raw = await RawClient.connect(t, running)
      const will = [text('will'), text('gone')]
      const connect = packet(0x10, text('MQTT'), 4, 2 | 4, 0, 60, text('brief'), ...will)
      raw.socket.end(Buffer.concat([connect, publishPacket('t', 'x'), disconnect]))
      await until('message', () => got.includes('t=x'))
      await until('gone', () => reasons.has('brief'))
      assert.deepEqual(reasons.get('brief'), ['normal'])
      await sleep(50)
      assert.deepEqual(got, ['t=x'])
    })

    test('Connection still hands on what a client sent before it closed', async t => {
      const running = await startServer(t)
      const reasons = reasonsOf(running)
      const got = await watcher(t, running)
      slowAcl(running)
      const raw = await RawClient.connect(t, running)
      raw.send(packet(0x10, text('MQTT'), 4, 2 | 4, 0, 60, text('brief'), text('will'), text('gone')))
      await raw.read(4)
      raw.send(...['1', '2', '3'].map(payload => publishPacket('t', payload)))
      await sleep(5) // so that they are read apart
      raw.send(publishPacket('t', '4'))
      raw.socket.end(disconnect)
      await until('gone', () => reasons.has('brief'))
      await until('all', () => got.length === 4)
      await sleep(50)
      assert.deepEqual(got, ['t=1', 't=2', 't=3', 't=4'])
      assert.deepEqual(reasons.get('brief'), ['normal'])
    })

    test('Connection sends the will of a client that closes without DISCONNECT, after what it sent', async t => {
      const running = await startServer(t)
      const reasons = reasonsOf(running)
      const got = await watcher(t, running)
      const raw = await RawClient.connect(t, running)
      raw.send(packet(0x10, text('MQTT'), 4, 2 | 4, 0, 60, text('lost'), text('will'), text('gone')))
      await raw.read(4)
      raw.socket.end(publishPacket('t', '1'))
      await until('will', () => got.includes('will=gone'))
      assert.deepEqual(got, ['t=1', 'will=gone'])
      assert.deepEqual(reasons.get('lost'), ['closed'])
    })

    test('Connection ignores what comes after DISCONNECT [MQTT-3.14.4-2]', async t => {
      const running = await startServer(t)
      const got = await watcher(t, running)
      const raw = await joined(t, running)
      raw.send(publishPacket('t', '1'), disconnect, publishPacket('t', '2'))
      await raw.closed
      await sleep(50)
      assert.deepEqual(got, ['t=1'])
    })

    test('Connection lets a refusal arrive though the client had more to say', async t => {
      const running = await startServer(t, { conf: 'mqtt.allow_anonymous = false' })
      const raw = await RawClient.connect(t, running)
      raw.send(connectPacket(), publishPacket('t', Buffer.alloc(900_000)))
      assert.deepEqual(await raw.read(4), Buffer.from([0x20, 2, 0, 4]))
      await raw.closed
    })
  })

  describe('strangers', { concurrency: 4 }, () => {
    const hints: readonly [string, string, RegExp][] = [
      ['TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', /looks like TLS.*ssl listener/],
      ['GET', 'GET / HTTP/1.1\r\nHost: x\r\n\r\n', /looks like HTTP.*ws listener/],
      ['POST', 'POST /mqtt HTTP/1.1\r\nHost: x\r\n\r\n', /looks like HTTP.*ws listener/],
      ['PUT, cut short', 'PUT /', /looks like HTTP.*ws listener/],
      ['anything', '\x40\x02\x00\x01', /the first packet is not CONNECT/]
    ]
    for (const [name, bytes, hint] of hints) {
      test(`Connection closes at once on ${name} and logs what it looks like [MQTT-3.1.0-1]`, async t => {
        const running = await startServer(t)
        const raw = await RawClient.connect(t, running)
        raw.send(Buffer.from(bytes, 'latin1'))
        await raw.closed
        await until('log', () => running.log.some(line => hint.test(line)))
      })
    }
  })

  describe('shutdown_count', { concurrency: 4 }, () => {
    const ends: readonly [EndReason, (raw: RawClient, running: Running) => void, counted?: false][] = [
      ['normal', raw => raw.send(disconnect), false],
      ['closed', raw => void raw.socket.end(), false],
      ['closed', raw => void raw.socket.resetAndDestroy(), false],
      ['kicked', (_raw, { admin }) => void admin.call('clients kick', { clientId: 'raw' })],
      ['protocol_error', raw => raw.send(0)],
      ['protocol_error', raw => raw.send(connectPacket())],
      ['protocol_error', raw => raw.send(subscribePacket([['a/#/b', 0]]))],
      ['packet_too_large', raw => raw.send(0x30, 0xff, 0xff, 0xff, 0x7f)]
    ]
    for (const [i, [reason, end, counted]] of ends.entries()) {
      test(`Connection.reason is ${reason} (${i}), counted by its listener unless the client ended it`, async t => {
        const running = await startServer(t)
        const reasons = reasonsOf(running)
        const raw = await joined(t, running)
        end(raw, running)
        await until('reason', () => reasons.has('raw'))
        assert.deepEqual(reasons.get('raw'), [reason])
        await until('listener', async () => (await running.admin.call('listeners', {}))[0]!.current_clients === 0)
        assert.deepEqual(await shutdowns(running), counted === false ? {} : { [reason]: 1 })
      })
    }

    test('Connection.reason is takeover, refused or not_authorized where it is', async t => {
      const conf = 'mqtt.acl_deny_action = disconnect'
      const running = await startServer(t, { conf, acl: '{deny, all, publish, ["no"]}.' })
      const first = await joined(t, running)
      const second = await joined(t, running)
      await first.closed
      second.send(publishPacket('no', 'x'))
      await second.closed
      const third = await RawClient.connect(t, running)
      third.send(connectPacket({ level: 5 }))
      await third.closed
      await until('counts', async () => Object.keys(await shutdowns(running)).length === 3)
      assert.deepEqual(await shutdowns(running), { takeover: 1, not_authorized: 1, refused: 1 })
    })
  })
})

describe('DeadlineWheel', () => {
  class Item implements WheelItem {
    expired = 0
    at: number
    constructor(
      ms: number,
      readonly then: () => void = () => {}
    ) {
      this.at = now() + ms
    }
    deadline(): number {
      return this.at
    }
    expire(): void {
      this.expired++
      this.then()
    }
  }

  test('DeadlineWheel.watch() expires what was not put off, once', async t => {
    const wheel = new TimerWheel({ tickMs: 10 })
    t.after(() => wheel.stop())
    const due = new Item(50)
    const never = new Item(Number.POSITIVE_INFINITY)
    const alive = new Item(50)
    for (const item of [due, never, alive]) wheel.watch(item)
    for (let i = 0; i < 10; i++) {
      alive.at = now() + 60_000
      await sleep(20)
    }
    await until('expired', () => due.expired > 0)
    assert.deepEqual([due.expired, never.expired, alive.expired], [1, 0, 0])
    assert.ok(now() >= due.at)
  })

  test('DeadlineWheel.watch() looks anew when a deadline comes nearer or has passed', async t => {
    const wheel = new TimerWheel({ tickMs: 10 })
    t.after(() => wheel.stop())
    const item = new Item(60_000)
    wheel.watch(item)
    item.at = now() - 5
    wheel.watch(item)
    await until('expired', () => item.expired === 1)
  })

  test('DeadlineWheel reads what has come before it expires anybody, when the process itself was held up', async t => {
    const wheel = new TimerWheel({ tickMs: 20 })
    t.after(() => wheel.stop())
    const item = new Item(100)
    const server = net.createServer(socket => {
      socket.on('data', () => {
        item.at = now() + 60_000
      })
    })
    t.after(() => server.close())
    server.listen(0, '127.0.0.1')
    await next(server, 'listening')
    const socket = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
    t.after(() => void socket.destroy())
    await next(server, 'connection')
    wheel.watch(item)
    socket.write('x')
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300)
    await sleep(60)
    assert.equal(item.expired, 0)
  })

  test('DeadlineWheel.forget() counts in the midst of a turn too', async t => {
    const wheel = new TimerWheel({ tickMs: 50 })
    t.after(() => wheel.stop())
    const items: Item[] = []
    const forgetAll = (): void => {
      for (const item of items) wheel.forget(item)
    }
    for (let i = 0; i < 2; i++) {
      items.push(new Item(1, forgetAll))
    }
    for (const item of items) wheel.watch(item)
    await until('expired', () => items.some(item => item.expired > 0))
    await sleep(150)
    assert.equal(items[0]!.expired + items[1]!.expired, 1)
  })
})
