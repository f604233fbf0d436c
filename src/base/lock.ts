/**
 * A lock that one living process holds: a file with its pid. One left by a process
 * that was killed is taken over, also when its pid belongs to somebody else by now.
 *
 * The file appears whole (link() of a written one), so no reader sees it empty.
 */
import { execFileSync } from 'node:child_process'
import { linkSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'

/** Takes the lock; returns what frees it, or the pid of its holder. */
export function lock(file: string): (() => void) | number {
  mkdirSync(dirname(file), { recursive: true })
  const mine = `${file}.${process.pid}`
  const content = `${process.pid}\n${startOf(process.pid)}\n`
  for (;;) {
    try {
      writeFileSync(mine, content)
      linkSync(mine, file)
      removeLitter(file)
      return () => {
        if (textOf(file) === content) rmSync(file, { force: true })
      }
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err
    } finally {
      rmSync(mine, { force: true })
    }
    const holder = holderOf(file)
    if (holder !== undefined) return holder
    removeDead(file)
  }
}

/** The pid of the living process that holds the lock. */
export function holderOf(file: string): number | undefined {
  return livingIn(read(file) ?? '')
}

function livingIn(text: string): number | undefined {
  const [first, start] = text.split('\n')
  const pid = Number(first)
  return pid > 0 && isAlive(pid) && startOf(pid) === start ? pid : undefined
}

/** Removes the lock if nobody living holds it. */
export function clear(file: string): void {
  const free = lock(file)
  if (typeof free === 'function') free()
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
  } catch (err) {
    return (err as NodeJS.ErrnoException).code === 'EPERM'
  }
  return statOf(pid)?.[0] !== 'Z' // ended, and its parent has not asked yet
}

/**
 * Removes a dead lock, under a lock of its own: of two processes that find it dead, the slower one would
 * otherwise remove the new lock of the quicker one, and both would hold it.
 */
function removeDead(file: string): void {
  const free = lock(`${file}.heir`)
  if (typeof free === 'number') return pause()
  // A dead lock stays as it is until it is removed here; one that is not there may be back the next moment, living.
  const text = read(file)
  if (text !== undefined && livingIn(text) === undefined) rmSync(file, { force: true })
  free()
}

/** The files of processes that were killed between the write and the removal of theirs. */
function removeLitter(file: string): void {
  const dir = dirname(file)
  for (const name of readdirSync(dir)) {
    if (!name.startsWith(`${basename(file)}.`)) continue
    const pid = Number(name.slice(basename(file).length + 1))
    if (Number.isInteger(pid) && !isAlive(pid)) rmSync(join(dir, name), { force: true })
  }
}

/** A millisecond, for another process to finish its few system calls. */
const pause = (): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)

/** Undefined when there is no lock; a lock that may not be read is not taken for none. */
function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw err
  }
}

/** When a process began, in whatever words the host has: with the pid it names one process only. */
function startOf(pid: number): string {
  const started = statOf(pid)?.[19] // ticks since the host was booted
  if (started !== undefined) return `${started} ${textOf('/proc/sys/kernel/random/boot_id')?.trim()}`
  try {
    return execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], {
      encoding: 'utf8',
      env: { ...process.env, LC_ALL: 'C', TZ: 'UTC' }, // two processes must read the same words
      stdio: ['ignore', 'pipe', 'ignore']
    }).trim()
  } catch {
    return ''
  }
}

/** The fields of Linux's /proc/<pid>/stat from the third, the state, on; undefined elsewhere. */
function statOf(pid: number): string[] | undefined {
  const stat = textOf(`/proc/${pid}/stat`)
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')
}

function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}
