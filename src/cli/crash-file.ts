/**
 * Keeps log.crash.file from filling the disk. pm2 appends to it for ever and holds it
 * open, so that what is over its size is copied to `.1`, the one old file that is
 * kept, and the file emptied in its place.
 */
import { copyFileSync, mkdirSync, statSync, truncateSync } from 'node:fs'
import { dirname } from 'node:path'

const largest = 10 * 1024 * 1024
const everyMs = 5000

export function capFile(file: string, limit = largest): void {
  mkdirSync(dirname(file), { recursive: true })
  if ((statSync(file, { throwIfNoEntry: false })?.size ?? 0) <= limit) return
  copyFileSync(file, `${file}.1`)
  truncateSync(file)
}

/** Looks now and then, while the broker runs; a full disk is no reason for it to end. Returns what stops it. */
export function keepCapped(file: string, failed: (err: unknown) => void): () => void {
  let hasFailed = false
  const timer = setInterval(() => {
    try {
      capFile(file)
      hasFailed = false
    } catch (err) {
      if (!hasFailed) failed(err)
      hasFailed = true
    }
  }, everyMs).unref()
  return () => clearInterval(timer)
}
