/**
 * The broker as a daemon: started, stopped and started anew by one command at a time.
 *
 * pm2 calls a start good even when the script dies or never becomes ready (Unitech/pm2#5716), starting a name that
 * runs restarts it in silence, and nothing keeps two starts from spawning two daemons (Unitech/pm2#2503). So pm2's word
 * is not taken: a lock lets one command at a time work on a home, the broker runs when its admin socket says so, and the start
 * has failed when the broker left a word or time is up.
 */
import { existsSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { AdminClient } from '../../admin/client.js'
import { BrokerError } from '../../base/errors.js'
import type { Home } from '../../base/home.js'
import { clear, holderOf, isAlive, lock } from '../../base/lock.js'
import { capFile } from '../crash-file.js'
import { forgetWord, wordOf } from '../failure.js'
import { endingMs, endProcess, untilGone } from './ending.js'
import { endPm2, launch, restartDelayMs } from './host.js'

/** How often a start that takes its time says what it is at. */
const tellMs = 1000

/** What a running broker says of itself. */
export type Pong = Awaited<ReturnType<typeof askedFor>>

async function askedFor(home: Home) {
  return await new AdminClient(home.adminSocket, 2000).call('node ping', {})
}

/** Undefined when no broker answers in this home. */
export async function ping(home: Home): Promise<Pong | undefined> {
  try {
    return await askedFor(home)
  } catch (err) {
    if (err instanceof BrokerError && err.code === 'UNREACHABLE') return undefined
    throw err
  }
}

export interface StartOptions {
  readonly wait: boolean
  readonly timeoutMs: number
  /** Where what the process says outside the log goes: log.crash.file. */
  readonly crashFile: string
  /** Told now and then what a start is at that takes its time. */
  readonly tell?: (doing: string) => void
}

export interface StopOptions {
  readonly mode: 'drain' | 'fast' | 'immediate'
  readonly timeoutMs: number
}

/** Resolves when the broker runs and its listeners are open; at once when asked not to wait. */
export async function startDaemon(home: Home, options: StartOptions): Promise<Pong | undefined> {
  return await exclusively(home, () => bringUp(home, options))
}

/** Ends the broker and the pm2 that keeps it; false when there was none. What does not end in time is killed. */
export async function stopDaemon(home: Home, options: StopOptions): Promise<boolean> {
  if (!existsSync(home.data)) return false
  return await exclusively(home, () => bringDown(home, options))
}

/** Stops and starts with nobody in between; false when no broker was running. */
export async function restartDaemon(home: Home, stop: StopOptions, start: StartOptions): Promise<boolean> {
  if (!existsSync(home.data)) return false
  return await exclusively(home, async () => {
    if (!(await bringDown(home, stop))) return false
    await bringUp(home, start)
    return true
  })
}

async function exclusively<T>(home: Home, work: () => Promise<T>): Promise<T> {
  let free: (() => void) | number
  try {
    free = lock(home.commandLock)
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code
    throw new BrokerError(
      'UNAVAILABLE',
      `cannot write to ${home.data} (${why}); make a home of your own with \`broker init <dir>\``,
      { cause }
    )
  }
  if (typeof free === 'number') {
    throw new BrokerError('UNAVAILABLE', `another start or stop of this broker is under way (pid ${free})`)
  }
  try {
    return await work()
  } finally {
    free()
  }
}

async function bringUp(home: Home, { wait, timeoutMs, crashFile, tell }: StartOptions): Promise<Pong | undefined> {
  let deadline = Date.now() + timeoutMs
  const running = await ping(home)
  if (running !== undefined) {
    const starts = running.phase === 'running' ? '' : ` (pid ${running.pid} is ${running.phase})`
    throw new BrokerError('CONFLICT', `Node is already running!${starts}`)
  }
  const holder = holderOf(home.brokerLock)
  if (holder !== undefined) {
    throw new BrokerError(
      'CONFLICT',
      `Node is already running! (pid ${holder} does not answer, or not yet; \`broker stop\` ends it)`
    )
  }
  await endPm2(home, 'SIGTERM') // it keeps nothing, or something that does not come up
  sweep(home)
  capFile(crashFile)
  try {
    await launch(home, crashFile)
    if (!wait) return undefined
    let told = Date.now()
    let doing: string | undefined
    for (; Date.now() < deadline; await sleep(25)) {
      const answer = await ping(home)
      if (answer?.phase === 'running') return answer
      if (answer?.doing !== undefined && answer.doing !== doing) {
        doing = answer.doing
        deadline = Date.now() + timeoutMs // it gets on
        if (Date.now() - told > tellMs) {
          told = Date.now()
          tell?.(doing)
        }
      }
      const word = wordOf(home)
      if (word !== undefined) throw new BrokerError('UNAVAILABLE', word)
    }
  } catch (err) {
    await endPm2(home, 'SIGTERM')
    sweep(home)
    throw err
  }
  throw new BrokerError(
    'UNAVAILABLE',
    `The broker failed to start within ${timeoutMs / 1000} seconds; it goes on trying until \`broker stop\`.\n` +
      'If you want to wait longer, set the environment variable\nWAIT_FOR_BROKER to the number of seconds to wait.'
  )
}

async function bringDown(home: Home, { mode, timeoutMs }: StopOptions): Promise<boolean> {
  const deadline = Date.now() + timeoutMs
  const answer = await ping(home)
  const pid = answer?.pid ?? holderOf(home.brokerLock)
  let seenAlive = 0
  if (pid !== undefined) {
    if (mode === 'immediate') {
      await endPm2(home, 'SIGKILL') // first, or it would start another
      await endProcess(pid, 'SIGKILL', endingMs)
    } else if (answer === undefined) {
      seenAlive = await endProcess(pid, 'SIGTERM', deadline - Date.now()) // it comes up, goes down or hangs
    } else {
      await askToStop(home, mode, Math.max(100, timeoutMs - 1000))
      seenAlive = await untilGone(pid, deadline)
    }
  }
  // pm2 may be killed while it cannot have begun another try; otherwise it must end its own way, since only it
  // knows a process that does not hold the broker's lock yet.
  const idle = pid !== undefined && Date.now() - seenAlive < restartDelayMs
  const kept = await endPm2(home, idle ? 'SIGKILL' : 'SIGTERM')
  for (const left of [pid, holderOf(home.brokerLock)]) {
    if (left === undefined || !isAlive(left)) continue
    await endProcess(left, 'SIGKILL', endingMs)
    if (isAlive(left)) throw new BrokerError('UNAVAILABLE', `pid ${left} does not end, not even when it is killed`)
  }
  sweep(home)
  return pid !== undefined || kept
}

async function askToStop(home: Home, mode: 'drain' | 'fast', patienceMs: number): Promise<void> {
  try {
    await new AdminClient(home.adminSocket, 2000).call('node stop', { mode, timeoutMs: String(patienceMs) })
  } catch (err) {
    if (!(err instanceof BrokerError) || err.code !== 'UNREACHABLE') throw err // it hangs, and will be killed
  }
}

/** Removes what a broker and a pm2 leave that were killed. */
function sweep(home: Home): void {
  const free = lock(home.brokerLock)
  if (typeof free === 'number') return // somebody runs a broker here in the foreground
  rmSync(home.adminSocket, { force: true })
  rmSync(home.pm2, { recursive: true, force: true })
  if (!home.hasRoomForSockets) {
    rmSync(home.shortDir, { recursive: true, force: true })
    rmSync(home.shortDirRecord, { force: true })
  }
  forgetWord(home)
  clear(home.pm2Lock)
  free()
}
