/**
 * What must outlive the process: stored sessions with what is on its way to them, and
 * retained messages. All of it is in memory; the persistence sees that the store has it too,
 * and that nothing is acknowledged before.
 *
 * - A PUBLISH gets a Durability when somebody must keep it, and is acknowledged when that settles: everything it
 *   stands for is on disk, or no longer needed since the clients have acknowledged it.
 * - QoS 2 is exactly once through a crash, so nothing of it is said before it is written: the message is not sent
 *   before its packet id is kept, PUBREL not before PUBREC is, PUBCOMP not before the id is free in the store too.
 *   That a QoS 2 message came in and what became of it are one: they are written in the same batch.
 * - An entry's packet id follows from its place in the order of the session, so that it needs no record of its own.
 */

import type { Message } from '../delivery/message.js'
import type { Outgoing } from '../delivery/session/inflight.js'
import type { Batch, Store, Table } from '../store/store.js'
import {
  type Change,
  type Revocable,
  WriteQueue,
  type WriteQueueEvents,
  type WriteQueueTimes
} from '../store/write-queue.js'
import {
  encodeEntry,
  encodeSubscription,
  messageRecord,
  numberKey,
  pairKey,
  type SubscriptionRecord,
  subscriptionKey,
  textKey
} from './records.js'

export interface DurabilityObserver {
  durabilitySettled(): void
}

function both(first: DurabilityObserver, second: DurabilityObserver): void {
  first.durabilitySettled()
  second.durabilitySettled()
}

/** What a publisher, or a subscriber that waits for SUBACK, waits for. */
export class Durability {
  #open = 0
  /** Something could not be kept. */
  failed = false
  #settled: DurabilityObserver | undefined

  /** Is called when nothing is open any more, after those that came before. */
  set settled(settled: DurabilityObserver) {
    const before = this.#settled
    this.#settled = before === undefined ? settled : { durabilitySettled: () => both(before, settled) }
  }

  get isOpen(): boolean {
    return this.#open > 0
  }

  opens(): void {
    this.#open++
  }

  closes(): void {
    if (--this.#open === 0) this.#settled?.durabilitySettled()
  }

  fails(): void {
    this.failed = true
    this.closes()
  }
}

export class Persistence {
  readonly queue: WriteQueue
  /** Whether acknowledgements wait for the disk. */
  readonly waits: boolean
  #durability: Durability | undefined
  #isGathering = false
  /** Messages go from one session to another: they must be with the second before the first has them no longer. */
  isMoving = false
  /** What is gathered must be in one batch, so that nothing of it is held back. */
  isWhole = false
  #lastSession = 0
  #lastMessage = 0
  readonly #retained = new Map<string, RetainedChange>()

  /** @param waits false where `store.sync` lets what is acknowledged be lost. */
  constructor(store: Store, events: WriteQueueEvents, { waits = true, times }: PersistenceOptions = {}) {
    this.queue = new WriteQueue(store, events, times)
    this.waits = waits
  }

  /** From here to gathered(), what is kept is kept for one durability. */
  gather(): void {
    this.#isGathering = this.waits
    this.#durability = undefined
    this.queue.mayCut()
  }

  /** Undefined when nothing has to be kept, or nobody waits for it. */
  gathered(): Durability | undefined {
    this.#isGathering = this.isWhole = false
    const durability = this.#durability
    this.#durability = undefined
    return durability
  }

  /** The durability of what is going on; undefined when nobody waits for that. */
  durability(): Durability | undefined {
    if (!this.#isGathering || this.isMoving) return undefined // what moves was acknowledged before
    this.#durability ??= new Durability()
    this.#durability.opens()
    return this.#durability
  }

  nextSession(): number {
    return ++this.#lastSession
  }

  nextMessage(): number {
    return ++this.#lastMessage
  }

  /** Numbers that are in use. */
  used({ session = 0, message = 0 }): void {
    this.#lastSession = Math.max(this.#lastSession, session)
    this.#lastMessage = Math.max(this.#lastMessage, message)
  }

  /**
   * A topic's retained message has changed.
   * @param undo puts back what was there in place of `message`, for a publisher that is told that it was not kept.
   */
  retain(topic: string, message: Message | undefined, undo: Undo): void {
    const durability = this.durability()
    const pending = this.#retained.get(topic)
    if (pending?.isOpen) {
      pending.message = message
      if (durability !== undefined) pending.durabilities.push(durability)
      if (durability !== undefined) this.queue.hasten()
      return
    }
    const change = new RetainedChange(topic, message, undo, this.#retained)
    if (durability !== undefined) change.durabilities.push(durability)
    this.#retained.set(topic, change)
    if (durability === undefined) this.queue.eventually(change)
    else this.queue.soon(change)
  }

  /** Whether the topic's last change is not on disk yet. */
  isRetaining(topic: string): boolean {
    return this.#retained.has(topic)
  }

  /** Nobody waits for it. */
  put(table: Table, key: Uint8Array, value: Uint8Array): void {
    this.queue.eventually(new Write(table, key, value, undefined))
  }

  remove(table: Table, key: Uint8Array): void {
    this.queue.eventually(new Removal(table, key))
  }
}

/** @param wasWritten the disk may have `message` though it failed. */
type Undo = (message: Message | undefined, wasWritten: boolean) => void

export interface PersistenceOptions {
  readonly waits?: boolean
  readonly times?: WriteQueueTimes
}

/** The session that entries belong to. */
export interface LoggedSession {
  /** Entries are on disk that it may now send. */
  pump(): void
  /** The message was refused; false when it has been sent already. */
  withdraw(outgoing: Outgoing): boolean
  /** That the client has the message is on disk. */
  released(outgoing: Outgoing): void
}

/** A stored session's part of the store. */
export class SessionLog implements Change {
  readonly id: number
  readonly #persistence: Persistence
  readonly #key: Buffer
  readonly #session: LoggedSession
  #sequence = 0
  #isDirty = false
  /** The session's record as it is now; undefined when it is over. */
  record: () => Uint8Array | undefined = () => undefined

  constructor(
    persistence: Persistence,
    clientId: string,
    session: LoggedSession,
    { id = persistence.nextSession(), sequence = 0 } = {}
  ) {
    this.#persistence = persistence
    this.#key = textKey(clientId)
    this.#session = session
    this.id = id
    this.#sequence = sequence
  }

  get queue(): WriteQueue {
    return this.#persistence.queue
  }

  /** The message is to be kept until it is forgotten. Gives it its packet id. @param isUnderWay to a client that is there. */
  add(outgoing: Outgoing, isUnderWay: boolean): void {
    const entry = this.#entry(outgoing, ++this.#sequence)
    const { isMoving, isWhole } = this.#persistence
    if (outgoing.qos === 1 && isUnderWay && !isMoving && !isWhole) this.queue.unlessRevoked(entry)
    else this.queue.soon(entry)
  }

  /** An entry of the store. */
  restored(outgoing: Outgoing, sequence: number): void {
    this.#sequence = Math.max(this.#sequence, sequence)
    this.#entry(outgoing, sequence, true)
  }

  #entry(outgoing: Outgoing, sequence: number, isKept = false): StoredDelivery {
    const entry = new StoredDelivery(this.#persistence, this, this.#session, outgoing, sequence, isKept)
    outgoing.stored = entry
    outgoing.packetId = (sequence % 65_535) + 1
    return entry
  }

  /** What was held back for a client that is gone now is written: the order of the session must be the store's too. */
  hurry(outgoing: Outgoing): void {
    if (outgoing.stored?.needed) this.queue.soon(outgoing.stored)
  }

  subscribed(subscription: SubscriptionRecord): void {
    const key = subscriptionKey(this.id, subscription.filter)
    this.queue.soon(new Write('subscription', key, encodeSubscription(subscription), this.#persistence.durability()))
  }

  unsubscribed(filter: string): void {
    this.queue.soon(new Removal('subscription', subscriptionKey(this.id, filter), this.#persistence.durability()))
  }

  /** A QoS 2 message came in; its id is taken. */
  incoming(packetId: number): void {
    this.#persistence.isWhole = true
    const key = pairKey(this.id, packetId)
    this.queue.soon(new Write('incoming', key, Buffer.alloc(0), this.#persistence.durability()))
  }

  /** PUBREL came, the id is free. */
  incomingReleased(packetId: number): void {
    this.queue.soon(new Freed('incoming', pairKey(this.id, packetId), this.#persistence.durability()))
  }

  /** The session's record has changed. */
  changed(): void {
    const durability = this.#persistence.durability()
    if (durability !== undefined) this.queue.soon(new Waiting(this, durability))
    else if (!this.#isDirty) this.queue.eventually(this)
    this.#isDirty = true
  }

  write(batch: Batch): void {
    this.#isDirty = false
    const record = this.record()
    if (record === undefined) batch.delete('session', this.#key)
    else batch.put('session', this.#key, record)
  }

  committed(): void {}

  failed(): boolean {
    this.#isDirty = true
    return true
  }
}

/** Entry's states: it is to be written, it is being written, it is on disk, it is needed no longer. */
const held = 0
const writing = 1
const kept = 2
const gone = 3

/** A message that one stored session has not got yet. */
export class StoredDelivery implements Revocable {
  #state = held
  readonly #persistence: Persistence
  readonly #log: SessionLog
  readonly #session: LoggedSession
  readonly #outgoing: Outgoing
  readonly #sequence: number
  #durability: Durability | undefined
  /** In the batch that is on its way. */
  #wroteMessage = false

  constructor(
    persistence: Persistence,
    keep: SessionLog,
    session: LoggedSession,
    outgoing: Outgoing,
    sequence: number,
    isKept: boolean
  ) {
    this.#persistence = persistence
    this.#log = keep
    this.#session = session
    this.#outgoing = outgoing
    this.#sequence = sequence
    if (isKept) this.#state = kept
    else this.#durability = persistence.durability()
    outgoing.message.holders++
  }

  get sequence(): number {
    return this.#sequence
  }

  get needed(): boolean {
    return this.#state === held
  }

  /** Whether the message may be sent: one of QoS 2 only under an id that is on disk. */
  get isSafe(): boolean {
    return this.#state >= kept || this.#outgoing.qos < 2 || !this.#persistence.waits
  }

  get key(): Buffer {
    return pairKey(this.#log.id, this.#sequence)
  }

  write(batch: Batch): void {
    if (this.#state !== held) return
    this.#state = writing
    const { qos, retain, identifiers, group } = this.#outgoing
    const message = this.#body(batch)
    batch.put('entry', this.key, encodeEntry({ qos, retain, identifiers, shared: group?.filter, message }))
  }

  /** The message itself, or its number where it is on its way to more than one. */
  #body(batch: Batch): Message | number | undefined {
    const { message, received } = this.#outgoing
    if (received) return undefined
    if (message.number === 0 && message.holders === 1) return message
    if (message.number === 0) {
      message.number = this.#persistence.nextMessage()
      this.#wroteMessage = true
      batch.put('message', numberKey(message.number), messageRecord(message))
    }
    return message.number
  }

  committed(): void {
    if (this.#state !== writing) return
    this.#state = kept
    this.#wroteMessage = false
    this.#settle()
    if (this.#outgoing.qos === 2) this.#session.pump()
  }

  failed(): boolean {
    if (this.#wroteMessage) this.#outgoing.message.number = 0 // others may have counted on it, which are told too
    this.#wroteMessage = false
    if (this.#state === gone) return false
    const wasWritten = this.#state === writing
    this.#state = held
    const durability = this.#durability
    if (durability === undefined) return true
    this.#durability = undefined
    if (this.#session.withdraw(this.#outgoing)) {
      this.#leave()
      if (wasWritten) this.#persistence.remove('entry', this.key) // a disk that failed may have it nevertheless
    }
    durability.fails()
    return this.needed
  }

  /** The client has it, or is never to get it. */
  forget(): void {
    const wasWritten = this.#state === kept || this.#state === writing
    if (this.#state === gone) return
    this.#leave()
    if (wasWritten) this.#persistence.remove('entry', this.key)
    this.#settle()
  }

  /** The client has the message, not yet the end of the exchange: from now on there is only PUBREL to be sent. */
  received(): void {
    if (this.#state === gone) return this.#session.released(this.#outgoing)
    const release = new Release(this, this.#session, this.#outgoing)
    if (this.#persistence.waits) {
      this.isReleasing = true
      this.#persistence.queue.soon(release)
    } else {
      this.#persistence.queue.eventually(release)
      this.#session.released(this.#outgoing)
    }
  }

  /** That the client has the message is not on disk yet, so PUBREL waits. */
  isReleasing = false

  get isGone(): boolean {
    return this.#state === gone
  }

  #leave(): void {
    this.#state = gone
    this.isReleasing = false
    const { message } = this.#outgoing
    if (--message.holders === 0 && message.number !== 0) {
      this.#persistence.remove('message', numberKey(message.number))
      message.number = 0
    }
  }

  #settle(): void {
    const durability = this.#durability
    this.#durability = undefined
    durability?.closes()
  }
}

/** PUBREC came. */
class Release implements Change {
  readonly #entry: StoredDelivery
  readonly #session: LoggedSession
  readonly #outgoing: Outgoing

  constructor(entry: StoredDelivery, session: LoggedSession, outgoing: Outgoing) {
    this.#entry = entry
    this.#session = session
    this.#outgoing = outgoing
  }

  write(batch: Batch): void {
    if (this.#entry.isGone) return
    const { retain, identifiers } = this.#outgoing
    batch.put(
      'entry',
      this.#entry.key,
      encodeEntry({ qos: 2, retain, identifiers, shared: undefined, message: undefined })
    )
  }

  committed(): void {
    if (!this.#entry.isReleasing || this.#entry.isGone) return
    this.#entry.isReleasing = false
    this.#session.released(this.#outgoing)
  }

  failed(): boolean {
    return !this.#entry.isGone
  }
}

class RetainedChange implements Change {
  readonly durabilities: Durability[] = []
  message: Message | undefined
  /** Others of the topic may join it: it is not being written yet. */
  isOpen = true
  readonly #topic: string
  readonly #undo: Undo
  /** The newest of each topic. */
  readonly #pending: Map<string, RetainedChange>

  constructor(topic: string, message: Message | undefined, undo: Undo, pending: Map<string, RetainedChange>) {
    this.#topic = topic
    this.message = message
    this.#undo = undo
    this.#pending = pending
  }

  write(batch: Batch): void {
    this.isOpen = false
    const key = textKey(this.#topic)
    if (this.message === undefined) batch.delete('retained', key)
    else batch.put('retained', key, messageRecord(this.message))
  }

  committed(): void {
    if (this.#pending.get(this.#topic) === this) this.#pending.delete(this.#topic)
    for (const durability of this.durabilities) durability.closes()
  }

  failed(): boolean {
    const pending = this.#pending.get(this.#topic)
    const isNewest = pending === undefined || pending === this
    if (this.durabilities.length === 0) {
      if (isNewest) this.#pending.set(this.#topic, this)
      this.isOpen = isNewest
      return isNewest
    }
    if (isNewest) {
      this.#pending.delete(this.#topic)
      this.#undo(this.message, !this.isOpen)
    }
    for (const durability of this.durabilities) durability.fails()
    return false
  }
}

class Write implements Change {
  readonly #table: Table
  readonly #key: Uint8Array
  readonly #value: Uint8Array
  readonly #durability: Durability | undefined

  constructor(table: Table, key: Uint8Array, value: Uint8Array, durability: Durability | undefined) {
    this.#table = table
    this.#key = key
    this.#value = value
    this.#durability = durability
  }

  write(batch: Batch): void {
    batch.put(this.#table, this.#key, this.#value)
  }

  committed(): void {
    this.#durability?.closes()
  }

  /** Who waits for it is refused. */
  failed(): boolean {
    this.#durability?.fails()
    return this.#durability === undefined
  }
}

class Removal implements Change {
  readonly #table: Table
  readonly #key: Uint8Array
  #durability: Durability | undefined

  constructor(table: Table, key: Uint8Array, durability?: Durability) {
    this.#table = table
    this.#key = key
    this.#durability = durability
  }

  write(batch: Batch): void {
    batch.delete(this.#table, this.#key)
  }

  committed(): void {
    this.#durability?.closes()
  }

  /** It is tried again, and a client that leaves or unsubscribes is not kept waiting for that. */
  failed(): boolean {
    this.#durability?.closes()
    this.#durability = undefined
    return true
  }
}

/** The id of a QoS 2 message is free. The client is not told before it is: it would use the id for another message. */
class Freed extends Removal {
  override failed(): boolean {
    return true
  }
}

/** A change that somebody waits for. */
class Waiting implements Change {
  readonly #change: Change
  #durability: Durability | undefined

  constructor(change: Change, durability: Durability) {
    this.#change = change
    this.#durability = durability
  }

  write(batch: Batch): void {
    this.#change.write(batch)
  }

  committed(): void {
    this.#change.committed()
    this.#durability?.closes()
  }

  failed(): boolean {
    this.#durability?.closes()
    this.#durability = undefined
    return this.#change.failed()
  }
}
