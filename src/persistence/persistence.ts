/**
 * What must outlive the process: stored sessions with what is on its way to them, and
 * retained messages. All of it is in memory; the keeper sees that the store has it too,
 * and that nothing is acknowledged before.
 *
 * - A PUBLISH gets a Receipt when somebody must keep it, and is acknowledged when that settles: everything it
 *   stands for is on disk, or no longer needed since the clients have acknowledged it.
 * - QoS 2 is exactly once through a crash, so nothing of it is said before it is written: the message is not sent
 *   before its packet id is kept, PUBREL not before PUBREC is, PUBCOMP not before the id is free in the store too.
 *   That a QoS 2 message came in and what became of it are one: they are written in the same batch.
 * - An entry's packet id follows from its place in the order of the session, so that it needs no record of its own.
 */

import type { Message } from '../delivery/message.js'
import type { Outgoing } from '../delivery/session/inflight.js'
import type { Batch, Store, Table } from '../store/store.js'
import { type Change, Journal, type JournalEvents, type JournalTimes, type Revocable } from '../store/write-queue.js'
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

export interface Settled {
  receiptSettled(): void
}

function both(first: Settled, second: Settled): void {
  first.receiptSettled()
  second.receiptSettled()
}

/** What a publisher, or a subscriber that waits for SUBACK, waits for. */
export class Receipt {
  #open = 0
  /** Something could not be kept. */
  failed = false
  #settled: Settled | undefined

  /** Is called when nothing is open any more, after those that came before. */
  set settled(settled: Settled) {
    const before = this.#settled
    this.#settled = before === undefined ? settled : { receiptSettled: () => both(before, settled) }
  }

  get isOpen(): boolean {
    return this.#open > 0
  }

  opens(): void {
    this.#open++
  }

  closes(): void {
    if (--this.#open === 0) this.#settled?.receiptSettled()
  }

  fails(): void {
    this.failed = true
    this.closes()
  }
}

export class Keeper {
  readonly journal: Journal
  /** Whether acknowledgements wait for the disk. */
  readonly waits: boolean
  #receipt: Receipt | undefined
  #isGathering = false
  /** Messages go from one session to another: they must be with the second before the first has them no longer. */
  isMoving = false
  /** What is gathered must be in one batch, so that nothing of it is held back. */
  isWhole = false
  #lastSession = 0
  #lastMessage = 0
  readonly #retained = new Map<string, RetainedChange>()

  /** @param waits false where `store.sync` lets what is acknowledged be lost. */
  constructor(store: Store, events: JournalEvents, { waits = true, times }: KeeperOptions = {}) {
    this.journal = new Journal(store, events, times)
    this.waits = waits
  }

  /** From here to gathered(), what is kept is kept for one receipt. */
  gather(): void {
    this.#isGathering = this.waits
    this.#receipt = undefined
    this.journal.mayCut()
  }

  /** Undefined when nothing has to be kept, or nobody waits for it. */
  gathered(): Receipt | undefined {
    this.#isGathering = this.isWhole = false
    const receipt = this.#receipt
    this.#receipt = undefined
    return receipt
  }

  /** The receipt of what is going on; undefined when nobody waits for that. */
  receipt(): Receipt | undefined {
    if (!this.#isGathering || this.isMoving) return undefined // what moves was acknowledged before
    this.#receipt ??= new Receipt()
    this.#receipt.opens()
    return this.#receipt
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
    const receipt = this.receipt()
    const pending = this.#retained.get(topic)
    if (pending?.isOpen) {
      pending.message = message
      if (receipt !== undefined) pending.receipts.push(receipt)
      if (receipt !== undefined) this.journal.hasten()
      return
    }
    const change = new RetainedChange(topic, message, undo, this.#retained)
    if (receipt !== undefined) change.receipts.push(receipt)
    this.#retained.set(topic, change)
    if (receipt === undefined) this.journal.eventually(change)
    else this.journal.soon(change)
  }

  /** Whether the topic's last change is not on disk yet. */
  isRetaining(topic: string): boolean {
    return this.#retained.has(topic)
  }

  /** Nobody waits for it. */
  put(table: Table, key: Uint8Array, value: Uint8Array): void {
    this.journal.eventually(new Write(table, key, value, undefined))
  }

  remove(table: Table, key: Uint8Array): void {
    this.journal.eventually(new Removal(table, key))
  }
}

/** @param wasWritten the disk may have `message` though it failed. */
type Undo = (message: Message | undefined, wasWritten: boolean) => void

export interface KeeperOptions {
  readonly waits?: boolean
  readonly times?: JournalTimes
}

/** The session that entries belong to. */
export interface Keeping {
  /** Entries are on disk that it may now send. */
  pump(): void
  /** The message was refused; false when it has been sent already. */
  withdraw(outgoing: Outgoing): boolean
  /** That the client has the message is on disk. */
  released(outgoing: Outgoing): void
}

/** A stored session's part of the store. */
export class SessionKeep implements Change {
  readonly id: number
  readonly #keeper: Keeper
  readonly #key: Buffer
  readonly #session: Keeping
  #sequence = 0
  #isDirty = false
  /** The session's record as it is now; undefined when it is over. */
  record: () => Uint8Array | undefined = () => undefined

  constructor(keeper: Keeper, clientId: string, session: Keeping, { id = keeper.nextSession(), sequence = 0 } = {}) {
    this.#keeper = keeper
    this.#key = textKey(clientId)
    this.#session = session
    this.id = id
    this.#sequence = sequence
  }

  get journal(): Journal {
    return this.#keeper.journal
  }

  /** The message is to be kept until it is forgotten. Gives it its packet id. @param isUnderWay to a client that is there. */
  add(outgoing: Outgoing, isUnderWay: boolean): void {
    const entry = this.#entry(outgoing, ++this.#sequence)
    const { isMoving, isWhole } = this.#keeper
    if (outgoing.qos === 1 && isUnderWay && !isMoving && !isWhole) this.journal.unlessRevoked(entry)
    else this.journal.soon(entry)
  }

  /** An entry of the store. */
  restored(outgoing: Outgoing, sequence: number): void {
    this.#sequence = Math.max(this.#sequence, sequence)
    this.#entry(outgoing, sequence, true)
  }

  #entry(outgoing: Outgoing, sequence: number, isKept = false): Entry {
    const entry = new Entry(this.#keeper, this, this.#session, outgoing, sequence, isKept)
    outgoing.entry = entry
    outgoing.packetId = (sequence % 65_535) + 1
    return entry
  }

  /** What was held back for a client that is gone now is written: the order of the session must be the store's too. */
  hurry(outgoing: Outgoing): void {
    if (outgoing.entry?.needed) this.journal.soon(outgoing.entry)
  }

  subscribed(subscription: SubscriptionRecord): void {
    const key = subscriptionKey(this.id, subscription.filter)
    this.journal.soon(new Write('subscription', key, encodeSubscription(subscription), this.#keeper.receipt()))
  }

  unsubscribed(filter: string): void {
    this.journal.soon(new Removal('subscription', subscriptionKey(this.id, filter), this.#keeper.receipt()))
  }

  /** A QoS 2 message came in; its id is taken. */
  incoming(packetId: number): void {
    this.#keeper.isWhole = true
    const key = pairKey(this.id, packetId)
    this.journal.soon(new Write('incoming', key, Buffer.alloc(0), this.#keeper.receipt()))
  }

  /** PUBREL came, the id is free. */
  incomingReleased(packetId: number): void {
    this.journal.soon(new Freed('incoming', pairKey(this.id, packetId), this.#keeper.receipt()))
  }

  /** The session's record has changed. */
  changed(): void {
    const receipt = this.#keeper.receipt()
    if (receipt !== undefined) this.journal.soon(new Waiting(this, receipt))
    else if (!this.#isDirty) this.journal.eventually(this)
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
export class Entry implements Revocable {
  #state = held
  readonly #keeper: Keeper
  readonly #keep: SessionKeep
  readonly #session: Keeping
  readonly #outgoing: Outgoing
  readonly #sequence: number
  #receipt: Receipt | undefined
  /** In the batch that is on its way. */
  #wroteMessage = false

  constructor(
    keeper: Keeper,
    keep: SessionKeep,
    session: Keeping,
    outgoing: Outgoing,
    sequence: number,
    isKept: boolean
  ) {
    this.#keeper = keeper
    this.#keep = keep
    this.#session = session
    this.#outgoing = outgoing
    this.#sequence = sequence
    if (isKept) this.#state = kept
    else this.#receipt = keeper.receipt()
    outgoing.message.keepers++
  }

  get sequence(): number {
    return this.#sequence
  }

  get needed(): boolean {
    return this.#state === held
  }

  /** Whether the message may be sent: one of QoS 2 only under an id that is on disk. */
  get isSafe(): boolean {
    return this.#state >= kept || this.#outgoing.qos < 2 || !this.#keeper.waits
  }

  get key(): Buffer {
    return pairKey(this.#keep.id, this.#sequence)
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
    if (message.number === 0 && message.keepers === 1) return message
    if (message.number === 0) {
      message.number = this.#keeper.nextMessage()
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
    const receipt = this.#receipt
    if (receipt === undefined) return true
    this.#receipt = undefined
    if (this.#session.withdraw(this.#outgoing)) {
      this.#leave()
      if (wasWritten) this.#keeper.remove('entry', this.key) // a disk that failed may have it nevertheless
    }
    receipt.fails()
    return this.needed
  }

  /** The client has it, or is never to get it. */
  forget(): void {
    const wasWritten = this.#state === kept || this.#state === writing
    if (this.#state === gone) return
    this.#leave()
    if (wasWritten) this.#keeper.remove('entry', this.key)
    this.#settle()
  }

  /** The client has the message, not yet the end of the exchange: from now on there is only PUBREL to be sent. */
  received(): void {
    if (this.#state === gone) return this.#session.released(this.#outgoing)
    const release = new Release(this, this.#session, this.#outgoing)
    if (this.#keeper.waits) {
      this.isReleasing = true
      this.#keeper.journal.soon(release)
    } else {
      this.#keeper.journal.eventually(release)
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
    if (--message.keepers === 0 && message.number !== 0) {
      this.#keeper.remove('message', numberKey(message.number))
      message.number = 0
    }
  }

  #settle(): void {
    const receipt = this.#receipt
    this.#receipt = undefined
    receipt?.closes()
  }
}

/** PUBREC came. */
class Release implements Change {
  readonly #entry: Entry
  readonly #session: Keeping
  readonly #outgoing: Outgoing

  constructor(entry: Entry, session: Keeping, outgoing: Outgoing) {
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
  readonly receipts: Receipt[] = []
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
    for (const receipt of this.receipts) receipt.closes()
  }

  failed(): boolean {
    const pending = this.#pending.get(this.#topic)
    const isNewest = pending === undefined || pending === this
    if (this.receipts.length === 0) {
      if (isNewest) this.#pending.set(this.#topic, this)
      this.isOpen = isNewest
      return isNewest
    }
    if (isNewest) {
      this.#pending.delete(this.#topic)
      this.#undo(this.message, !this.isOpen)
    }
    for (const receipt of this.receipts) receipt.fails()
    return false
  }
}

class Write implements Change {
  readonly #table: Table
  readonly #key: Uint8Array
  readonly #value: Uint8Array
  readonly #receipt: Receipt | undefined

  constructor(table: Table, key: Uint8Array, value: Uint8Array, receipt: Receipt | undefined) {
    this.#table = table
    this.#key = key
    this.#value = value
    this.#receipt = receipt
  }

  write(batch: Batch): void {
    batch.put(this.#table, this.#key, this.#value)
  }

  committed(): void {
    this.#receipt?.closes()
  }

  /** Who waits for it is refused. */
  failed(): boolean {
    this.#receipt?.fails()
    return this.#receipt === undefined
  }
}

class Removal implements Change {
  readonly #table: Table
  readonly #key: Uint8Array
  #receipt: Receipt | undefined

  constructor(table: Table, key: Uint8Array, receipt?: Receipt) {
    this.#table = table
    this.#key = key
    this.#receipt = receipt
  }

  write(batch: Batch): void {
    batch.delete(this.#table, this.#key)
  }

  committed(): void {
    this.#receipt?.closes()
  }

  /** It is tried again, and a client that leaves or unsubscribes is not kept waiting for that. */
  failed(): boolean {
    this.#receipt?.closes()
    this.#receipt = undefined
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
  #receipt: Receipt | undefined

  constructor(change: Change, receipt: Receipt) {
    this.#change = change
    this.#receipt = receipt
  }

  write(batch: Batch): void {
    this.#change.write(batch)
  }

  committed(): void {
    this.#change.committed()
    this.#receipt?.closes()
  }

  failed(): boolean {
    this.#receipt?.closes()
    this.#receipt = undefined
    return this.#change.failed()
  }
}
