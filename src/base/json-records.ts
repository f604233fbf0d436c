/**
 * A few small records that outlive the process, by key. Whoever keeps some asks for a
 * JsonRecords and need not know where they are: here, in a JSON file of this user alone that
 * is replaced whole at each change.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { BrokerError, messageOf } from './errors.js'

export interface JsonRecords<T> {
  entries(): Iterable<readonly [key: string, value: T]>
  /** Throws a BrokerError when it cannot be kept; nothing has changed then. */
  put(key: string, value: T): void
  delete(key: string): void
}

/** Throws a BrokerError when there is a file and it cannot be read: what it had must not be forgotten in silence. */
export function jsonRecordsIn<T>(path: string): JsonRecords<T> {
  let records = read<T>(path)
  const change = (work: (next: Map<string, T>) => void): void => {
    const next = new Map(records)
    work(next)
    try {
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(`${path}.new`, `${JSON.stringify(Object.fromEntries(next), undefined, 2)}\n`, {
        mode: 0o600,
        flush: true
      })
      renameSync(`${path}.new`, path)
    } catch (cause) {
      throw new BrokerError('UNAVAILABLE', `cannot write ${path}: ${messageOf(cause)}`, { cause })
    }
    records = next
  }
  return {
    entries: () => records,
    put: (key, value) => change(next => next.set(key, value)),
    delete: key => change(next => next.delete(key))
  }
}

function read<T>(path: string): Map<string, T> {
  try {
    const found = JSON.parse(readFileSync(path, 'utf8')) as unknown
    if (typeof found !== 'object' || found === null) throw new SyntaxError('expected an object')
    return new Map(Object.entries(found as Record<string, T>))
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return new Map()
    throw new BrokerError('UNAVAILABLE', `cannot read ${path}: ${messageOf(cause)}; mend it, or remove it`, { cause })
  }
}
