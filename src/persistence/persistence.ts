/**
 * What must outlive the process: stored sessions with what is on its way to them, and
 * retained messages. All of it is in memory; persistence sees that the store has it too,
 * and that nothing is acknowledged before.
 *
 * - A PUBLISH gets a Durability when somebody must keep it, and is acknowledged when that settles: everything it
 *   stands for is on disk, or no longer needed since the clients have acknowledged it.
 * - QoS 2 is exactly once through a crash, so nothing of it is said before it is written: the message is not sent
 *   before its packet id is kept, PUBREL not before PUBREC is, PUBCOMP not before the id is free in the store too.
 *   That a QoS 2 message came in and what became of it are one: they are written in the same batch.
 * - A delivery's packet id follows from its place in the order of the session, so that it needs no record of its own.
 */
import type { Store, Table } from '../store/store.js'
import { WriteQueue, type WriteQueueEvents, type WriteQueueTimes } from '../store/write-queue.js'
import { Removal, Write } from './changes.js'
import { Durability } from './durability.js'

export interface PersistenceOptions {
  readonly waits?: boolean
  readonly times?: WriteQueueTimes
}

export class Persistence {
  readonly queue: WriteQueue
  /** Whether acknowledgements wait for the disk. */
  readonly waits: boolean
  /** Of the transaction that is under way, once a change of it is waited for. */
  #durability: Durability | undefined
  #isInTransaction = false
  #isMoving = false
  #isWhole = false
  #lastSession = 0
  #lastMessage = 0

  /** @param waits false where `store.sync` lets what is acknowledged be lost. */
  constructor(store: Store, events: WriteQueueEvents, { waits = true, times }: PersistenceOptions = {}) {
    this.queue = new WriteQueue(store, events, times)
    this.waits = waits
  }

  /**
   * Runs `work`, which must not wait for anything, and returns what all its changes together wait for; undefined when
   * nothing has to be written, or nobody waits for it. The arguments are handed on, so that a message needs no closure.
   */
  transaction<A, B>(work: (a: A, b: B) => void, a: A, b: B): Durability | undefined
  transaction(work: () => void): Durability | undefined
  transaction(work: (a?: unknown, b?: unknown) => void, a?: unknown, b?: unknown): Durability | undefined {
    this.#isInTransaction = this.waits
    this.#durability = undefined
    this.queue.boundary()
    try {
      work(a, b)
      return this.#durability
    } finally {
      this.#durability = undefined
      this.#isInTransaction = this.#isWhole = false
    }
  }

  /**
   * Messages go from one session to another in `work`. They were acknowledged before, so nobody waits for them, and
   * they are written at once: they must be with the second session before the first has them no longer.
   */
  move(work: () => void): void {
    this.#isMoving = true
    try {
      work()
    } finally {
      this.#isMoving = false
    }
  }

  /** The transaction must be in one batch, so that nothing of it is held back. */
  keepWhole(): void {
    this.#isWhole = true
  }

  /** Whether what a client is about to acknowledge may be held back. */
  get mayHold(): boolean {
    return !this.#isMoving && !this.#isWhole
  }

  /** What waits for the change that is being made; undefined when nobody does. */
  awaited(): Durability | undefined {
    if (!this.#isInTransaction || this.#isMoving) return undefined
    this.#durability ??= new Durability()
    this.#durability.expect()
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

  /** Nobody waits for it. */
  put(table: Table, key: Uint8Array, value: Uint8Array): void {
    this.queue.write(new Write(table, key, value, undefined), 'lazy')
  }

  remove(table: Table, key: Uint8Array): void {
    this.queue.write(new Removal(table, key), 'lazy')
  }
}
