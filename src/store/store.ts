/**
 * What keeps records on disk: tables of them by binary key, changed in whole batches.
 * Everything that is kept is in memory too, so a store is read when the broker starts
 * and only written after that.
 */

/** One table for each kind of record; src/persistence/records.ts says what is in them. */
export const tables = ['meta', 'session', 'subscription', 'message', 'entry', 'incoming', 'retained', 'plugin'] as const
export type Table = (typeof tables)[number]

/** Keys are of 1 to 1900 bytes. Key and value are copied at once. */
export interface Batch {
  put(table: Table, key: Uint8Array, value: Uint8Array): void
  delete(table: Table, key: Uint8Array): void
}

export interface StoreInfo {
  /** Bytes on disk. */
  readonly size: number
  /** How many of them hold nothing now. */
  readonly free: number
  readonly records: Readonly<Record<Table, number>>
}

export interface Store {
  /**
   * Writes all that `fill` puts in the batch, or nothing of it. Resolves when it is on disk; one at a time.
   * Fails with a BrokerError: QUOTA_EXCEEDED when there is no room, UNAVAILABLE when it cannot be written otherwise.
   */
  commit(fill: (batch: Batch) => void): Promise<void>
  /** Every record of a table, in the order of the keys. The value is good until the next one is asked for. */
  records(table: Table): Iterable<{ key: Buffer; value: Buffer }>
  info(): Promise<StoreInfo>
  /** Writes a copy of the whole store, as it is at one moment, to a file that is not there yet. */
  backup(file: string): Promise<void>
  /** Makes the file as small as it can be. Nothing may be committed meanwhile. */
  compact(): Promise<void>
  close(): Promise<void>
}
