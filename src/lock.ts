/**
 * A lock that one living process holds: a file with its pid. One left by a process
 * that was killed is taken over, also when its pid belongs to somebody else by now.
 *
 * The file appears whole (link() of a written one), so no reader sees it empty.
 */
import { execFileSync } from 'node:child_process'
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'

/** Takes the lock; returns what frees it, or the pid of its holder. */
export function lock(file: string): (() => void) | number {
  mkdirSync(dirname(file), { recursive: true })
  const mine = `${file}.${process.pid}`
  const content = `${process.pid}\n${startOf(process.pid)}\n`
  for (;;) {
    writeFileSync(mine, content)
    try {
      linkSync(mine, file)
      return () => {
        if (read(file) === content) rmSync(file, { force: true })
      }
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err
      const holder = holderOf(file)
      if (holder !== undefined) return holder
      takeAway(file)
    } finally {
      rmSync(mine, { force: true })
    }
  }
}

/** The pid of the living process that holds the lock. */
export function holderOf(file: string): number | undefined {
  const [pid, start] = (read(file) ?? '').split('\n')
  if (!pid) return undefined
  return isAlive(Number(pid)) && startOf(Number(pid)) === start ? Number(pid) : undefined
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
  } catch (err) {
    return (err as NodeJS.ErrnoException).code === 'EPERM'
  }
  return statOf(pid)?.[0] !== 'Z' // ended, and its parent has not asked yet
}

/** Moves a dead lock aside; when another process was quicker and it was its new lock, puts that back. */
function takeAway(file: string): void {
  const aside = `${file}.stale.${process.pid}`
  try {
    renameSync(file, aside)
  } catch {
    return // somebody else took it away
  }
  if (holderOf(aside) !== undefined) {
    try {
      linkSync(aside, file)
    } catch {
      // a third process has the lock by now
    }
  }
  rmSync(aside, { force: true })
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}

/** When a process began, in whatever words the host has: with the pid it names one process only. */
function startOf(pid: number): string {
  const started = statOf(pid)?.[19]
  if (started !== undefined) return started
  try {
    return execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore']
    }).trim()
  } catch {
    return ''
  }
}

/** The fields of Linux's /proc/<pid>/stat from the third, the state, on; undefined elsewhere. */
function statOf(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}
