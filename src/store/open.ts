/**
 * Opens the store in data/store, or says why not. A file that is damaged or is none of ours
 * is put aside, never deleted, and the broker begins with an empty one. Reading a damaged
 * file can end the process, so a file that was not closed in order is read first by
 * another process, which may end.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Store } from './store.js'

export type Sync = 'commit' | 'interval' | 'off'

/** What the records mean; goes up when that changes. */
export const format = 1

export interface Opened {
  readonly store: Store
  /** Where a damaged store was put, and what was wrong with it. */
  readonly putAside: { readonly to: string; readonly why: string } | undefined
}

/**
 * @param directory made when it is not there; the file in it is data.mdb.
 * Throws a BrokerError UNAVAILABLE when this machine cannot load the store, CONFLICT when a newer broker wrote it.
 */
export async function openStore(directory: string, { sync = 'commit' as Sync } = {}): Promise<Opened> {
  const LmdbStore = await load()
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const file = dataFile(directory)
  takeRestored(directory, file)
  const why = existsSync(file) && !wasClosed(file) ? await damageOf(file) : undefined
  const putAside = why === undefined ? undefined : { to: setAside(directory), why }
  rmSync(closedMark(file), { force: true })
  const store = await LmdbStore.open(file, { isSynced: sync !== 'off' })
  try {
    await checkFormat(store)
  } catch (err) {
    await store.close()
    throw err
  }
  return { store: marked(store, file), putAside }
}

export const dataFile = (directory: string): string => join(directory, 'data.mdb')

async function load() {
  try {
    return (await import('./lmdb.js')).LmdbStore
  } catch (err) {
    throw new BrokerError('UNAVAILABLE', `LMDB cannot be loaded on this machine: ${messageOf(err)}`)
  }
}

/** A copy that `store restore` has put there to be taken. The store that was is put aside. */
export const restoredFile = (directory: string): string => `${directory}.restore.mdb`

function takeRestored(directory: string, file: string): void {
  const restored = restoredFile(directory)
  if (!existsSync(restored)) return
  if (existsSync(file)) setAside(directory, 'before-restore')
  renameSync(restored, file)
}

function setAside(directory: string, as = 'bad'): string {
  const time = new Date().toISOString().slice(0, 19).replaceAll(':', '-')
  let to = `${directory}.${as}-${time}`
  for (let n = 2; existsSync(to); n++) to = `${directory}.${as}-${time}-${n}`
  renameSync(directory, to)
  mkdirSync(directory, { mode: 0o700 })
  return to
}

// ── whether it was closed in order, and has not been touched since ───────────

const closedMark = (file: string): string => join(dirname(file), 'closed')
const stateOf = (file: string): string => {
  const { size, mtimeMs } = statSync(file)
  return `${size} ${mtimeMs}\n`
}

function wasClosed(file: string): boolean {
  try {
    return readFileSync(closedMark(file), 'utf8') === stateOf(file)
  } catch {
    return false
  }
}

function marked(store: Store, file: string): Store {
  const close = store.close.bind(store)
  store.close = async () => {
    await close()
    try {
      writeFileSync(closedMark(file), stateOf(file))
    } catch {
      // The next start reads it through, no more.
    }
  }
  return store
}

// ── damage ───────────────────────────────────────────────────────────────────

/** What is wrong with the file; undefined when every record can be read. */
export async function damageOf(file: string): Promise<string | undefined> {
  const script = fileURLToPath(new URL('check.js', import.meta.url))
  const child = spawn(process.execPath, [script, file], { stdio: ['pipe', 'ignore', 'pipe'] })
  const end = (): void => void child.kill('SIGKILL')
  process.once('exit', end)
  let said = ''
  child.stdin.on('error', () => {}) // it may be gone
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (...how) => resolve(how))
  })
  process.off('exit', end)
  if (code === 0) return undefined
  return signal === null ? said.trim().split('\n').at(-1) || `exit code ${code}` : `reading it ends with ${signal}`
}

async function checkFormat(store: Store): Promise<void> {
  const key = Buffer.from('format')
  let number: number | undefined
  for (const record of store.records('meta')) if (key.equals(record.key)) number = Number(record.value.toString())
  if (number === undefined) await store.commit(batch => batch.put('meta', key, Buffer.from(String(format))))
  else if (number > format) {
    throw new BrokerError(
      'CONFLICT',
      `the store was written by a newer tsmqttd (format ${number}, this one knows ${format}); start that one, or put the store aside`
    )
  }
}
