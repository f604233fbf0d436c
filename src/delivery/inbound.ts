/**
 * The incoming side of one connection: PUBLISH and its acknowledgements, read where
 * they lie in the socket's bytes. Nothing is made of a message that is only passed
 * on: no packet object, no payload, no string unless the topic differs from the last.
 */
import { isUtf8 } from 'node:buffer'
import type { Outbox } from '../net/outbox.js'
import type { Metrics } from '../observe/metrics.js'
import { Durability } from '../persistence/durability.js'
import { PacketType, type QoS } from '../wire/frame.js'
import { ackWithReason, checkResponseTopic, readAck, type Version } from '../wire/packets.js'
import { In, readProperties } from '../wire/properties.js'
import { Reader } from '../wire/reader.js'
import { malformed, PacketError, protocolError, Reason, type ReasonCode } from '../wire/reason-codes.js'
import { isTopicName, levelsOf } from '../wire/topic.js'
import type { Ingress } from './ingress.js'
import { Message } from './message.js'
import type { Match } from './router.js'
import { Acks } from './session/acks.js'
import type { Session } from './session/session.js'
import type { Subscriber } from './subscriber.js'

/** What a connection's messages must pass before they are routed. */
export interface PublishPolicy {
  /** At once where it can; false denies. */
  mayPublish(topic: string): boolean | Promise<boolean>
  /** A denied message: true when the connection is to be ended for it. */
  denied(topic: string): boolean
  /** The levels a topic may have. */
  readonly maxTopicLevels: number
  /** QoS 2 messages that may be under way to the broker. */
  readonly maxAwaitingRel: number
  /** What is put before its topics once they have been judged; mostly nothing. */
  readonly mountpoint: string
  /** Topic aliases that the client may use. */
  readonly topicAliasMaximum: number
  /** Whether its connection is over: nothing is answered any more. */
  readonly isClosed: boolean
  /** Whether a payload that is said to be text must be (MQTT 5, section 3.3.2.3.2). */
  readonly checkPayloadFormat: boolean
}

/** Of a message that the store has no room for. */
const refused = new Durability()
refused.failed = true

/** The view of the message in hand; one is enough, since nothing else happens while it is looked at. */
const view = new Message()

const none = Buffer.alloc(0)

/** The work of a transaction: functions that are made once, so that a message needs no closure. */
let take: (inbound: Inbound, message: Message) => void
let release: (inbound: Inbound, packetId: number) => void

export class Inbound {
  static {
    take = (inbound, message) => {
      if (message.qos === 2) inbound.#session.awaitRelease(inbound.#packetId)
      inbound.#receivers = inbound.#ingress.accept(message, inbound.#known)
    }
    release = (inbound, packetId) => {
      inbound.#isKnown = inbound.#session.release(packetId)
    }
  }

  readonly #ingress: Ingress
  readonly #metrics: Metrics
  readonly #session: Session
  readonly #acks: Acks
  readonly #policy: PublishPolicy
  readonly #mountpoint: string
  readonly #maxAwaitingRel: number
  readonly #version: Version
  readonly #isVersion5: boolean
  readonly #out: Outbox
  #aliases: Map<number, string> | undefined
  /** The last topic as bytes and text, and the subscribers that wanted it. */
  #topicBytes: Buffer = none
  #topic = ''
  #match: Match<Subscriber> | undefined
  #matchVersion = -1
  /** Of the message whose transaction is under way: its packet id, the subscribers that want it, and how many got it. */
  #packetId = 0
  #known: Match<Subscriber> | undefined
  #receivers = 0
  /** Whether the id of the PUBREL under way was known. */
  #isKnown = false
  /** Payload Format Indicator of the last message. */
  #saysText = false

  constructor(ingress: Ingress, session: Session, out: Outbox, policy: PublishPolicy, version: Version) {
    const isVersion5 = version === 5
    this.#version = version
    this.#out = out
    this.#ingress = ingress
    this.#metrics = ingress.dispatcher.metrics
    this.#session = session
    this.#acks = new Acks(out, isVersion5, packetId => this.#refused(packetId))
    this.#policy = policy
    this.#mountpoint = policy.mountpoint
    this.#maxAwaitingRel = policy.maxAwaitingRel
    this.#isVersion5 = isVersion5
  }

  /**
   * Takes the PUBLISH in bytes[start..end), whose topic begins at `at`. A promise: nothing further of this
   * connection may be looked at before it is done. Throws a PacketError.
   */
  publish(bytes: Buffer, start: number, at: number, end: number): undefined | Promise<void> {
    const flags = bytes[start]! & 15
    const qos = ((flags >> 1) & 3) as QoS
    if (qos === 0 && flags & 8) throw malformed('DUP with QoS 0') // [MQTT-3.3.1-2]
    if (end - at < 2) throw malformed('PUBLISH is too short')
    const topicEnd = at + 2 + ((bytes[at]! << 8) | bytes[at + 1]!)
    let payloadAt = topicEnd
    let packetId = 0
    if (qos > 0) {
      if (topicEnd + 2 > end) throw malformed('PUBLISH is too short')
      packetId = (bytes[topicEnd]! << 8) | bytes[topicEnd + 1]!
      if (packetId === 0) throw protocolError('packet identifier 0') // [MQTT-2.2.1-3]
      payloadAt += 2
    } else if (topicEnd > end) throw malformed('PUBLISH is too short')
    const message = view
    message.moved()
    message.bytes = bytes
    message.topicAt = at
    message.topicEnd = topicEnd
    message.end = end
    message.qos = qos
    message.retain = (flags & 1) === 1
    message.from = this.#session.clientId
    message.expiresAt = 0
    message.expiryAt = -1
    message.propertiesAt = message.propertiesEnd = 0
    message.frameAt = qos === 0 ? start : -1
    message.frameVersion = this.#isVersion5 ? 5 : 4
    message.frameFlags = flags
    if (!this.#isVersion5) {
      message.payloadAt = payloadAt
      this.#takeTopic(bytes, at + 2, topicEnd)
      message.topic = this.#topic
      return this.#judge(message, packetId)
    }
    if (payloadAt < end && bytes[payloadAt] === 0) {
      message.payloadAt = payloadAt + 1
      if (topicEnd === at + 2) throw protocolError('no topic and no alias') // section 3.3.2.1
      this.#takeTopic(bytes, at + 2, topicEnd)
      message.topic = this.#topic
      return this.#judge(message, packetId)
    }
    const whole = this.#withProperties(message, payloadAt)
    if (this.#policy.checkPayloadFormat && this.#saysText && !isUtf8(whole.payload)) {
      if (qos === 0) throw new PacketError(Reason.PAYLOAD_FORMAT_INVALID, 'payload is not UTF-8')
      this.#acknowledge(qos, packetId, Reason.PAYLOAD_FORMAT_INVALID)
      return undefined
    }
    return this.#judge(whole, packetId)
  }

  /** What an alias of the client stands for. */
  topicOf(alias: number): string | undefined {
    return this.#aliases?.get(alias)
  }

  /** The message is not kept: its id is free, unless it has been given to another meanwhile. */
  #refused(packetId: number): void {
    if (this.#session.awaitingRel.durabilityOf(packetId)?.failed) this.#session.release(packetId)
  }

  /** Takes the PUBACK, PUBREC, PUBREL or PUBCOMP whose packet id begins at `at`. Throws a PacketError. */
  acknowledged(type: number, bytes: Buffer, at: number, end: number): void {
    let packetId: number
    let reason = 0
    if (end - at === 2) {
      packetId = (bytes[at]! << 8) | bytes[at + 1]!
      if (packetId === 0) throw protocolError('packet identifier 0')
    } else {
      ;({ packetId, reason } = readAck(type, bytes, at, end, this.#version))
    }
    const session = this.#session
    const metrics = this.#metrics
    if (type === PacketType.PUBACK) {
      metrics.pubackReceived++
      if (!session.acknowledged(packetId)) metrics.pubackMissed++
    } else if (type === PacketType.PUBCOMP) {
      metrics.pubcompReceived++
      if (!session.completed(packetId)) metrics.pubcompMissed++
    } else if (type === PacketType.PUBREC) {
      metrics.pubrecReceived++
      if (session.received(packetId, reason >= 0x80)) return
      metrics.pubrecMissed++
      if (reason >= 0x80) return
      metrics.pubrelSent++
      this.#answerUnknown(0x62, packetId)
    } else this.#released(packetId)
  }

  /** PUBREL: the id is free, and PUBCOMP is sent when the store has it so [MQTT-4.3.3-11]. */
  #released(packetId: number): void {
    const metrics = this.#metrics
    const { persistence } = this.#ingress
    metrics.pubrelReceived++
    this.#isKnown = false
    let durability: Durability | undefined
    if (persistence === undefined) this.#isKnown = this.#session.release(packetId)
    else durability = persistence.transaction(release, this, packetId)
    const isKnown = this.#isKnown
    if (!isKnown) metrics.pubrelMissed++
    if (durability?.isOpen !== true) return this.#complete(packetId, isKnown)
    durability.whenSettled({
      durabilitySettled: () => {
        if (!this.#policy.isClosed) this.#complete(packetId, isKnown)
      }
    })
  }

  #complete(packetId: number, isKnown: boolean): void {
    this.#metrics.pubcompSent++
    if (isKnown) this.#out.acknowledge(0x70, packetId)
    else this.#answerUnknown(0x70, packetId)
  }

  /** PUBREL or PUBCOMP for an id that nobody knows: MQTT 5 says so, MQTT 3 goes on as if it did [MQTT-4.3.3-11]. */
  #answerUnknown(header: number, packetId: number): void {
    if (!this.#isVersion5) return this.#out.acknowledge(header, packetId)
    this.#out.write(ackWithReason(header, packetId, Reason.PACKET_IDENTIFIER_NOT_FOUND))
  }

  /** The topic's text, if it is not the last one again. */
  #takeTopic(bytes: Buffer, start: number, end: number): void {
    const known = this.#topicBytes
    if (known.length === end - start) {
      let same = true
      for (let i = 0; i < known.length; i++) {
        if (known[i] !== bytes[start + i]) {
          same = false
          break
        }
      }
      if (same && this.#match !== undefined) return
    }
    const text = bytes.subarray(start, end)
    if (!isUtf8(text) || text.includes(0)) throw malformed('topic is not UTF-8') // [MQTT-1.5.4-1], [MQTT-1.5.4-2]
    this.#setTopic(text.toString('utf8'), Buffer.from(text))
  }

  #setTopic(topic: string, bytes: Buffer): void {
    // [MQTT-3.3.2-2]; MQTT 5 has a reason code for what MQTT 3 can only close for
    if (!isTopicName(topic)) throw new PacketError(Reason.TOPIC_NAME_INVALID, 'topic name')
    if (levelsOf(topic) > this.#policy.maxTopicLevels)
      throw new PacketError(Reason.TOPIC_NAME_INVALID, 'too many topic levels')
    this.#topic = topic
    this.#topicBytes = bytes
    this.#matchVersion = -1
    this.#match = undefined
  }

  /** Reads MQTT 5's properties; those that concern the two of us alone (the alias) are not forwarded. */
  #withProperties(message: Message, at: number): Message {
    const { bytes, topicAt, topicEnd, end } = message
    const reader = new Reader(bytes, at, end)
    let expiryAt = -1
    const seen = (id: number, from: number): void => {
      if (id === 0x02) expiryAt = from + 1
    }
    const properties = readProperties(reader, In.PUBLISH, seen, true)
    checkResponseTopic(properties)
    this.#saysText = properties.payloadFormatIndicator === 1
    const { topicAlias, subscriptionIdentifier, messageExpiryInterval } = properties
    if (subscriptionIdentifier !== undefined) throw protocolError('a subscription identifier from a client') // [MQTT-3.3.4-6]
    if (topicAlias !== undefined && (topicAlias === 0 || topicAlias > this.#policy.topicAliasMaximum)) {
      throw new PacketError(Reason.TOPIC_ALIAS_INVALID, `topic alias ${topicAlias}`) // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
    }
    if (topicEnd > topicAt + 2) {
      this.#takeTopic(bytes, topicAt + 2, topicEnd)
      if (topicAlias !== undefined) {
        this.#aliases ??= new Map()
        this.#aliases.set(topicAlias, this.#topic)
      }
    } else {
      const topic = topicAlias === undefined ? undefined : this.#aliases?.get(topicAlias)
      if (topic === undefined) throw protocolError('no topic, and no alias that stands for one')
      if (topic !== this.#topic) this.#setTopic(topic, Buffer.from(topic))
    }
    if (topicAlias !== undefined) {
      const { qos, retain, from } = message
      const { topicAlias: _, ...forwarded } = readProperties(new Reader(bytes, at, end), In.PUBLISH)
      return Message.withProperties(this.#topic, bytes.subarray(reader.at, end), { qos, retain, from }, forwarded)
    }
    message.topic = this.#topic
    message.propertiesEnd = reader.at
    message.propertiesAt = at + lengthBytesOf(bytes, at)
    message.payloadAt = reader.at
    if (messageExpiryInterval !== undefined) message.expires(messageExpiryInterval, expiryAt - message.propertiesAt)
    return message
  }

  #judge(message: Message, packetId: number): undefined | Promise<void> {
    const { qos } = message
    this.#session.published++
    if (qos === 0) this.#metrics.qos0Received++
    else if (qos === 1) this.#metrics.qos1Received++
    else {
      this.#metrics.qos2Received++
      const { awaitingRel } = this.#session
      if (awaitingRel.has(packetId)) {
        this.#acknowledgeAgain(packetId)
        return undefined
      }
      if (awaitingRel.size >= this.#maxAwaitingRel) {
        this.#metrics.qos2Dropped++
        throw new PacketError(Reason.RECEIVE_MAXIMUM_EXCEEDED, 'too many QoS 2 messages under way') // [MQTT-3.3.4-7]
      }
    }
    const verdict = this.#policy.mayPublish(message.topic)
    if (verdict === true && this.#ingress.filter === undefined) {
      this.#accept(message, packetId, this.#matched())
      const maxAwaitingRel = this.#maxAwaitingRel
      return this.#acks.length < maxAwaitingRel ? undefined : this.#acks.roomy(maxAwaitingRel)
    }
    if (verdict === false) {
      this.#deny(message, packetId)
      return undefined
    }
    return this.#judgeLater(message.owned(), packetId, verdict)
  }

  async #judgeLater(message: Message, packetId: number, verdict: boolean | Promise<boolean>): Promise<void> {
    if (!(await verdict)) return this.#deny(message, packetId)
    const filter = this.#ingress.filter
    const passed = filter === undefined ? message : await filter(message)
    if (passed !== null) this.#accept(passed, packetId, undefined)
    else {
      this.#metrics.filtered++
      this.#acknowledge(message.qos, packetId, Reason.SUCCESS)
    }
  }

  #matched(): Match<Subscriber> {
    const { router } = this.#ingress.dispatcher
    if (this.#matchVersion !== router.version || this.#match === undefined) {
      this.#match = router.match(this.#topic)
      this.#matchVersion = router.version
    }
    return this.#match
  }

  #accept(judged: Message, packetId: number, known: Match<Subscriber> | undefined): void {
    const mounted = this.#mountpoint !== ''
    const message = mounted ? judged.under(this.#mountpoint) : judged
    const match = mounted ? undefined : known
    const { qos } = message
    if (qos === 2 && this.#session.awaitingRel.has(packetId)) {
      return this.#acknowledgeAgain(packetId) // while it was judged
    }
    const { persistence } = this.#ingress
    if (qos === 0 || persistence === undefined) {
      if (qos === 2) this.#session.awaitRelease(packetId) // before it is routed, or a second one would be too
      const receivers = this.#ingress.accept(message, match)
      return this.#acknowledge(qos, packetId, receivers === 0 ? Reason.NO_MATCHING_SUBSCRIBERS : Reason.SUCCESS)
    }
    if (
      persistence.queue.isFailing &&
      (this.#ingress.mustRefuse(message, match) || (qos === 2 && this.#session.isStored))
    ) {
      return this.#acknowledge(qos, packetId, Reason.SUCCESS, refused)
    }
    this.#packetId = packetId
    this.#known = match
    const durability = persistence.transaction(take, this, message)
    if (qos === 2 && durability !== undefined) this.#session.awaitingRel.waitFor(packetId, durability)
    const reason = this.#receivers === 0 ? Reason.NO_MATCHING_SUBSCRIBERS : Reason.SUCCESS
    this.#acknowledge(qos, packetId, reason, durability)
  }

  /** It has been routed already [MQTT-4.3.3-10], which may not be on disk yet. */
  #acknowledgeAgain(packetId: number): void {
    this.#acknowledge(2, packetId, Reason.SUCCESS, this.#session.awaitingRel.durabilityOf(packetId))
  }

  #deny(message: Message, packetId: number): void {
    this.#metrics.denied++
    if (this.#policy.denied(message.topic)) throw new PacketError(Reason.NOT_AUTHORIZED, 'not authorized')
    this.#acknowledge(message.qos, packetId, Reason.NOT_AUTHORIZED)
  }

  #acknowledge(qos: QoS, packetId: number, reason: ReasonCode, durability?: Durability): void {
    if (qos > 0) this.#acks.add(durability, qos === 1 ? 0x40 : 0x50, packetId, reason)
  }
}

/** How many bytes the variable byte integer at `at` takes. */
function lengthBytesOf(bytes: Buffer, at: number): number {
  let n = 1
  while (bytes[at + n - 1]! > 127) n++
  return n
}
