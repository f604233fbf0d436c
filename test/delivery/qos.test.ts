/**
 * The promises of the QoS levels, kept from one client through Inbound, Dispatcher and Session to another, whatever
 * comes between: both clients follow the specification, both networks lose what is in them when they break.
 */
import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { Inbound, type PublishPolicy } from '../../src/delivery/inbound.js'
import type { Ingress } from '../../src/delivery/ingress.js'
import { Priorities } from '../../src/delivery/session/mqueue.js'
import { Session } from '../../src/delivery/session/session.js'
import type { SessionLimits } from '../../src/delivery/session/session-limits.js'
import type { QoS } from '../../src/wire/frame.js'
import { dispatcherOf, ingressTo } from '../support/dispatcher.js'
import { Host } from '../support/host.js'
import { bodyAt, type Packet, Peer, packetOf, publishOf, uint16 } from '../support/packets.js'

const [PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP] = [3, 4, 5, 6, 7]

const open: PublishPolicy = {
  mayPublish: () => true,
  denied: () => false,
  maxTopicLevels: 10,
  maxAwaitingRel: 100,
  topicAliasMaximum: 0,
  checkPayloadFormat: false,
  mountpoint: '',
  isClosed: false
}

/** A message by its number, and what it is to have. */
interface Sent {
  readonly name: number
  readonly topic: string
  readonly qos: QoS
  packetId: number
  released: boolean
}

/** A client that publishes, the network before it and the broker's end. */
class Sender {
  readonly #ingress: Ingress
  readonly #session = new Session('sender', { maxInflight: 0, maxQueued: 0, storeQos0: false })
  readonly #version: 4 | 5
  #peer: Peer | undefined
  #publisher: Inbound | undefined
  #toBroker: Buffer[] = []
  #toClient: Packet[] = []
  #underWay: Sent[] = []
  #lastId = 0
  readonly sent: Sent[] = []

  constructor(ingress: Ingress, version: 4 | 5) {
    this.#ingress = ingress
    this.#version = version
  }

  get busy(): boolean {
    return this.#toBroker.length > 0 || this.#toClient.length > 0
  }

  get settled(): boolean {
    return this.#underWay.length === 0 && this.#session.awaitingRel.size === 0
  }

  connect(): void {
    if (this.#peer !== undefined) return
    this.#peer = new Peer({ version: this.#version })
    this.#publisher = new Inbound(this.#ingress, this.#session, this.#peer.out, open, this.#version)
    for (const one of this.#underWay) {
      if (one.released) this.#toBroker.push(packetOf(0x62, uint16(one.packetId)))
      else this.#put(one, true)
    }
  }

  break(): void {
    this.#peer = undefined
    this.#toBroker = []
    this.#toClient = []
  }

  publish(topic: string, qos: QoS): void {
    if (this.#peer === undefined) return
    const one = { name: this.sent.length, topic, qos, packetId: 0, released: false }
    if (qos > 0) {
      do this.#lastId = (this.#lastId % 12) + 1
      while (this.#underWay.some(({ packetId }) => packetId === this.#lastId) && this.#underWay.length < 12)
      if (this.#underWay.length >= 12) return
      one.packetId = this.#lastId
      this.#underWay.push(one)
    }
    this.sent.push(one)
    this.#put(one, false)
  }

  #put({ name, topic, qos, packetId }: Sent, dup: boolean): void {
    const properties = this.#version === 5 ? {} : undefined
    this.#toBroker.push(publishOf(topic, String(name), { qos, packetId, dup }, properties))
  }

  /** The broker takes a packet. */
  atBroker(): void {
    const bytes = this.#toBroker.shift()
    if (bytes === undefined || this.#peer === undefined) return
    const at = bodyAt(bytes)
    if (bytes[0]! >> 4 === PUBREL) {
      this.#publisher!.acknowledged(PUBREL, bytes, at, bytes.length)
    } else {
      assert.equal(this.#publisher!.publish(bytes, 0, at, bytes.length), undefined)
      bytes.fill(0xff) // the socket's buffer is used again
    }
    this.#toClient.push(...this.#peer.taken())
  }

  /** The client takes a packet. */
  atClient(): void {
    const packet = this.#toClient.shift()
    if (packet === undefined) return
    const one = this.#underWay.find(({ packetId }) => packetId === packet.packetId)
    assert.ok(one !== undefined, `an acknowledgement of ${packet.packetId}`)
    if (packet.type === PUBREC) {
      assert.equal(one.qos, 2)
      one.released = true
      this.#toBroker.push(packetOf(0x62, uint16(one.packetId)))
      return
    }
    assert.equal(packet.type, one.qos === 1 ? PUBACK : PUBCOMP)
    assert.equal(one.released, one.qos === 2)
    this.#underWay.splice(this.#underWay.indexOf(one), 1)
  }
}

/** A client that subscribes. It acknowledges when it likes, each kind in order [MQTT-4.6.0-2] to [MQTT-4.6.0-4]. */
class Receiver {
  readonly session: Session
  readonly host = new Host()
  /** What is sent again on one connection is acknowledged twice. */
  readonly #retries: boolean
  readonly #window: number
  readonly #receiveMaximum: number
  readonly #version: 4 | 5
  #peer: Peer | undefined
  #toClient: Packet[] = []
  /** Acknowledgements not yet sent, by kind. */
  #late: Record<number, number[]> = {}
  #toBroker: [type: number, packetId: number][] = []
  /** The broker's, under way on this connection. */
  #underWay = new Set<number>()
  readonly #known = new Set<number>()
  readonly got: { readonly name: number; readonly qos: number; readonly topic: string }[] = []

  constructor(limits: SessionLimits, receiveMaximum: number, version: 4 | 5) {
    this.session = new Session('receiver', limits, this.host)
    this.#retries = version === 4 && (limits.retryInterval ?? 0) > 0
    this.#receiveMaximum = receiveMaximum
    this.#window = Math.min(limits.maxInflight, receiveMaximum)
    this.#version = version
  }

  get busy(): boolean {
    this.#collect()
    return (
      this.#toClient.length > 0 ||
      this.#toBroker.length > 0 ||
      Object.values(this.#late).some(({ length }) => length > 0)
    )
  }

  connect(): void {
    if (this.#peer !== undefined) return
    this.#peer = new Peer({ receiveMaximum: this.#receiveMaximum, version: this.#version })
    this.session.attach(this.#peer)
  }

  break(): void {
    this.#collect()
    this.#peer = undefined
    this.#toClient = []
    this.#late = {}
    this.#toBroker = []
    this.#underWay.clear()
    this.session.detach()
  }

  #collect(): void {
    if (this.#peer === undefined) return
    for (const packet of this.#peer.taken()) {
      this.#toClient.push(packet)
      if (packet.packetId > 0) this.#underWay.add(packet.packetId)
    }
    assert.ok(this.#underWay.size <= this.#window, `${this.#underWay.size} under way, and a window of ${this.#window}`)
  }

  /** The client takes a packet. */
  atClient(): void {
    this.#collect()
    const packet = this.#toClient.shift()
    if (packet === undefined) return
    const { type, qos, packetId, topic, payload, dup } = packet
    if (type === PUBREL) {
      this.#known.delete(packetId)
      this.#owe(PUBCOMP, packetId)
      return
    }
    assert.equal(type, PUBLISH)
    if (qos === 2 && this.#known.has(packetId)) assert.equal(dup, true)
    else this.got.push({ name: Number(payload), qos, topic })
    if (qos === 2) this.#known.add(packetId)
    if (qos > 0) this.#owe(qos === 1 ? PUBACK : PUBREC, packetId)
  }

  #owe(type: number, packetId: number): void {
    this.#late[type] ??= []
    this.#late[type].push(packetId)
  }

  /** The client sends an acknowledgement that it owes. */
  acknowledge(nth: number): void {
    const kinds = [PUBACK, PUBREC, PUBCOMP].filter(kind => (this.#late[kind]?.length ?? 0) > 0)
    if (kinds.length === 0) return
    const kind = kinds[nth % kinds.length]!
    this.#toBroker.push([kind, this.#late[kind]!.shift()!])
  }

  /** The broker takes one. */
  atBroker(): void {
    this.#collect()
    const one = this.#toBroker.shift()
    if (one === undefined) return
    const [type, packetId] = one
    if (type !== PUBREC) this.#underWay.delete(packetId)
    const known =
      type === PUBACK
        ? this.session.acknowledged(packetId)
        : type === PUBREC
          ? this.session.received(packetId, false)
          : this.session.completed(packetId)
    assert.ok(known || this.#retries)
    this.#collect()
  }
}

const topics = ['a', 'b']
const event = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.tuple(fc.constant('publish' as const), fc.constantFrom(...topics), fc.constantFrom<QoS>(0, 1, 2))
  },
  { weight: 6, arbitrary: fc.tuple(fc.constantFrom('sender at broker' as const, 'receiver at client' as const)) },
  { weight: 4, arbitrary: fc.tuple(fc.constantFrom('sender at client' as const, 'receiver at broker' as const)) },
  { weight: 4, arbitrary: fc.tuple(fc.constant('acknowledge' as const), fc.nat(2)) },
  { weight: 1, arbitrary: fc.tuple(fc.constantFrom('sender breaks' as const, 'receiver breaks' as const)) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('time passes' as const)) },
  { weight: 1, arbitrary: fc.tuple(fc.constantFrom('sender connects' as const, 'receiver connects' as const)) }
)
type Event = typeof event extends fc.Arbitrary<infer E> ? E : never

const setting = fc.record({
  maxInflight: fc.constantFrom(1, 2, 5, 40),
  receiveMaximum: fc.constantFrom(1, 3, 65_535),
  storeQos0: fc.boolean(),
  retryInterval: fc.constantFrom(0, 1000),
  priorities: fc.constantFrom(undefined, new Priorities(new Map([['b', 5]]))),
  from: fc.constantFrom<4 | 5>(4, 5),
  to: fc.constantFrom<4 | 5>(4, 5)
})

test('QoS 1 arrives at least once, QoS 2 exactly once, in order and within the window, whatever breaks [MQTT-4.3.2-2] [MQTT-4.3.3-2] [MQTT-4.6.0-6]', () => {
  const both = { senders: 0, resent: 0 }
  fc.assert(
    fc.property(
      fc.array(event, { minLength: 20, maxLength: 200, size: 'max' }),
      setting,
      (events: Event[], { from, to, receiveMaximum, ...limits }) => {
        const dispatcher = dispatcherOf({ shareStrategy: 'random' })
        const sender = new Sender(ingressTo(dispatcher), from)
        const receiver = new Receiver({ ...limits, maxQueued: 0 }, receiveMaximum, to)
        const options = {
          subscriber: receiver.session,
          noLocal: false,
          retainAsPublished: false,
          identifier: 0
        } as const
        dispatcher.subscribe({ ...options, filter: '#', qos: 2 })
        sender.connect()
        receiver.connect()
        for (const [what, one, two] of events) {
          if (what === 'publish') sender.publish(one, two)
          else if (what === 'acknowledge') receiver.acknowledge(one)
          else if (what === 'sender at broker') sender.atBroker()
          else if (what === 'sender at client') sender.atClient()
          else if (what === 'receiver at broker') receiver.atBroker()
          else if (what === 'receiver at client') receiver.atClient()
          else if (what === 'time passes') receiver.host.pass(1200)
          else if (what === 'sender breaks') sender.break()
          else if (what === 'sender connects') sender.connect()
          else if (what === 'receiver breaks') receiver.break()
          else receiver.connect()
        }
        sender.connect()
        receiver.connect()
        while (sender.busy || receiver.busy) {
          sender.atBroker()
          sender.atClient()
          receiver.atClient()
          receiver.acknowledge(0)
          receiver.atBroker()
        }
        assert.equal(sender.settled, true)
        assert.deepEqual([receiver.session.inflightLength, receiver.session.queueLength], [0, 0])
        for (const qos of [0, 1, 2] as const) {
          for (const topic of topics) {
            const is = (one: { qos: number; topic: string }): boolean => one.qos === qos && one.topic === topic
            const names = receiver.got.filter(is).map(({ name }) => name)
            const first = [...new Set(names)]
            const want = sender.sent.filter(is).map(({ name }) => name)
            if (qos !== 1) assert.deepEqual(names, first, 'none twice')
            if (qos > 0) assert.deepEqual(first, want)
            else
              assert.deepEqual(
                first,
                want.filter(name => first.includes(name)),
                'in order'
              )
            both.resent += names.length - first.length
          }
        }
        both.senders += sender.sent.length
      }
    ),
    { numRuns: 250 }
  )
  assert.ok(both.senders > 1000 && both.resent > 0, 'the events are such that something happens')
})
