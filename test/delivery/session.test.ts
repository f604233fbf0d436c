import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { Message } from '../../src/delivery/message.js'
import { Inflight } from '../../src/delivery/session/inflight.js'
import { Priorities } from '../../src/delivery/session/mqueue.js'
import { Outgoing } from '../../src/delivery/session/outgoing.js'
import { Session } from '../../src/delivery/session/session.js'
import type { SessionLimits } from '../../src/delivery/session/session-limits.js'
import type { QoS } from '../../src/wire/frame.js'
import { encodeProperties } from '../../src/wire/properties.js'
import { Reason } from '../../src/wire/reason-codes.js'
import { dispatcherOf } from '../support/dispatcher.js'
import { Host } from '../support/host.js'
import { ids, type Packet, Peer, payloads } from '../support/packets.js'

const [PUBLISH, PUBREL] = [3, 6]

const message = (payload: string, qos: QoS = 1, topic = 't'): Message =>
  Message.of(topic, Buffer.from(payload), { qos })

const session = (limits: Partial<SessionLimits> = {}, host?: Host): Session =>
  new Session('c', { maxInflight: 32, maxQueued: 1000, storeQos0: false, ...limits }, host)

/** Messages named from..to-1 at a QoS. */
function deliver(to: Session, names: Iterable<string | number>, qos: QoS = 1): void {
  for (const name of names) to.deliver(message(String(name), qos), qos, false, undefined)
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i)
const strings = (values: readonly number[]): string[] => values.map(String)

/** Type, DUP and packet id of each. */
const heads = (packets: readonly Packet[]): string[] =>
  packets.map(({ type, dup, packetId }) => `${type === PUBLISH ? 'PUBLISH' : type}${dup ? ' DUP' : ''} ${packetId}`)

/** A message that expires. */
function expiring(payload: string, seconds: number, qos: QoS = 1): Message {
  const made = Message.of('t', Buffer.from(payload), { qos }, encodeProperties({ messageExpiryInterval: seconds }))
  made.expires(seconds, 1)
  return made
}

/** Stops the clock; the function sets it on. */
function clock(t: TestContext): (ms: number) => void {
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000 })
  return ms => t.mock.timers.tick(ms)
}

describe('Session.deliver()', () => {
  test('has at most as many under way as max_inflight and the Receive Maximum allow [MQTT-3.3.4-9]', () => {
    for (const [maxInflight, receiveMaximum, window] of [
      [5, 10, 5],
      [10, 5, 5],
      [0, 7, 7],
      [3, 65_535, 3]
    ] as const) {
      const s = session({ maxInflight })
      const peer = new Peer({ receiveMaximum })
      s.attach(peer)
      deliver(s, range(0, 20))
      assert.deepEqual(payloads(peer.taken()), strings(range(0, window)))
      assert.equal(s.inflightLength, window)
      assert.equal(s.queueLength, 20 - window)
      assert.equal(s.acknowledged(1), true)
      assert.deepEqual(payloads(peer.taken()), [String(window)])
      for (let id = 2; id <= 20; id++) assert.equal(s.acknowledged(id), true)
      assert.deepEqual(payloads(peer.taken()), strings(range(window + 1, 20)))
      assert.equal(s.inflightLength + s.queueLength, 0)
    }
  })

  test('counts a QoS 2 message until PUBCOMP, or a PUBREC that refuses it', () => {
    const s = session({ maxInflight: 1 })
    const peer = new Peer()
    s.attach(peer)
    deliver(s, 'abc', 2)
    assert.equal(s.received(1, false), true)
    assert.deepEqual(heads(peer.taken()), ['PUBLISH 1', '6 1'])
    assert.equal(s.completed(1), true)
    assert.deepEqual(heads(peer.taken()), ['PUBLISH 2'])
    assert.equal(s.received(2, true), true)
    assert.deepEqual(payloads(peer.taken()), ['c'])
  })

  test('keeps the order of each QoS, with or without a queue [MQTT-4.6.0-5] [MQTT-4.6.0-6]', () => {
    const s = session({ maxInflight: 3, storeQos0: true })
    const peer = new Peer()
    s.attach(peer)
    for (let i = 0; i < 30; i++) deliver(s, [i], (i % 3) as QoS)
    const got: Packet[] = []
    for (let packets = peer.taken(); packets.length > 0; packets = peer.taken()) {
      got.push(...packets.filter(({ type }) => type === PUBLISH))
      for (const { type, qos, packetId } of packets) {
        if (type === PUBREL) s.completed(packetId)
        else if (qos === 1) s.acknowledged(packetId)
        else if (qos === 2) s.received(packetId, false)
      }
    }
    for (const qos of [0, 1, 2]) {
      const want = range(0, 30).filter(i => i % 3 === qos)
      assert.deepEqual(payloads(got.filter(packet => packet.qos === qos)), strings(want))
    }
  })

  test('drops the oldest of a full queue, and counts', () => {
    const s = session({ maxQueued: 3, maxInflight: 1 })
    deliver(s, range(0, 10))
    assert.deepEqual([s.queueLength, s.dropped, s.enqueued], [3, 7, 10])
    const peer = new Peer()
    s.attach(peer)
    for (let id = 1; id <= 3; id++) s.acknowledged(id)
    assert.deepEqual(payloads(peer.taken()), ['7', '8', '9'])
    assert.equal(s.delivered, 3)
  })

  test('misses QoS 0 for a client that is away, unless it is to be kept', () => {
    const s = session()
    deliver(s, 'ab', 0)
    assert.deepEqual([s.queueLength, s.missed, s.dropped], [0, 2, 2])
    const keeps = session({ storeQos0: true, maxInflight: 1 })
    deliver(keeps, 'ab', 0)
    const peer = new Peer()
    keeps.attach(peer)
    assert.deepEqual(payloads(peer.taken()), ['a', 'b'])
    assert.deepEqual([keeps.queueLength, keeps.missed], [0, 0])
  })

  test('misses QoS 0 for a client that reads too slowly, and lets QoS 1 wait for it', () => {
    const s = session()
    const peer = new Peer({ limit: 100 })
    s.attach(peer)
    peer.stopReading()
    deliver(s, ['x'.repeat(200)], 0)
    peer.taken()
    assert.equal(peer.out.congested, true)
    assert.equal(s.ready, false)
    deliver(s, 'ab', 0)
    deliver(s, 'cd', 1)
    assert.deepEqual(peer.taken(), [])
    assert.deepEqual([s.missed, s.queueLength], [2, 2])
    peer.readOn()
    s.pump()
    assert.deepEqual(payloads(peer.taken()), ['c', 'd'])
    assert.equal(s.ready, true)
  })

  test('lets no QoS 0 overtake one that was kept [MQTT-4.6.0-6]', () => {
    const s = session({ storeQos0: true, maxInflight: 1 })
    deliver(s, 'ab', 1)
    deliver(s, 'c', 0)
    const peer = new Peer()
    s.attach(peer)
    deliver(s, 'd', 0)
    s.acknowledged(1)
    s.acknowledged(2)
    deliver(s, 'e', 0)
    assert.deepEqual(payloads(peer.taken()), [...'abcde'])
  })

  test('sends QoS 0 at once when only QoS 1 waits', () => {
    const s = session({ maxInflight: 1 })
    const peer = new Peer()
    s.attach(peer)
    deliver(s, 'ab', 1)
    deliver(s, 'c', 0)
    assert.deepEqual(payloads(peer.taken()), ['a', 'c'])
  })

  test('writes the subscription identifiers, and to MQTT 3 none (section 3.3.2.3.8)', () => {
    for (const version of [5, 4] as const) {
      const s = session()
      const peer = new Peer({ version })
      for (const qos of [0, 1, 2] as const) {
        s.attach(peer)
        s.deliver(message('p', qos), qos, true, [1, 128, 268_435_455])
        const [packet] = peer.taken().slice(-1)
        const { topic, payload, identifiers, retain } = packet!
        assert.deepEqual({ topic, payload, retain }, { topic: 't', payload: 'p', retain: true })
        assert.equal(packet!.qos, qos)
        assert.deepEqual(identifiers, version === 5 ? [1, 128, 268_435_455] : [])
      }
    }
  })

  test('sends nothing over the Maximum Packet Size, as if it had been sent [MQTT-3.1.2-24] [MQTT-3.1.2-25]', () => {
    for (const [version, identifiers] of [
      [5, undefined],
      [5, [300]],
      [4, [300]]
    ] as const) {
      for (const qos of [0, 1, 2] as const) {
        const probe = new Peer({ version })
        const s = session()
        s.attach(probe)
        s.deliver(message('x'.repeat(140), qos), qos, false, identifiers)
        const { size } = probe.taken()[0]!
        // A topic alias is counted in, be it used or not: 3 bytes.
        const enough = version === 5 ? size + 3 : size
        for (const maximumPacketSize of [enough, size - 1]) {
          const small = new Session('small', { maxInflight: 1, maxQueued: 10, storeQos0: false })
          const peer = new Peer({ version, maximumPacketSize })
          small.attach(peer)
          small.deliver(message('x'.repeat(140), qos), qos, false, identifiers)
          small.deliver(message('y', qos), qos, false, identifiers)
          const whole = maximumPacketSize === enough
          const got = payloads(peer.taken()).map(payload => payload[0])
          assert.deepEqual(got, !whole ? ['y'] : qos === 0 ? ['x', 'y'] : ['x'])
          assert.equal(small.missed, whole ? 0 : 1)
        }
      }
    }
  })
})

describe('Session.attach()', () => {
  test('sends again in the first order, with DUP and the same ids; PUBREL for those that had PUBREC [MQTT-4.4.0-1]', () => {
    const s = session()
    s.attach(new Peer())
    for (let i = 0; i < 6; i++) deliver(s, [i], i % 2 === 0 ? 1 : 2)
    s.received(4, false)
    s.acknowledged(3)
    s.detach()
    deliver(s, ['new'])
    const peer = new Peer()
    s.attach(peer)
    const packets = peer.taken()
    assert.deepEqual(heads(packets), [
      'PUBLISH DUP 1',
      'PUBLISH DUP 2',
      '6 4',
      'PUBLISH DUP 5',
      'PUBLISH DUP 6',
      'PUBLISH 7'
    ])
    assert.deepEqual(payloads(packets), ['0', '1', '4', '5', 'new'])
    assert.equal(s.completed(4), true)
    assert.equal(s.inflightLength, 5)
  })

  test('keeps to the window, be it smaller than before', () => {
    const s = session()
    s.attach(new Peer())
    deliver(s, range(0, 5))
    s.detach()
    deliver(s, range(5, 7))
    const peer = new Peer({ receiveMaximum: 2 })
    s.attach(peer)
    deliver(s, range(7, 8))
    const got: string[] = []
    for (let id = 1; id <= 8; id++) {
      got.push(...heads(peer.taken()))
      assert.ok(got.length - (id - 1) <= 2, 'window')
      s.acknowledged(id)
    }
    const want = range(1, 9).map(id => `PUBLISH${id <= 5 ? ' DUP' : ''} ${id}`)
    assert.deepEqual(got, want)
    assert.equal(s.inflightLength + s.queueLength, 0)
  })

  test('leaves out what was acknowledged before its turn came', () => {
    const s = session()
    s.attach(new Peer())
    deliver(s, range(0, 4))
    s.detach()
    const peer = new Peer({ receiveMaximum: 1 })
    s.attach(peer)
    s.acknowledged(2)
    s.acknowledged(1)
    s.acknowledged(3)
    s.acknowledged(4)
    assert.deepEqual(ids(peer.taken()), [1, 3, 4])
    deliver(s, ['5', '6'])
    assert.deepEqual(ids(peer.taken()), [5])
  })

  test('discards what has become too large for the client [MQTT-3.1.2-24] [MQTT-3.1.2-25]', () => {
    const s = session({ maxInflight: 3 })
    s.attach(new Peer())
    deliver(s, ['a', 'x'.repeat(500), 'b'])
    s.detach()
    deliver(s, ['c'])
    const peer = new Peer({ maximumPacketSize: 100 })
    s.attach(peer)
    assert.deepEqual(payloads(peer.taken()), ['a', 'b', 'c'])
    assert.equal(s.missed, 1)
    assert.equal(s.inflightLength, 3)
  })
})

describe('Session: acknowledgements', () => {
  test('of ids that are not under way change nothing; of another kind, they are protocol errors [MQTT-4.3.2-4], [MQTT-4.3.3-8], [MQTT-4.3.3-11]', () => {
    const s = session({ maxInflight: 2 })
    const peer = new Peer()
    s.attach(peer)
    deliver(s, 'a', 1)
    deliver(s, 'b', 2)
    deliver(s, 'c', 1)
    peer.taken()
    assert.deepEqual([s.acknowledged(3), s.acknowledged(0), s.acknowledged(65_535)], Array(3).fill(false))
    assert.deepEqual([s.received(9, false), s.completed(17)], [false, false])
    const wrong = [
      () => s.acknowledged(2),
      () => s.received(1, false),
      () => s.received(1, true),
      () => s.completed(1),
      () => s.completed(2)
    ]
    for (const each of wrong) assert.throws(each, { reason: Reason.PROTOCOL_ERROR })
    assert.deepEqual(peer.taken(), [])
    assert.deepEqual([s.inflightLength, s.queueLength], [2, 1])
    assert.equal(s.received(2, false), true)
    assert.equal(s.received(2, false), true, 'PUBREC again gets PUBREL again')
    assert.deepEqual(heads(peer.taken()), ['6 2', '6 2'])
    assert.equal(s.completed(2), true)
    assert.equal(s.completed(2), false)
  })

  test('Inflight.add() goes from 65 535 to 1, passes over ids in use [MQTT-2.2.1-4], and inOrder() still knows the first order', () => {
    const inflight = new Inflight()
    const add = () => inflight.add(new Outgoing(message('x'), 1, false, undefined, undefined))
    for (let id = 1; id <= 65_535; id++) {
      assert.equal(add(), id)
      if (id !== 3 && id !== 4) inflight.delete(id)
    }
    assert.deepEqual([add(), add(), add()], [1, 2, 5])
    assert.equal(inflight.size, 5)
    assert.deepEqual(
      inflight.inOrder().map(({ packetId }) => packetId),
      [3, 4, 1, 2, 5]
    )
  })

  test('Inflight keeps all 65 535 ids apart', () => {
    const inflight = new Inflight()
    const given = new Set<number>()
    for (let i = 0; i < 65_535; i++) given.add(inflight.add(new Outgoing(message('x'), 1, false, undefined, undefined)))
    assert.equal(given.size, 65_535)
    assert.equal(given.has(0) || given.has(65_536), false)
    for (const id of given) assert.equal(inflight.get(id)?.packetId, id)
    for (const id of given) inflight.delete(id)
    assert.equal(inflight.size, 0)
  })
})

describe('Session: message expiry', () => {
  test('drops what expired while it waited, and tells what is left of the rest [MQTT-3.3.2-5] [MQTT-3.3.2-6]', t => {
    const tick = clock(t)
    const s = session({ storeQos0: true })
    for (const qos of [0, 1, 2] as const) {
      s.deliver(expiring(`short ${qos}`, 10, qos), qos, false, undefined)
      s.deliver(expiring(`long ${qos}`, 60, qos), qos, false, undefined)
    }
    tick(20_500)
    const peer = new Peer()
    s.attach(peer)
    const packets = peer.taken()
    assert.deepEqual(payloads(packets), ['long 0', 'long 1', 'long 2'])
    assert.deepEqual(
      packets.map(({ expiry }) => expiry),
      [40, 40, 40]
    )
  })

  test('does not drop what was sent before: its exchange goes on', t => {
    const tick = clock(t)
    const s = session()
    s.attach(new Peer())
    s.deliver(expiring('a', 10), 1, false, undefined)
    s.detach()
    tick(20_000)
    const peer = new Peer()
    s.attach(peer)
    const packets = peer.taken()
    assert.deepEqual(heads(packets), ['PUBLISH DUP 1'])
    assert.equal(packets[0]?.expiry, 1)
  })

  test('is left out for MQTT 3', () => {
    const s = session()
    const peer = new Peer({ version: 4 })
    s.attach(peer)
    s.deliver(expiring('a', 10), 1, false, [3])
    assert.deepEqual(payloads(peer.taken()), ['a'])
  })
})

/** Retained messages of a new subscription, not yet asked for. */
function* retained(names: Iterable<string | number>, qos: QoS = 1): Generator<Outgoing> {
  for (const name of names) yield new Outgoing(message(String(name), qos), qos, true, undefined, undefined)
}

describe('Session.feed()', () => {
  test('is paced by the window, comes before what is published later, and one feed before the next', () => {
    const s = session({ maxInflight: 2 })
    const peer = new Peer()
    s.attach(peer)
    s.replayRetained(retained('abc'))
    s.replayRetained(retained('d'))
    deliver(s, 'e')
    const got: string[] = []
    for (let id = 1; id <= 5; id++) {
      const packets = peer.taken()
      got.push(...packets.map(({ payload, retain }) => payload + (retain ? ' retained' : '')))
      assert.ok(s.inflightLength <= 2)
      s.acknowledged(id)
    }
    assert.deepEqual(got, [...'abcd'].map(name => `${name} retained`).concat('e'))
  })

  test('is paced by the client: QoS 0 stops where it reads no more, and goes on', () => {
    const s = session()
    const peer = new Peer({ limit: 1000 })
    s.attach(peer)
    peer.stopReading()
    let asked = 0
    const source = (function* () {
      for (const one of retained(range(0, 1000), 0)) {
        asked++
        yield one
      }
    })()
    s.replayRetained(source)
    assert.ok(asked < 300, `${asked} asked for`)
    const got = payloads(peer.taken())
    while (got.length < 1000) {
      peer.readOn()
      s.pump()
      const more = payloads(peer.taken())
      assert.ok(more.length > 0)
      got.push(...more)
    }
    assert.deepEqual(got, strings(range(0, 1000)))
  })

  test('lets no QoS 0 overtake what is retained', () => {
    const s = session({ maxInflight: 1 })
    const peer = new Peer()
    s.attach(peer)
    deliver(s, 'a')
    s.replayRetained(retained(['old'], 0))
    deliver(s, ['new'], 0)
    s.acknowledged(1)
    assert.deepEqual(payloads(peer.taken()), ['a', 'old', 'new'])
  })

  test('is taken up again after the client was away, as far as the queue has room', () => {
    const s = session({ maxInflight: 1, maxQueued: 3 })
    s.attach(new Peer())
    deliver(s, 'a')
    s.replayRetained(retained('bcdef'))
    s.detach()
    assert.deepEqual([s.queueLength, s.dropped], [3, 0])
    const peer = new Peer()
    s.attach(peer)
    for (let id = 1; id <= 4; id++) s.acknowledged(id)
    assert.deepEqual(payloads(peer.taken()), ['a', 'b', 'c', 'd'])
  })
})

describe('Session.feed(): retained anew while it is fed', () => {
  /** As a feed reads them: what is retained when it gets there. */
  function feeding(names: string[], qos: QoS, limits: Partial<SessionLimits> = {}) {
    const store = new Map(names.map(name => [name, `${name} old`]))
    const s = session({ maxInflight: 1, storeQos0: true, ...limits })
    const peer = new Peer({ limit: 1000 })
    s.attach(peer)
    const publish = (topic: string, payload: string, as: QoS = qos): void => {
      const made = Message.of(topic, Buffer.from(payload), { qos: as, retain: true })
      store.set(topic, payload)
      s.deliver(made, as, false, undefined)
    }
    const feed = (): void => {
      const walk = function* () {
        for (const [topic, payload] of store) {
          yield new Outgoing(message(payload, qos, topic), qos, true, undefined, undefined)
        }
      }
      s.replayRetained(walk())
    }
    const rest = (): string[] => {
      const got: string[] = []
      for (let id = 1; id < 20; id++) {
        got.push(...payloads(peer.taken()))
        s.acknowledged(id)
      }
      return got
    }
    return { s, peer, publish, feed, rest }
  }

  test('a message arrives once, and after what was sent of its topic before [MQTT-4.6.0-6]', () => {
    const { publish, feed, rest } = feeding(['a', 'b', 'c'], 1)
    feed()
    publish('c', 'c new')
    publish('a', 'a new') // its old one is sent already
    assert.deepEqual(rest(), ['a old', 'b old', 'c new', 'a new'])
  })

  test('a subscription that is made after it has it still [MQTT-3.3.1-9]', () => {
    const { publish, feed, rest } = feeding(['a', 'b'], 1)
    feed()
    publish('b', 'b new')
    feed()
    assert.deepEqual(rest(), ['a old', 'a old', 'b new', 'b new'])
  })

  test('one that the client missed comes with the feed', () => {
    const { s, peer, publish, feed } = feeding([], 0)
    s.deliver(message('x'.repeat(1100), 0), 0, false, undefined)
    publish('a', 'first')
    peer.stopReading()
    s.deliver(message('y'.repeat(1100), 0), 0, false, undefined)
    peer.taken()
    assert.equal(peer.out.congested, true)
    feed()
    publish('a', 'missed', 0)
    assert.equal(s.missed, 1)
    peer.readOn()
    s.pump()
    assert.deepEqual(payloads(peer.taken()), ['missed'])
  })

  test('and so when the client goes meanwhile', () => {
    const { s, publish, feed } = feeding(['a', 'b', 'c'], 1)
    feed()
    publish('c', 'c new')
    s.detach()
    const peer = new Peer()
    s.attach(peer)
    for (let id = 1; id <= 3; id++) s.acknowledged(id)
    assert.deepEqual(payloads(peer.taken()).sort(), ['a old', 'b old', 'c new'])
  })
})

describe('Session: retry_interval', () => {
  const retryInterval = 1000

  test('MQTT 3 is sent again what it has not acknowledged in time, with DUP, in order, PUBREL after PUBREC; then again', () => {
    const host = new Host()
    const s = session({ retryInterval, maxInflight: 4 }, host)
    const peer = new Peer({ version: 4 })
    s.attach(peer)
    assert.equal(host.watched.size, 0, 'nothing is under way')
    deliver(s, ['0'])
    host.pass(300)
    deliver(s, ['1'], 2)
    host.pass(200)
    s.received(2, false)
    deliver(s, ['2'], 2)
    deliver(s, ['3', 'queued'])
    assert.equal(host.watched.size, 1)
    peer.taken()
    host.pass(500)
    assert.deepEqual(peer.taken(), [])
    host.pass(200)
    assert.deepEqual(heads(peer.taken()), ['PUBLISH DUP 1'])
    s.acknowledged(1)
    assert.deepEqual(heads(peer.taken()), ['PUBLISH 5'])
    host.pass(500)
    assert.deepEqual(heads(peer.taken()), ['6 2', 'PUBLISH DUP 3', 'PUBLISH DUP 4'])
    assert.equal(s.inflightLength, 4)
    host.pass(2400)
    const later = heads(peer.taken())
    assert.deepEqual(later.slice(0, 4), ['PUBLISH DUP 5', '6 2', 'PUBLISH DUP 3', 'PUBLISH DUP 4'])
    for (const id of [4, 5]) s.acknowledged(id)
    s.completed(2)
    s.received(3, false)
    s.completed(3)
    peer.taken()
    host.pass(5000)
    assert.deepEqual([peer.taken(), host.watched.size], [[], 0])
  })

  test('MQTT 5 is sent nothing again on the same connection [MQTT-4.4.0-1], nor anybody with 0', () => {
    for (const [version, interval] of [
      [5, retryInterval],
      [4, 0]
    ] as const) {
      const host = new Host()
      const s = session({ retryInterval: interval }, host)
      const peer = new Peer({ version })
      s.attach(peer)
      deliver(s, ['a'])
      deliver(s, ['b'], 2)
      s.received(2, false)
      peer.taken()
      host.pass(10_000)
      assert.deepEqual([peer.taken(), host.watched.size], [[], 0])
    }
  })

  test('a client that reads too slowly is left alone, and so is what still waits for the window', () => {
    const host = new Host()
    const s = session({ retryInterval, maxInflight: 3 }, host)
    s.attach(new Peer({ version: 4 }))
    deliver(s, range(0, 3))
    s.detach()
    assert.equal(host.watched.size, 0)
    const peer = new Peer({ version: 4, receiveMaximum: 1, limit: 100 })
    s.attach(peer)
    assert.deepEqual(heads(peer.taken()), ['PUBLISH DUP 1'])
    host.pass(1200)
    assert.deepEqual(heads(peer.taken()), ['PUBLISH DUP 1'], 'of three under way, one is in the window')
    peer.stopReading()
    deliver(s, ['x'.repeat(200)], 0)
    peer.taken()
    assert.equal(peer.out.full, true)
    const { pending } = peer.out
    host.pass(5000)
    assert.equal(peer.out.pending, pending)
    peer.readOn()
    host.pass(2000)
    assert.deepEqual(heads(peer.taken()).slice(-1), ['PUBLISH DUP 1'])
  })
})

describe('Session: await_rel_timeout', () => {
  test('forgets an id of MQTT 3 that is not released in time, not while the client is away, and never one of MQTT 5 [MQTT-4.3.3-2]', () => {
    for (const [version, timeout, want] of [
      [4, 1000, 0],
      [4, 0, 1],
      [5, 1000, 1]
    ] as const) {
      const host = new Host()
      const s = session({ awaitRelTimeout: timeout, retryInterval: 20_000 }, host)
      s.attach(new Peer({ version }))
      deliver(s, ['watched for another reason'])
      s.acknowledged(1)
      s.awaitRelease(7)
      host.pass(800)
      s.detach()
      host.pass(10_000)
      assert.equal(s.awaitingRel.size, 1)
      s.attach(new Peer({ version }))
      host.pass(800)
      assert.equal(s.awaitingRel.size, 1)
      host.pass(600)
      assert.equal(s.awaitingRel.size, want)
    }
  })
})

describe('Session: what an operator is told', () => {
  test('that its queue is over the high watermark, and that it is down at the low one, once each', () => {
    const host = new Host()
    const s = session({ maxInflight: 1, maxQueued: 10, highWatermark: 6, lowWatermark: 2 }, host)
    deliver(s, range(0, 6))
    assert.deepEqual(host.told, [])
    deliver(s, range(6, 10))
    assert.deepEqual(host.told, ['high'])
    s.attach(new Peer())
    for (let id = 1; id < 7; id++) s.acknowledged(id)
    assert.deepEqual([s.queueLength, host.told], [3, ['high']])
    s.acknowledged(7)
    s.acknowledged(8)
    assert.deepEqual(host.told, ['high', 'low'])
    s.end()
    assert.deepEqual(host.told, ['high', 'low', 'ended'])
  })

  test('that a connected client misses messages, once until it is to be heard again', () => {
    const host = new Host()
    const s = session({ maxInflight: 1, maxQueued: 1 }, host)
    deliver(s, range(0, 5))
    assert.deepEqual([s.dropped, host.told], [4, []], 'it is away')
    s.attach(new Peer())
    deliver(s, range(5, 9))
    assert.deepEqual([s.dropped, host.told], [7, ['loses']])
    s.reportDropsAgain()
    deliver(s, range(9, 11))
    assert.deepEqual(host.told, ['loses', 'loses'])
  })
})

test('Session sends what waits by the priority of its topic, and in order within one [MQTT-4.6.0-6]', () => {
  const priorities = new Priorities(new Map([['urgent', 9]]))
  const s = session({ priorities, maxInflight: 1 })
  const peer = new Peer()
  s.attach(peer)
  for (const [topic, payload] of ['t 0', 't 1', 'urgent 2', 't 3', 'urgent 4'].map(text => text.split(' ')) as [
    string,
    string
  ][]) {
    s.deliver(message(payload, 1, topic), 1, false, undefined)
  }
  for (let id = 1; id <= 5; id++) s.acknowledged(id)
  assert.deepEqual(payloads(peer.taken()), ['0', '2', '4', '1', '3'])
})

test('Session.end() hands back all that was on its way, in order, and what of it the client has', () => {
  const dispatcher = dispatcherOf({ shareStrategy: 'sticky' })
  const s = session({ maxInflight: 3 })
  const options = { subscriber: s, qos: 2, noLocal: false, retainAsPublished: false, identifier: 0 } as const
  dispatcher.subscribe({ ...options, filter: '$share/g/t' })
  s.attach(new Peer())
  for (const [i, qos] of ([1, 2, 2, 1, 2] as const).entries()) dispatcher.route(message(`group ${i}`, qos))
  deliver(s, ['own'])
  s.acknowledged(1) // its place in the window goes to 'group 3'
  s.received(2, false) // has arrived: another must not get it
  assert.deepEqual(
    s.end().map(({ message: { payload }, received, group }) => [payload.toString(), received, group?.name]),
    [
      ['group 1', true, 'g'],
      ['group 2', false, 'g'],
      ['group 3', false, 'g'],
      ['group 4', false, 'g'],
      ['own', false, undefined]
    ]
  )
  assert.deepEqual([s.inflightLength, s.queueLength, s.online], [0, 0, false])
})
