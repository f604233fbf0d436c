/**
 * What the broker keeps for a client id: its subscriptions, what is under way to it
 * and what waits. It outlives connections; the Link is there while one is.
 *
 * At most `window` messages of QoS 1 and 2 are under way at a time, the others wait
 * in a bounded queue. A client that reads slowly fills its own queue and nobody
 * else's: to it QoS 0 is dropped first, and counted.
 */
import type { Outbox } from '../net/outbox.js'
import type { QoS } from '../wire/frame.js'
import { type OutgoingAliases, publishLength, writePublish } from './encode.js'
import { Inflight, Outgoing } from './inflight.js'
import type { Message } from './message.js'
import { MQueue } from './mqueue.js'
import type { ShareGroup, Subscription } from './router.js'

/** The way to a connected client. */
export interface Link {
  readonly out: Outbox
  /** How it is written to: 4 for MQTT 3.1 and 3.1.1, 5 for MQTT 5. */
  readonly version: 4 | 5
  /** Of its CONNECT [MQTT-3.3.4-9]; 65 535 where it has none. */
  readonly receiveMaximum: number
  /** Larger packets are not sent to it [MQTT-3.1.2-24]; Infinity where it has no limit. */
  readonly maximumPacketSize: number
  /** Where it takes topic aliases. */
  readonly aliases: OutgoingAliases | undefined
  /** What stands before its topics everywhere but with itself; mostly nothing. */
  readonly mountpoint: string
}

export interface SessionLimits {
  /** Messages under way; 0 is no limit but the protocol's. */
  readonly maxInflight: number
  /** Messages that wait; 0 is no limit. */
  readonly maxQueued: number
  /** Whether QoS 0 waits for a client that is away. */
  readonly storeQos0: boolean
}

export class Session {
  readonly clientId: string
  readonly createdAt = new Date()
  readonly subscriptions = new Map<string, Subscription<Session>>()
  /** Packet ids of QoS 2 messages that came in and were not yet released [MQTT-4.3.3-2]. */
  readonly awaitingRel = new Set<number>()
  readonly #limits: SessionLimits
  readonly #queue: MQueue
  readonly #inflight = new Inflight()
  /** Under way since before this connection, to be sent again as the window allows; the last one first. */
  #resend: Outgoing[] = []
  /** Retained messages of new subscriptions, not yet sent. */
  #feeds: Iterator<Outgoing>[] = []
  #link: Link | undefined
  #window = 1
  /** Counters as emqttd has them in `sessions list`. */
  delivered = 0
  enqueued = 0
  /** QoS 0 that a slow or absent client missed, and what was too large for it. */
  missed = 0

  constructor(clientId: string, limits: SessionLimits) {
    this.clientId = clientId
    this.#limits = limits
    this.#queue = new MQueue(limits.maxQueued)
  }

  get online(): boolean {
    return this.#link !== undefined
  }

  get inflightLength(): number {
    return this.#inflight.size
  }

  get queueLength(): number {
    return this.#queue.length
  }

  get maxInflight(): number {
    return this.#limits.maxInflight
  }

  /** Thrown out of the queue for want of room, and missed. */
  get dropped(): number {
    return this.#queue.dropped + this.missed
  }

  /** Whether a message of a shared subscription would reach the client now rather than wait. */
  get ready(): boolean {
    return (
      this.#link !== undefined && !this.#hasWaiting && this.#unacknowledged < this.#window && !this.#link.out.congested
    )
  }

  /**
   * A connection is there: what was under way is sent again, with DUP and the same packet ids and in its order
   * [MQTT-4.4.0-1], [MQTT-4.6.0-1]; then what waited.
   */
  attach(link: Link): void {
    this.#link = link
    this.#window = Math.min(this.#limits.maxInflight || 65_535, link.receiveMaximum)
    this.#resend = this.#inflight.inOrder().reverse()
    this.pump()
  }

  detach(): void {
    this.#link = undefined
    this.#resend = []
    const feeds = this.#feeds
    this.#feeds = []
    for (const feed of feeds) {
      for (let next = feed.next(); !next.done && !this.#queue.full; next = feed.next()) {
        if (next.value.qos > 0) this.#queue.push(next.value)
      }
    }
  }

  /** Retained messages for a new subscription: sent as the window and the peer allow, before what is published now. */
  feed(source: Iterator<Outgoing>): void {
    this.#feeds.push(source)
    this.pump()
  }

  deliver(
    message: Message,
    qos: QoS,
    retain: boolean,
    identifiers: readonly number[] | undefined,
    group?: ShareGroup<Session>
  ): void {
    const link = this.#link
    if (qos === 0) {
      if (link === undefined) {
        if (this.#limits.storeQos0) this.#enqueue(message, qos, retain, identifiers, group)
        else this.missed++
      } else if (link.out.congested) this.missed++
      else if (this.#feeds.length > 0 || this.#queue.length0 > 0) {
        this.#enqueue(message, qos, retain, identifiers, group) // it must not overtake [MQTT-4.6.0-6]
      } else this.#send0(link, message, retain, identifiers)
      return
    }
    if (link === undefined || this.#hasWaiting || this.#unacknowledged >= this.#window || link.out.congested) {
      this.#enqueue(message, qos, retain, identifiers, group)
      return
    }
    this.#send(link, new Outgoing(message.kept(), qos, retain, identifiers, group))
  }

  /** Sends what waits as far as the window and the peer allow. */
  pump(): void {
    const link = this.#link
    if (link === undefined) return
    while (this.#resend.length > 0 && this.#unacknowledged < this.#window && !link.out.full) {
      this.#sendAgain(link, this.#resend.pop()!)
    }
    while (this.#resend.length === 0 && this.#unacknowledged < this.#window && !link.out.full) {
      const pending = this.#next()
      if (pending === undefined) break
      if (pending.message.expiredAt(Date.now())) continue // [MQTT-3.3.2-5]
      if (pending.qos === 0) this.#send0(link, pending.message, pending.retain, pending.identifiers)
      else this.#send(link, pending)
    }
    if (link.out.full && this.#hasWaiting) link.out.callWhenRoomy()
  }

  #next(): Outgoing | undefined {
    for (let feed = this.#feeds[0]; feed !== undefined; feed = this.#feeds[0]) {
      const { done, value } = feed.next()
      if (done !== true) return value
      this.#feeds.shift()
    }
    return this.#queue.shift()
  }

  get #hasWaiting(): boolean {
    return this.#queue.length > 0 || this.#resend.length > 0 || this.#feeds.length > 0
  }

  /** PUBACK; false when there was no such message. */
  acknowledged(packetId: number): boolean {
    if (this.#inflight.get(packetId)?.qos !== 1) return false
    this.#inflight.delete(packetId)
    if (this.#hasWaiting) this.pump()
    return true
  }

  /** PUBREC; false when there was no such message. One that refuses ends the exchange (MQTT 5, section 4.13.2). */
  received(packetId: number, refused: boolean): boolean {
    const entry = this.#inflight.get(packetId)
    if (entry?.qos !== 2) return false
    if (refused) {
      this.#inflight.delete(packetId)
      this.pump()
      return true
    }
    entry.received = true
    this.#link?.out.acknowledge(0x62, packetId)
    return true
  }

  /** PUBCOMP; false when there was no such message. */
  completed(packetId: number): boolean {
    const entry = this.#inflight.get(packetId)
    if (entry?.received !== true) return false
    this.#inflight.delete(packetId)
    if (this.#hasWaiting) this.pump()
    return true
  }

  /** The session is over: what a shared subscription brought and the client did not take, for others to have. */
  end(): Outgoing[] {
    this.detach()
    const left: Outgoing[] = []
    for (const entry of this.#inflight.inOrder()) if (entry.group !== undefined && !entry.received) left.push(entry)
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      if (next.group !== undefined) left.push(next)
    }
    this.#inflight.clear()
    this.awaitingRel.clear()
    return left
  }

  /** Messages that the peer has and did not acknowledge yet: those still to be sent again do not count. */
  get #unacknowledged(): number {
    return this.#inflight.size - this.#resend.length
  }

  #enqueue(
    message: Message,
    qos: QoS,
    retain: boolean,
    identifiers: readonly number[] | undefined,
    group: ShareGroup<Session> | undefined
  ): void {
    this.enqueued++
    this.#queue.push(new Outgoing(message.kept(), qos, retain, identifiers, group))
  }

  #send0(link: Link, message: Message, retain: boolean, identifiers: readonly number[] | undefined): void {
    const flags = retain ? 1 : 0
    if (this.#tooLarge(link, message, 0, identifiers)) return
    this.delivered++
    // The same version and flags: the packet as it came is the packet to send.
    if (
      message.frameAt >= 0 &&
      link.version === message.frameVersion &&
      flags === message.frameFlags &&
      identifiers === undefined &&
      link.aliases === undefined &&
      link.mountpoint === ''
    ) {
      link.out.append(message.bytes, message.frameAt, message.end)
    } else {
      writePublish(link, message, flags, 0, identifiers)
    }
  }

  #send(link: Link, outgoing: Outgoing): void {
    const { message, qos, retain, identifiers } = outgoing
    if (this.#tooLarge(link, message, qos, identifiers)) return
    const packetId = this.#inflight.add(outgoing)
    this.delivered++
    writePublish(link, message, (qos << 1) | (retain ? 1 : 0), packetId, identifiers)
  }

  #sendAgain(link: Link, { packetId, qos, received, message, retain, identifiers }: Outgoing): void {
    if (this.#inflight.get(packetId) === undefined) return // acknowledged meanwhile
    if (received) link.out.acknowledge(0x62, packetId)
    // The client may take less than before, [MQTT-3.1.2-24], [MQTT-3.1.2-25].
    else if (this.#tooLarge(link, message, qos, identifiers)) this.#inflight.delete(packetId)
    else writePublish(link, message, 8 | (qos << 1) | (retain ? 1 : 0), packetId, identifiers)
  }

  #tooLarge(link: Link, message: Message, qos: number, identifiers: readonly number[] | undefined): boolean {
    if (link.maximumPacketSize === Number.POSITIVE_INFINITY) return false
    if (publishLength(link, message, qos, identifiers) <= link.maximumPacketSize) return false
    this.missed++
    return true
  }
}
