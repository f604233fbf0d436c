/** How the file is opened, for the thread that writes it and for those that read it. */
import { type Database, open, type RootDatabase } from 'lmdb'
import { unsealed } from './batch.js'
import { type Table, tables } from './store.js'

export type Tables = Readonly<Record<Table, Database<Buffer, Buffer>>>

export interface OpenFile {
  readonly root: RootDatabase<Buffer, Buffer>
  readonly tables: Tables
}

/** Address space, of which the file takes what it needs: to map more of it later would hold up the whole process. */
const addresses = 64 * 2 ** 30

/** Values are read where LMDB has them, which is good until the next is read: a copy of each is half the time of a start. */
const encoder = {
  encode: (value: Buffer): Buffer => value,
  decode: unsealed
}
const encoding = { encoder, keyEncoding: 'binary', cache: false } as const

/** @param isSynced whether a commit is on disk when it is over. */
export function openFile(file: string, { isSynced = true, readOnly = false } = {}): OpenFile {
  const root = open<Buffer, Buffer>({
    path: file,
    noSubdir: true,
    maxDbs: tables.length,
    mapSize: addresses,
    overlappingSync: false, // one commit at a time, which is on disk when it says so
    noSync: !isSynced,
    readOnly,
    ...encoding
  })
  return {
    root,
    tables: Object.fromEntries(
      tables.map(name => [name, root.openDB<Buffer, Buffer>({ name, ...encoding })])
    ) as unknown as Tables
  }
}
