/**
 * One message that a stored session has not got yet, in the store: written before it is acknowledged to its publisher,
 * or never, when the client has acknowledged it first. QoS 2 is sent only under a packet id that is on disk.
 */
import type { Message } from '../delivery/message.js'
import type { Batch } from '../store/store.js'
import type { Change, Revocable } from '../store/write-queue.js'
import type { Durability } from './durability.js'
import type { Persistence } from './persistence.js'
import { encodeEntry, messageRecord, numberKey, pairKey } from './records.js'

/** A message on its way to one session, as far as the store needs to know it. */
export interface Delivery {
  readonly message: Message
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
  /** Subscription identifiers, in MQTT 5. */
  readonly identifiers: readonly number[] | undefined
  /** The shared subscription's group that it came through. */
  readonly group: { readonly filter: string } | undefined
  /** 0 until it has one. */
  packetId: number
  /** PUBREC came: only PUBREL is sent again. */
  readonly received: boolean
  /** Its record in the store, where the session is a stored one. */
  stored: StoredDelivery | undefined
}

/** The session that stored deliveries belong to. */
export interface LoggedSession {
  /** Deliveries are on disk that it may now send. */
  pump(): void
  /** The message was refused; false when it has been sent already. */
  withdraw(delivery: Delivery): boolean
  /** That the client has the message is on disk. */
  released(delivery: Delivery): void
}

/** A stored delivery's states: it is to be written, it is being written, it is on disk, it is needed no longer. */
const held = 0
const writing = 1
const kept = 2
const gone = 3

/** A message that one stored session has not got yet. */
export class StoredDelivery implements Revocable {
  #state = held
  readonly #persistence: Persistence
  readonly #sessionId: number
  readonly #session: LoggedSession
  readonly #delivery: Delivery
  readonly #sequence: number
  #durability: Durability | undefined
  /** In the batch that is on its way. */
  #wroteMessage = false

  constructor(
    persistence: Persistence,
    sessionId: number,
    session: LoggedSession,
    delivery: Delivery,
    sequence: number,
    isKept: boolean
  ) {
    this.#persistence = persistence
    this.#sessionId = sessionId
    this.#session = session
    this.#delivery = delivery
    this.#sequence = sequence
    if (isKept) this.#state = kept
    else this.#durability = persistence.awaited()
    delivery.message.holders++
  }

  get sequence(): number {
    return this.#sequence
  }

  get needed(): boolean {
    return this.#state === held
  }

  /** Whether the message may be sent: one of QoS 2 only under an id that is on disk. */
  get isSafe(): boolean {
    return this.#state >= kept || this.#delivery.qos < 2 || !this.#persistence.waits
  }

  get key(): Buffer {
    return pairKey(this.#sessionId, this.#sequence)
  }

  write(batch: Batch): void {
    if (this.#state !== held) return
    this.#state = writing
    const { qos, retain, identifiers, group } = this.#delivery
    const message = this.#body(batch)
    batch.put('entry', this.key, encodeEntry({ qos, retain, identifiers, shared: group?.filter, message }))
  }

  /** The message itself, or its number where it is on its way to more than one. */
  #body(batch: Batch): Message | number | undefined {
    const { message, received } = this.#delivery
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
    if (this.#delivery.qos === 2) this.#session.pump()
  }

  failed(): boolean {
    if (this.#wroteMessage) this.#delivery.message.number = 0 // others may have counted on it, which are told too
    this.#wroteMessage = false
    if (this.#state === gone) return false
    const wasWritten = this.#state === writing
    this.#state = held
    const durability = this.#durability
    if (durability === undefined) return true
    this.#durability = undefined
    if (this.#session.withdraw(this.#delivery)) {
      this.#leave()
      if (wasWritten) this.#persistence.remove('entry', this.key) // a disk that failed may have it nevertheless
    }
    durability.fail()
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
    if (this.#state === gone) return this.#session.released(this.#delivery)
    const release = new Release(this, this.#session, this.#delivery)
    if (this.#persistence.waits) {
      this.isReleasing = true
      this.#persistence.queue.write(release, 'awaited')
    } else {
      this.#persistence.queue.write(release, 'lazy')
      this.#session.released(this.#delivery)
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
    const { message } = this.#delivery
    if (--message.holders === 0 && message.number !== 0) {
      this.#persistence.remove('message', numberKey(message.number))
      message.number = 0
    }
  }

  #settle(): void {
    const durability = this.#durability
    this.#durability = undefined
    durability?.settle()
  }
}

/** PUBREC came. */
class Release implements Change {
  readonly #stored: StoredDelivery
  readonly #session: LoggedSession
  readonly #delivery: Delivery

  constructor(stored: StoredDelivery, session: LoggedSession, delivery: Delivery) {
    this.#stored = stored
    this.#session = session
    this.#delivery = delivery
  }

  write(batch: Batch): void {
    if (this.#stored.isGone) return
    const { retain, identifiers } = this.#delivery
    batch.put(
      'entry',
      this.#stored.key,
      encodeEntry({ qos: 2, retain, identifiers, shared: undefined, message: undefined })
    )
  }

  committed(): void {
    if (!this.#stored.isReleasing || this.#stored.isGone) return
    this.#stored.isReleasing = false
    this.#session.released(this.#delivery)
  }

  failed(): boolean {
    return !this.#stored.isGone
  }
}
