/**
 * Why the daemon did not start: its last word, in a file, for the `broker start` that waits for it. Loads nothing
 * of the broker, so that it can also say that the broker could not be loaded.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import { Exit, isOperational } from './io.js'

/** Returns the exit status that tells pm2 whether another try makes sense. */
export function leaveWord(home: Home, err: unknown): number {
  const message = isOperational(err) ? err.message : err instanceof Error ? (err.stack ?? err.message) : String(err)
  writeFileSync(home.failure, JSON.stringify({ message }))
  if (!isOperational(err)) process.stderr.write(`${new Date().toISOString()} ${message}\n`)
  if (err instanceof BrokerError && err.code === 'CONFIG_INVALID') return Exit.config
  return isOperational(err) ? Exit.unavailable : Exit.bug
}

export function wordOf(home: Home): string | undefined {
  try {
    return (JSON.parse(readFileSync(home.failure, 'utf8')) as { message: string }).message
  } catch {
    return undefined // not there, or not yet whole
  }
}

export function forgetWord(home: Home): void {
  rmSync(home.failure, { force: true })
}
