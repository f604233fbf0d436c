/** The changes of single records, and who is told when each is written or cannot be. */
import type { Batch, Table } from '../store/store.js'
import type { Change } from '../store/write-queue.js'
import type { Durability } from './durability.js'

export class Write implements Change {
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
    this.#durability?.settle()
  }

  /** Who waits for it is refused. */
  failed(): boolean {
    this.#durability?.fail()
    return this.#durability === undefined
  }
}

export class Removal implements Change {
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
    this.#durability?.settle()
  }

  /** It is tried again, and a client that leaves or unsubscribes is not kept waiting for that. */
  failed(): boolean {
    this.#durability?.settle()
    this.#durability = undefined
    return true
  }
}

/** The id of a QoS 2 message is free. The client is not told before it is: it would use the id for another message. */
export class FreedId extends Removal {
  override failed(): boolean {
    return true
  }
}

/** A change that somebody waits for. */
export class AwaitedChange implements Change {
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
    this.#durability?.settle()
  }

  failed(): boolean {
    this.#durability?.settle()
    this.#durability = undefined
    return this.#change.failed()
  }
}
