/**
 * Small values by name that a plugin keeps over a restart: bans, users, counters. All of
 * them are in memory; a change is resolved when it is on disk.
 */
import type { Store } from './store.js'
import type { Change, WriteQueue } from './write-queue.js'

type Queue = Pick<WriteQueue, 'write'>

export interface Space {
  get(key: string): Buffer | undefined
  /** Resolves when it would outlive a crash; rejects when it could not be written, and the old value is back. */
  set(key: string, value: string | Uint8Array): Promise<void>
  delete(key: string): Promise<void>
  /** In no order. */
  entries(): IterableIterator<[key: string, value: Buffer]>
}

/** No name has one. */
const separator = '\0'
/** LMDB's keys have 1978 bytes at most. */
const maxKey = 1900

export class PluginStorage {
  readonly #values = new Map<string, Map<string, Buffer>>()
  #queue: Queue | undefined

  /** What the store has. @param queue undefined where nothing outlives the process. */
  load(store: Store, queue: Queue): void {
    this.#queue = queue
    for (const { key, value } of store.records('plugin')) {
      const [owner, ...rest] = key.toString().split(separator)
      this.#of(owner!).set(rest.join(separator), Buffer.from(value))
    }
  }

  of(owner: string): Space {
    const values = this.#of(owner)
    return {
      get: key => values.get(key),
      set: (key, value) => this.#change(owner, key, Buffer.from(value as Uint8Array)),
      delete: key => this.#change(owner, key, undefined),
      entries: () => values.entries()
    }
  }

  #of(owner: string): Map<string, Buffer> {
    let values = this.#values.get(owner)
    if (values === undefined) {
      values = new Map()
      this.#values.set(owner, values)
    }
    return values
  }

  #change(owner: string, key: string, value: Buffer | undefined): Promise<void> {
    const values = this.#of(owner)
    const name = Buffer.from(owner + separator + key)
    if (name.length > maxKey) return Promise.reject(new RangeError(`a key of ${name.length} bytes is too long`))
    const before = values.get(key)
    put(values, key, value)
    const queue = this.#queue
    if (queue === undefined) return Promise.resolve()
    return new Promise((resolve, reject) => {
      const change: Change = {
        write: batch => (value === undefined ? batch.delete('plugin', name) : batch.put('plugin', name, value)),
        committed: resolve,
        failed: () => {
          if (values.get(key) === value) put(values, key, before)
          reject(new Error('the store cannot be written'))
          return false
        }
      }
      queue.write(change, 'awaited')
    })
  }
}

function put(values: Map<string, Buffer>, key: string, value: Buffer | undefined): void {
  if (value === undefined) values.delete(key)
  else values.set(key, value)
}
