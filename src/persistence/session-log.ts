/** A stored session's part of the store: its record, its subscriptions, what is on its way to it, QoS 2 ids that came in. */
import type { Batch } from '../store/store.js'
import type { Change, WriteQueue } from '../store/write-queue.js'
import { AwaitedChange, FreedId, Removal, Write } from './changes.js'
import type { Persistence } from './persistence.js'
import { encodeSubscription, pairKey, type SubscriptionRecord, subscriptionKey, textKey } from './records.js'
import { type Delivery, type LoggedSession, StoredDelivery } from './stored-delivery.js'

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

  get #queue(): WriteQueue {
    return this.#persistence.queue
  }

  /** The message is to be kept until it is forgotten. Gives it its packet id. @param isUnderWay to a client that is there. */
  add(delivery: Delivery, isUnderWay: boolean): void {
    const stored = this.#storedOf(delivery, ++this.#sequence)
    const mayHold = delivery.qos === 1 && isUnderWay && this.#persistence.mayHold
    if (mayHold) this.#queue.write(stored, 'held')
    else this.#queue.write(stored, 'awaited')
  }

  /** An entry of the store. */
  restored(delivery: Delivery, sequence: number): void {
    this.#sequence = Math.max(this.#sequence, sequence)
    this.#storedOf(delivery, sequence, true)
  }

  #storedOf(delivery: Delivery, sequence: number, isKept = false): StoredDelivery {
    const stored = new StoredDelivery(this.#persistence, this.id, this.#session, delivery, sequence, isKept)
    delivery.stored = stored
    delivery.packetId = (sequence % 65_535) + 1
    return stored
  }

  /** What was held back for a client that is gone now is written: the order of the session must be the store's too. */
  hurry(delivery: Delivery): void {
    if (delivery.stored?.needed) this.#queue.write(delivery.stored, 'awaited')
  }

  subscribed(subscription: SubscriptionRecord): void {
    const key = subscriptionKey(this.id, subscription.filter)
    this.#queue.write(
      new Write('subscription', key, encodeSubscription(subscription), this.#persistence.awaited()),
      'awaited'
    )
  }

  unsubscribed(filter: string): void {
    this.#queue.write(
      new Removal('subscription', subscriptionKey(this.id, filter), this.#persistence.awaited()),
      'awaited'
    )
  }

  /** A QoS 2 message came in; its id is taken. */
  incoming(packetId: number): void {
    this.#persistence.keepWhole()
    const key = pairKey(this.id, packetId)
    this.#queue.write(new Write('incoming', key, Buffer.alloc(0), this.#persistence.awaited()), 'awaited')
  }

  /** PUBREL came, the id is free. */
  incomingReleased(packetId: number): void {
    this.#queue.write(new FreedId('incoming', pairKey(this.id, packetId), this.#persistence.awaited()), 'awaited')
  }

  /** The session's record has changed. */
  changed(): void {
    const durability = this.#persistence.awaited()
    if (durability !== undefined) this.#queue.write(new AwaitedChange(this, durability), 'awaited')
    else if (!this.#isDirty) this.#queue.write(this, 'lazy')
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
