/** The thread that writes: a commit waits for the disk, and the event loop must not. */
import { renameSync, rmSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { unpack } from './batch.js'
import { openFile } from './lmdb-file.js'
import { type StoreInfo, type Table, tables } from './store.js'

export type Request = { commit: Uint8Array } | { backup: string } | { compact: true } | { info: true } | { close: true }
export type Answer = { value?: StoreInfo | undefined } | { error: string; errno: number | undefined }

let file = openFile(workerData.file, workerData)

/** One page is LMDB's unit of space. */
function info(): StoreInfo {
  const all = file.root.getStats() as { pageSize: number; lastPageNumber: number; free: { entryCount: number } }
  const records = Object.fromEntries(tables.map(name => [name, count(name)])) as Record<Table, number>
  const used = tables.reduce((sum, name) => sum + pages(name), 0)
  const size = (all.lastPageNumber + 1) * all.pageSize
  return { size, free: Math.max(0, size - (used + 4) * all.pageSize), records }
}

const statsOf = (name: Table) => file.tables[name].getStats() as Record<string, number>
const count = (name: Table): number => statsOf(name)['entryCount'] ?? 0
function pages(name: Table): number {
  const { treeBranchPageCount = 0, treeLeafPageCount = 0, overflowPages = 0 } = statsOf(name)
  return treeBranchPageCount + treeLeafPageCount + overflowPages
}

async function answer(request: Request): Promise<StoreInfo | undefined> {
  if ('commit' in request) {
    const { buffer, byteOffset, length } = request.commit
    const bytes = Buffer.from(buffer, byteOffset, length)
    file.root.transactionSync(() => {
      unpack(bytes, (table, key, value) => {
        if (value === undefined) file.tables[table].removeSync(key)
        else file.tables[table].putSync(key, value)
      })
    })
  } else if ('backup' in request) await file.root.backup(request.backup, true)
  else if ('compact' in request) await compact()
  else if ('info' in request) return info()
  else await file.root.close()
  return undefined
}

/** MDB_PANIC: what of the file is in memory is not to be trusted any more. What is on disk is the last good commit. */
const panic = -30795

async function reopen(): Promise<void> {
  await file.root.close()
  file = openFile(workerData.file, workerData)
}

/** LMDB's copy without what is free takes the place of the file. */
async function compact(): Promise<void> {
  const copy = `${workerData.file}.compact`
  rmSync(copy, { force: true })
  await file.root.backup(copy, true)
  await file.root.close()
  renameSync(copy, workerData.file)
  rmSync(`${workerData.file}-lock`, { force: true })
  file = openFile(workerData.file, workerData)
}

parentPort!.on('message', (request: Request) => {
  answer(request).then(
    value => {
      parentPort!.postMessage({ value } satisfies Answer)
      if ('close' in request) parentPort!.close()
    },
    async (err: Error & { code?: unknown }) => {
      if (err.code === panic) await reopen()
      const errno = typeof err.code === 'number' ? err.code : undefined
      parentPort!.postMessage({ error: err.message, errno } satisfies Answer)
    }
  )
})
parentPort!.postMessage({} satisfies Answer)
