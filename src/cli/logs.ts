/** `broker logs`: the end of the log's file, and what is appended to it, over rotations. */
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '../errors.js'
import type { Home } from '../home.js'
import { readSettings } from '../settings.js'
import { Exit, type Io } from './io.js'

export async function logs(home: Home, io: Io, { follow, lines }: { follow: boolean; lines: number }): Promise<number> {
  const file = logFile(home)
  if (file === undefined) throw new BrokerError('NOT_FOUND', 'no log file is kept: log.console is off or console')
  if (!existsSync(file) && !follow) throw new BrokerError('NOT_FOUND', `there is no ${file} yet`)
  let at = existsSync(file) ? statSync(file).size : 0
  for (const line of await lastLines(home, lines)) io.out(line)
  if (!follow) return Exit.ok
  let inode = existsSync(file) ? statSync(file).ino : 0
  for (let rest = ''; ; await sleep(200)) {
    if (!existsSync(file)) continue
    const handle = openSync(file, 'r')
    try {
      const stat = fstatSync(handle)
      if (stat.ino !== inode || stat.size < at) [inode, at] = [stat.ino, 0]
      if (stat.size === at) continue
      const bytes = Buffer.alloc(stat.size - at)
      at += readSync(handle, bytes, 0, bytes.length, at)
      const parts = (rest + bytes.toString('utf8')).split('\n')
      rest = parts.pop()!
      for (const line of parts) io.out(line)
    } finally {
      closeSync(handle)
    }
  }
}

/** The last lines of the log, the file before the current one included; none when there is no log. */
export async function lastLines(home: Home, count: number): Promise<string[]> {
  const file = logFile(home)
  if (file === undefined || count === 0) return []
  const lines: string[] = []
  for (const part of [file, `${file}.1`]) {
    if (lines.length >= count || !existsSync(part)) break
    lines.unshift(...readFileSync(part, 'utf8').split('\n').filter(Boolean))
  }
  return lines.slice(-count)
}

function logFile(home: Home): string | undefined {
  const { to, file } = readSettings(home).options.log.console
  return to === 'file' || to === 'both' ? home.path(file) : undefined
}
