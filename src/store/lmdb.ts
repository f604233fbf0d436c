/**
 * Records in a file of LMDB. It is read here, once; a thread of its own writes it,
 * since every commit waits for the disk.
 */
import { statfsSync } from 'node:fs'
import { dirname } from 'node:path'
import { Worker } from 'node:worker_threads'
import { BrokerError } from '../base/errors.js'
import { PackedBatch } from './batch.js'
import { openFile } from './lmdb-file.js'
import type { Answer, Request } from './lmdb-writer.js'
import type { Batch, Store, StoreInfo, Table } from './store.js'

/** LMDB calls a write that found room for a part of it an input/output error. */
const roomForCommits = 1024 * 1024

export class LmdbStore implements Store {
  readonly #file: string
  readonly #writer: Worker
  #waiting: { resolve(info: StoreInfo | undefined): void; reject(err: Error): void }[] = []
  #lost: Error | undefined
  /** Bytes of the last batch: the next is often as large. */
  #lastSize = 0

  private constructor(file: string, writer: Worker) {
    this.#file = file
    this.#writer = writer
    writer.on('message', (answer: Answer) => {
      const waiting = this.#waiting.shift()
      if ('error' in answer) waiting?.reject(this.#failure(answer))
      else waiting?.resolve(answer.value)
    })
    writer.on('error', err => this.#lose(err))
    writer.on('exit', () => this.#lose(new Error('the thread that writes is gone')))
  }

  /** Opens the file or makes it. @param isSynced whether a commit waits for the disk. */
  static async open(file: string, { isSynced = true } = {}): Promise<LmdbStore> {
    const workerData = { file, isSynced }
    const store = new LmdbStore(file, new Worker(new URL('lmdb-writer.js', import.meta.url), { workerData }))
    await store.#answered()
    return store
  }

  async commit(fill: (batch: Batch) => void): Promise<void> {
    const batch = new PackedBatch(Math.floor(this.#lastSize * 1.25))
    fill(batch)
    this.#lastSize = batch.bytes.length
    if (batch.bytes.length > 0) await this.#ask({ commit: batch.bytes }, [batch.bytes.buffer as ArrayBuffer])
  }

  /** Throws a BrokerError UNAVAILABLE for a record that is not as it was written. */
  *records(table: Table): Generator<{ key: Buffer; value: Buffer }> {
    const file = openFile(this.#file)
    try {
      for (const record of file.tables[table].getRange({ snapshot: false })) {
        if (record.value === undefined) throw new BrokerError('UNAVAILABLE', `a record of table ${table} is damaged`)
        yield record
      }
    } finally {
      void file.root.close()
    }
  }

  async info(): Promise<StoreInfo> {
    return (await this.#ask({ info: true }))!
  }

  async backup(file: string): Promise<void> {
    await this.#ask({ backup: file })
  }

  async compact(): Promise<void> {
    await this.#ask({ compact: true })
  }

  async close(): Promise<void> {
    if (this.#lost !== undefined) return
    await this.#ask({ close: true })
    await this.#writer.terminate()
  }

  #ask(request: Request, transfer: ArrayBuffer[] = []): Promise<StoreInfo | undefined> {
    if (this.#lost !== undefined) return Promise.reject(this.#failure({ error: this.#lost.message, errno: undefined }))
    this.#writer.postMessage(request, transfer)
    return this.#answered()
  }

  #answered(): Promise<StoreInfo | undefined> {
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
  }

  #failure({ error, errno }: { error: string; errno: number | undefined }): BrokerError {
    if (errno === 28 || (errno === 5 && this.#isFull())) {
      return new BrokerError('QUOTA_EXCEEDED', `no room for ${this.#file}`)
    }
    return new BrokerError('UNAVAILABLE', `${this.#file} cannot be written: ${error}`)
  }

  #isFull(): boolean {
    const { bavail, bsize } = statfsSync(dirname(this.#file))
    return bavail * bsize < roomForCommits
  }

  #lose(err: Error): void {
    this.#lost ??= err
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure({ error: err.message, errno: undefined }))
  }
}
