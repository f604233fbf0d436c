/** What an operator does with a store: looks at it, checks, copies and restores it; while the broker runs or not. */
import {
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { BrokerError } from '../base/errors.js'
import { damageOf, dataFile, restoredFile } from './open.js'
import type { Store, StoreInfo } from './store.js'
import type { WriteQueue } from './write-queue.js'

export interface StoreState extends StoreInfo {
  readonly type: 'lmdb'
  readonly file: string
  /** Undefined when the broker does not run. */
  readonly journal:
    | {
        readonly commits: number
        readonly written: number
        /** Needed no longer before they were written. */
        readonly spared: number
        readonly waiting: number
        readonly isFailing: boolean
      }
    | undefined
}

export class StoreMaintenance {
  readonly #directory: string
  readonly #store: Store
  readonly #queue: WriteQueue | undefined

  constructor(directory: string, store: Store, queue?: WriteQueue) {
    this.#directory = directory
    this.#store = store
    this.#queue = queue
  }

  /** Bytes on disk, at once, unlike info(). */
  get size(): number {
    return statSync(dataFile(this.#directory), { throwIfNoEntry: false })?.size ?? 0
  }

  async info(): Promise<StoreState> {
    const { commits, written, spared, length, isFailing } = this.#queue ?? {}
    const file = dataFile(this.#directory)
    const journal =
      this.#queue === undefined
        ? undefined
        : { commits: commits!, written: written!, spared: spared!, waiting: length!, isFailing: isFailing! }
    return { type: 'lmdb', file, ...(await this.#store.info()), journal }
  }

  /** Throws when a record cannot be read or is not what was written. */
  async check(): Promise<StoreState> {
    const damage = await damageOf(dataFile(this.#directory))
    if (damage !== undefined) throw new BrokerError('UNAVAILABLE', `the store is damaged: ${damage}`)
    return await this.info()
  }

  /** Bytes on disk before and after. */
  async compact(): Promise<{ before: number; after: number }> {
    const file = dataFile(this.#directory)
    const before = statSync(file).size
    const work = (): Promise<void> => this.#store.compact()
    await (this.#queue === undefined ? work() : this.#queue.pause(work))
    return { before, after: statSync(file).size }
  }

  /** A copy of the store as it is on disk now, which `restore` takes. */
  async backup(to: string): Promise<{ file: string; size: number }> {
    const file = resolve(to)
    if (existsSync(file)) throw new BrokerError('CONFLICT', `${file} is there already`)
    mkdirSync(dirname(file), { recursive: true })
    await this.#queue?.flushed()
    const part = `${file}.part`
    rmSync(part, { force: true })
    await this.#store.backup(part)
    rmSync(`${part}-lock`, { force: true })
    renameSync(part, file)
    noteBackup(this.#directory, file)
    return { file, size: statSync(file).size }
  }
}

export interface Backup {
  readonly file: string
  /** ISO 8601. */
  readonly at: string
}

const backupNote = (directory: string): string => join(directory, 'backup.json')

/** For `broker doctor`; a backup is one also where this cannot be written. */
function noteBackup(directory: string, file: string): void {
  const note: Backup = { file, at: new Date().toISOString() }
  try {
    writeFileSync(backupNote(directory), `${JSON.stringify(note)}\n`)
  } catch {}
}

/** The last that was made; undefined when none is known. */
export function lastBackup(directory: string): Backup | undefined {
  try {
    return JSON.parse(readFileSync(backupNote(directory), 'utf8')) as Backup
  } catch {
    return undefined
  }
}

/** Has the next start of the broker take the copy in place of the store, which is put aside. */
export async function restoreFrom(directory: string, from: string): Promise<{ file: string }> {
  const file = resolve(from)
  if (!existsSync(file)) throw new BrokerError('NOT_FOUND', `no such file: ${file}`)
  const damage = await damageOf(file)
  rmSync(`${file}-lock`, { force: true })
  if (damage !== undefined) throw new BrokerError('BAD_REQUEST', `${file} is no backup of a store: ${damage}`)
  mkdirSync(dirname(directory), { recursive: true })
  const part = join(dirname(directory), `.${process.pid}.restore.part`)
  copyFileSync(file, part, constants.COPYFILE_FICLONE)
  renameSync(part, restoredFile(directory))
  return { file }
}
