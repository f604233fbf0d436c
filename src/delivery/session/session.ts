/**
 * What the broker keeps for a client id: its subscriptions, what is under way to it
 * and what waits. It outlives connections; the Link is there while one is.
 *
 * At most `window` messages of QoS 1 and 2 are under way at a time, the others wait
 * in a bounded queue. A client that reads slowly fills its own queue and nobody
 * else's: to it QoS 0 is dropped first, and counted.
 *
 * The file is longer than others: window, queue, replay and acknowledgements change one state, in an order that
 * matters, and a cut between them would open that state to its neighbours.
 */

import { Metrics } from '../../observe/metrics.js'
import type { SessionLog } from '../../persistence/session-log.js'
import type { LoggedSession } from '../../persistence/stored-delivery.js'
import type { QoS } from '../../wire/frame.js'
import { protocolError } from '../../wire/reason-codes.js'
import type { Message } from '../message.js'
import type { ShareGroup, Subscription } from '../router.js'
import type { EndingSubscriber, Subscriber } from '../subscriber.js'
import { AwaitingRel } from './awaiting-rel.js'
import { Denials } from './denials.js'
import { type DropCause, Drops } from './drops.js'
import { Inflight } from './inflight.js'
import type { Link } from './link.js'
import { publishLength, writePublish, writeQos0 } from './mqtt-link.js'
import { MQueue } from './mqueue.js'
import { Outgoing } from './outgoing.js'
import { RetainedReplay } from './retained-replay.js'
import { notSent, RetryTimer, retry, shorter, type Wheel } from './retry.js'
import type { SessionLimits } from './session-limits.js'

/** What the sessions need of their owner, the client manager. */
export interface SessionHost {
  readonly wheel: Wheel
  /** A queue went over the high watermark, or is down at the low one. */
  queueIsHigh(session: Session, isHigh: boolean): void
  /** A connected client has missed a message; not told again before reportDropsAgain(). */
  drops(session: Session): void
  ended(session: Session): void
}

/** More than a queue has: a small integer, which costs nothing to compare. */
const never = 0x3fffffff

export class Session implements EndingSubscriber<Outgoing>, LoggedSession {
  readonly clientId: string
  readonly createdAt: Date
  readonly subscriptions = new Map<string, Subscription<Subscriber>>()
  /** QoS 2 messages that came in and were not yet released. */
  readonly awaitingRel = new AwaitingRel()
  /** Where what it has is stored; undefined for a session that ends with its connection, or where nothing is. */
  sessionLog: SessionLog | undefined
  #limits: SessionLimits
  readonly #host: SessionHost | undefined
  readonly #wheel: SessionHost['wheel'] | undefined
  #highWatermark = never
  /** The shorter of the two times after which something is overdue; 0 is none. */
  #interval = 0
  readonly #metrics: Metrics
  readonly #queue: MQueue
  readonly #inflight = new Inflight()
  /** Under way since before this connection, to be sent again as the window allows; the last one first. */
  #resend: Outgoing[] = []
  #replays: RetainedReplay[] = []
  /** The next to be sent, which cannot be yet: its record is not on disk, or its packet id still another's. */
  #next: Outgoing | undefined
  #link: Link | undefined
  #window = 1
  /** There from the first message on that may have to be sent again. */
  #timer: RetryTimer | undefined
  /** Whether the timer is to run, and does not yet. */
  #mayWatch = false
  #isHigh = false
  #isDropTold = false
  /** Messages from the client. */
  published = 0
  /** Counters as emqttd has them in `sessions list`. */
  delivered = 0
  enqueued = 0
  /** QoS 0 that a slow or absent client missed, and what was too large for it. */
  missed = 0
  /** The same by cause, and what the queue and the expiry took. */
  drops: Drops | undefined
  /** The last filters that it asked for and did not get. */
  denials: Denials | undefined

  /** @param host without one nothing is done on a timer, and nothing is reported. */
  constructor(
    clientId: string,
    limits: SessionLimits,
    host?: SessionHost,
    createdAt = new Date(),
    metrics = new Metrics()
  ) {
    this.clientId = clientId
    this.createdAt = createdAt
    this.#limits = limits
    this.#metrics = metrics
    this.#host = host
    this.#wheel = host?.wheel
    this.#queue = new MQueue(limits.maxQueued, limits.priorities)
    this.#derive()
  }

  #derive(): void {
    this.#highWatermark = this.#host === undefined ? never : (this.#limits.highWatermark ?? never)
    const { retryInterval = 0, awaitRelTimeout = 0 } = this.#limits
    this.#interval = shorter(retryInterval, awaitRelTimeout)
  }

  /** Other limits; the window of a connected client stays what it was until it comes back. */
  reconfigure(limits: SessionLimits): void {
    this.#limits = limits
    this.#derive()
    for (const lost of this.#queue.reconfigure(limits.maxQueued, limits.priorities)) this.#drop(lost)
    if (this.#isHigh) {
      if (this.#queue.length <= (limits.lowWatermark ?? 0) || this.#highWatermark === never) this.#high(false)
    } else if (this.#queue.length > this.#highWatermark) this.#high(true)
    this.#timer?.stop()
    this.#mayWatch = this.#wheel !== undefined && this.#interval > 0 && this.#link?.version === 4
    if (this.#mayWatch && (this.#inflight.size > 0 || this.awaitingRel.size > 0)) this.#watch(this.#interval)
  }

  get online(): boolean {
    return this.#link !== undefined
  }

  get inflightLength(): number {
    return this.#inflight.size
  }

  get queueLength(): number {
    return this.#queue.length + (this.#next === undefined ? 0 : 1)
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
    for (const outgoing of this.#resend) outgoing.sentAt = notSent
    this.#mayWatch = this.#wheel !== undefined && this.#interval > 0 && link.version === 4
    if (this.#mayWatch) for (const packetId of this.awaitingRel.ids()) this.awaitRelease(packetId) // its absence does not count
    this.pump()
  }

  detach(): void {
    this.#link = undefined
    this.#mayWatch = false
    this.#timer?.stop()
    this.#resend = []
    const replays = this.#replays
    this.#replays = []
    for (const replay of replays) {
      while (!this.#queue.full) {
        const next = replay.next()
        if (next === undefined) break
        if (next.qos === 0) continue
        this.sessionLog?.add(next, false)
        this.#wait(next)
      }
    }
    this.#hurry()
  }

  /** Retained messages for a new subscription: sent as the window and the peer allow, before what is published now. */
  replayRetained(source: Iterator<Outgoing>): void {
    this.#replays.push(new RetainedReplay(source))
    this.pump()
  }

  deliver(
    message: Message,
    qos: QoS,
    retain: boolean,
    identifiers: readonly number[] | undefined,
    group?: ShareGroup<Subscriber>
  ): void {
    const link = this.#link
    if (qos === 0) {
      if (link === undefined) {
        if (this.#limits.storeQos0) this.#enqueue(message, qos, retain, identifiers, group)
        else {
          this.missed++
          this.#metrics.droppedAway++
          this.#note('away', message, qos)
        }
      } else if (link.out.congested) {
        this.#metrics.droppedSlow++
        this.#note('slow', message, qos)
        this.#miss()
      } else if (this.#replays.length > 0 || this.#queue.length0 > 0) {
        this.#enqueue(message, qos, retain, identifiers, group) // it must not overtake [MQTT-4.6.0-6]
      } else this.#send0(link, message, retain, identifiers)
      return
    }
    if (link === undefined || this.#hasWaiting || this.#unacknowledged >= this.#window || link.out.congested) {
      this.#enqueue(message, qos, retain, identifiers, group)
      return
    }
    const outgoing = new Outgoing(message.owned(), qos, retain, identifiers, group)
    this.sessionLog?.add(outgoing, true)
    if (this.#maySend(outgoing)) this.#send(link, outgoing)
    else this.#next = outgoing
  }

  /** Sends what waits as far as the window and the peer allow. */
  pump(): void {
    const link = this.#link
    if (link === undefined) return
    while (this.#resend.length > 0 && this.#unacknowledged < this.#window && !link.out.full) {
      this.#sendAgain(link, this.#resend.pop()!)
    }
    while (this.#resend.length === 0 && this.#unacknowledged < this.#window && !link.out.full) {
      const pending = this.#next ?? this.#take()
      this.#next = undefined
      if (pending === undefined) break
      if (pending.message.expiredAt(Date.now())) {
        this.#metrics.droppedExpired++
        this.#note('expired', pending.message, pending.qos)
        pending.stored?.forget() // [MQTT-3.3.2-5]
        continue
      }
      if (!this.#maySend(pending)) {
        this.#next = pending
        break
      }
      if (pending.qos === 0) this.#send0(link, pending.message, pending.retain, pending.identifiers)
      else this.#send(link, pending)
    }
    if (link.out.full && this.#hasWaiting) link.out.callWhenRoomy()
  }

  /** One of QoS 2 goes out under a packet id that is kept; a kept one only once the id is free. */
  #maySend(outgoing: Outgoing): boolean {
    const { stored } = outgoing
    return stored === undefined || (stored.isSafe && this.#inflight.get(outgoing.packetId) === undefined)
  }

  #take(): Outgoing | undefined {
    for (let replay = this.#replays[0]; replay !== undefined; replay = this.#replays[0]) {
      const next = replay.next()
      if (next === undefined) this.#replays.shift()
      else {
        if (next.qos > 0) this.sessionLog?.add(next, true)
        return next
      }
    }
    const next = this.#queue.shift()
    if (this.#isHigh && this.#queue.length <= (this.#limits.lowWatermark ?? 0)) this.#high(false)
    return next
  }

  get #hasWaiting(): boolean {
    return this.#queue.length > 0 || this.#resend.length > 0 || this.#replays.length > 0 || this.#next !== undefined
  }

  /** PUBACK; false when there was no such message. Like the next two, it throws when the message takes another answer. */
  acknowledged(packetId: number): boolean {
    const outgoing = this.#inflight.get(packetId)
    if (outgoing === undefined) return false
    if (outgoing.qos !== 1) throw protocolError('PUBACK for QoS 2') // [MQTT-4.3.3-8]
    this.#inflight.delete(packetId)
    outgoing.stored?.forget()
    if (this.#hasWaiting) this.pump()
    return true
  }

  /** PUBREC; false when there was no such message. One that refuses ends the exchange (MQTT 5, section 4.13.2). */
  received(packetId: number, refused: boolean): boolean {
    const outgoing = this.#inflight.get(packetId)
    if (outgoing === undefined) return false
    if (outgoing.qos !== 2) throw protocolError('PUBREC for QoS 1') // [MQTT-4.3.2-4]
    if (refused) {
      this.#inflight.delete(packetId)
      outgoing.stored?.forget()
      this.pump()
      return true
    }
    outgoing.received = true
    if (outgoing.stored === undefined) this.released(outgoing)
    else outgoing.stored.received()
    return true
  }

  released(outgoing: Outgoing): void {
    if (this.#link === undefined || this.#inflight.get(outgoing.packetId) !== outgoing) return
    this.#stamp(outgoing)
    this.#metrics.pubrelSent++
    this.#link.out.acknowledge(0x62, outgoing.packetId)
  }

  /** PUBCOMP; false when there was no such message. */
  completed(packetId: number): boolean {
    const outgoing = this.#inflight.get(packetId)
    if (outgoing === undefined) return false
    if (!outgoing.received) throw protocolError('PUBCOMP before PUBREC') // [MQTT-4.3.3-11]
    this.#inflight.delete(packetId)
    outgoing.stored?.forget()
    if (this.#hasWaiting) this.pump()
    return true
  }

  /** A QoS 2 message came in, and is routed once until its id is released [MQTT-4.3.3-2]. */
  awaitRelease(packetId: number): void {
    const isNew = this.awaitingRel.take(packetId, this.#wheel === undefined ? 0 : this.#wheel.tick)
    if (isNew) this.sessionLog?.incoming(packetId)
    if (this.#mayWatch) this.#watch(this.#interval)
  }

  /** PUBREL, or none in time; false when there was no such id. */
  release(packetId: number): boolean {
    const was = this.awaitingRel.release(packetId)
    this.sessionLog?.incomingReleased(packetId) // if there was none: its end may not be on disk yet
    return was
  }

  // ── what is overdue ──

  /** It, or its PUBREL, is being sent. */
  #stamp(outgoing: Outgoing): void {
    if (this.#wheel === undefined) return
    outgoing.sentAt = this.#wheel.tick
    if (this.#mayWatch) this.#watch(this.#interval)
  }

  /** One timer for all that is under way, and none for a session that has nothing. */
  #watch(ms: number): void {
    this.#mayWatch = false
    this.#timer ??= new RetryTimer(this.#wheel!, tick => this.#overdue(tick))
    this.#timer.start(ms)
  }

  #overdue(tick: number): void {
    const link = this.#link
    const wheel = this.#wheel
    if (wheel === undefined || link === undefined) return
    this.#mayWatch = true
    const { retryInterval = 0, awaitRelTimeout = 0 } = this.#limits
    let next = Number.POSITIVE_INFINITY
    if (retryInterval > 0 && this.#inflight.size > 0) {
      const again = (outgoing: Outgoing): void => this.#sendAgain(link, outgoing)
      next = retry(this.#inflight, link, tick, retryInterval / wheel.tickMs, again)
    }
    if (awaitRelTimeout > 0 && this.awaitingRel.size > 0) {
      const { late, nextAt } = this.awaitingRel.overdue(tick, awaitRelTimeout / wheel.tickMs)
      for (const packetId of late) this.release(packetId)
      next = Math.min(next, nextAt)
    }
    if (next === Number.POSITIVE_INFINITY) return
    this.#watch(Math.min(Math.max(1, (next - tick) * wheel.tickMs), this.#interval))
  }

  // ── what an operator is told ──

  /** What it misses from now on is told again. */
  reportDropsAgain(): void {
    this.#isDropTold = false
  }

  #note(cause: DropCause, { topic }: Message, qos: number): void {
    this.drops ??= new Drops()
    this.drops.note(cause, topic, qos)
  }

  /** A filter that it asked for was not granted. */
  noteDenial(filter: string, why: string): void {
    this.denials ??= new Denials()
    this.denials.note(filter, why)
  }

  /** What a message meets here now. */
  get state() {
    const { maxQueued, storeQos0 } = this.#limits
    return {
      inflight: this.#unacknowledged,
      window: this.#window,
      queued: this.queueLength,
      maxQueued,
      storesQos0: storeQos0,
      congested: this.#link?.out.congested ?? false,
      /** Bytes of a packet. */
      largest: this.#link?.maximumPacketSize ?? Number.POSITIVE_INFINITY
    }
  }

  /** Bytes of the packet that the message would come in; 0 while the client is away. */
  lengthOf(message: Message, qos: QoS): number {
    return this.#link === undefined ? 0 : publishLength(this.#link, message, qos, undefined)
  }

  #miss(): void {
    this.missed++
    this.#lost()
  }

  #lost(): void {
    if (this.#isDropTold || this.#link === undefined) return
    this.#isDropTold = true
    this.#host?.drops(this)
  }

  #high(isHigh: boolean): void {
    this.#isHigh = isHigh
    this.#host?.queueIsHigh(this, isHigh)
  }

  // ── subscriptions ──

  get filters(): Iterable<string> {
    return this.subscriptions.keys()
  }

  get isStored(): boolean {
    return this.sessionLog !== undefined
  }

  subscribed(subscription: Subscription<Subscriber>): void {
    this.subscriptions.set(subscription.filter, subscription)
    this.sessionLog?.subscribed(subscription)
  }

  unsubscribed(filter: string): void {
    this.subscriptions.delete(filter)
    this.sessionLog?.unsubscribed(filter) // if there was none: its end may not be on disk yet
  }

  // ── its end ──

  /** The session is over. All that was on its way to the client, in order. */
  end(): Outgoing[] {
    this.detach()
    const left = this.waiting()
    while (this.#queue.shift() !== undefined);
    this.#next = undefined
    this.#inflight.clear()
    this.#host?.ended(this)
    return left
  }

  /** All that is on its way to the client, in order. */
  waiting(): Outgoing[] {
    const all = this.#inflight.inOrder()
    if (this.#next !== undefined) all.push(this.#next)
    this.#queue.each(outgoing => all.push(outgoing))
    return all
  }

  ended(left: readonly Outgoing[]): void {
    this.forget(left)
    this.subscriptions.clear()
    this.awaitingRel.clear()
  }

  /** The store no longer has the session: it is over, or ends with its connection from now on. */
  forget(left: readonly Outgoing[]): void {
    for (const { stored } of left) stored?.forget()
    const { sessionLog } = this
    if (sessionLog === undefined) return
    for (const filter of this.subscriptions.keys()) sessionLog.unsubscribed(filter)
    for (const packetId of this.awaitingRel.ids()) sessionLog.incomingReleased(packetId)
    this.sessionLog = undefined
  }

  // ── what is stored ──

  /** What was held back is written before what comes now that the client is gone. */
  #hurry(): void {
    const { sessionLog } = this
    if (sessionLog === undefined) return
    for (const outgoing of this.waiting()) sessionLog.hurry(outgoing)
  }

  /** An entry of the store. @param isSent the client may have had it. */
  restore(outgoing: Outgoing, isSent: boolean): void {
    if (isSent) this.#inflight.add(outgoing)
    else this.#wait(outgoing)
  }

  withdraw(outgoing: Outgoing): boolean {
    if (this.#next !== outgoing) return this.#queue.remove(outgoing)
    this.#next = undefined
    this.pump() // what waited behind it
    return true
  }

  /** Packet ids of what is under way, in the order in which it was first sent. */
  underWay(): number[] {
    return this.#inflight.inOrder().map(({ packetId }) => packetId)
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
    group: ShareGroup<Subscriber> | undefined
  ): void {
    this.enqueued++
    const outgoing = new Outgoing(message.owned(), qos, retain, identifiers, group)
    if (qos > 0) this.sessionLog?.add(outgoing, this.#link !== undefined)
    const waits = this.#wait(outgoing)
    if (waits && message.retain) for (const replay of this.#replays) replay.overtake(message.topic)
  }

  /** False when there was no room for it. */
  #wait(outgoing: Outgoing): boolean {
    const lost = this.#queue.push(outgoing)
    if (lost !== undefined) this.#drop(lost)
    if (this.#queue.length > this.#highWatermark && !this.#isHigh) this.#high(true)
    return lost !== outgoing
  }

  #drop(lost: Outgoing): void {
    lost.stored?.forget()
    this.#metrics.droppedQueueFull++
    this.#note('queue_full', lost.message, lost.qos)
    this.#lost()
  }

  #send0(link: Link, message: Message, retain: boolean, identifiers: readonly number[] | undefined): void {
    const flags = retain ? 1 : 0
    if (this.#tooLarge(link, message, 0, identifiers)) return
    this.delivered++
    this.#metrics.qos0Sent += message.counts
    writeQos0(link, message, flags, identifiers)
  }

  #send(link: Link, outgoing: Outgoing): void {
    const { message, qos, retain, identifiers } = outgoing
    if (this.#tooLarge(link, message, qos, identifiers)) {
      outgoing.stored?.forget()
      return
    }
    const packetId = this.#inflight.add(outgoing)
    this.#stamp(outgoing)
    this.delivered++
    if (qos === 1) this.#metrics.qos1Sent += message.counts
    else this.#metrics.qos2Sent += message.counts
    writePublish(link, message, (qos << 1) | (retain ? 1 : 0), packetId, identifiers)
  }

  #sendAgain(link: Link, outgoing: Outgoing): void {
    const { packetId, qos, received, message, retain, identifiers } = outgoing
    if (this.#inflight.get(packetId) === undefined) return // acknowledged meanwhile
    this.#stamp(outgoing)
    if (received) {
      if (outgoing.stored?.isReleasing === true) return
      this.#metrics.pubrelSent++
      link.out.acknowledge(0x62, packetId)
    } else if (this.#tooLarge(link, message, qos, identifiers)) {
      this.#inflight.delete(packetId) // the client takes less than before [MQTT-3.1.2-24], [MQTT-3.1.2-25]
      outgoing.stored?.forget()
    } else {
      if (qos === 1) this.#metrics.qos1Sent += message.counts
      else this.#metrics.qos2Sent += message.counts
      writePublish(link, message, 8 | (qos << 1) | (retain ? 1 : 0), packetId, identifiers)
    }
  }

  #tooLarge(link: Link, message: Message, qos: number, identifiers: readonly number[] | undefined): boolean {
    if (link.maximumPacketSize === Number.POSITIVE_INFINITY) return false
    if (publishLength(link, message, qos, identifiers) <= link.maximumPacketSize) return false
    this.missed++
    this.#metrics.droppedTooLarge++
    this.#note('too_large', message, qos)
    return true
  }
}
