/**
 * The daemon process, kept by pm2; each home has a pm2 of its own.
 *
 * pm2 calls a start good even when the script dies or never becomes ready
 * (Unitech/pm2#5716), starting a name that runs restarts it in silence, and nothing
 * keeps two starts from spawning two daemons (Unitech/pm2#2503). So its word is not
 * taken: a lock lets one command at a time work on a home, pm2 runs in a process of
 * ours that holds another, the broker runs when its admin socket says so, and it has
 * failed when it left a word or time is up.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { AdminClient } from '../../admin/client.js'
import { BrokerError } from '../../base/errors.js'
import { type Home, packageRoot } from '../../base/home.js'
import { clear, holderOf, isAlive, lock } from '../../base/lock.js'
import { capFile } from '../crash-file.js'
import { forgetWord, wordOf } from '../failure.js'
import { Exit } from '../io.js'

const name = 'broker'
/** How often a start that takes its time says what it is at. */
const tellMs = 1000

/** A call to pm2 that takes longer is not going to end. */
const pm2TimeoutMs = 10_000
/** How soon pm2 starts a broker that has died; it grows to 15 s while it keeps dying. */
const restartDelayMs = 100
/** For what has been sent SIGKILL, or has nothing left to do but end. */
const endingMs = 5000

/**
 * A small young generation: what a message needs is gone at once, and what a connection needs stays. With V8's own 16 MB
 * the daemon has up to 50 MB more and messages are no faster; with less, reading a large store takes longer (docs/benchmarks.md).
 */
export const nodeArguments = ['--max-semi-space-size=4']

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
      await end(pid, 'SIGKILL', endingMs)
    } else if (answer === undefined) {
      seenAlive = await end(pid, 'SIGTERM', deadline - Date.now()) // it comes up, goes down or hangs
    } else {
      await askToStop(home, mode, Math.max(100, timeoutMs - 1000))
      seenAlive = await gone(pid, deadline)
    }
  }
  // pm2 may be killed while it cannot have begun another try; otherwise it must end its own way, since only it
  // knows a process that does not hold the broker's lock yet.
  const idle = pid !== undefined && Date.now() - seenAlive < restartDelayMs
  const kept = await endPm2(home, idle ? 'SIGKILL' : 'SIGTERM')
  for (const left of [pid, holderOf(home.brokerLock)]) {
    if (left === undefined || !isAlive(left)) continue
    await end(left, 'SIGKILL', endingMs)
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

/** Sends the signal and waits for the end, but not for ever; returns when it was last seen alive. */
async function end(pid: number, signal: NodeJS.Signals, patienceMs: number): Promise<number> {
  try {
    process.kill(pid, signal)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'EPERM') throw new BrokerError('UNAVAILABLE', `pid ${pid} belongs to another user`, { cause })
    if (code !== 'ESRCH') throw cause
  }
  return await gone(pid, Date.now() + patienceMs)
}

/** Waits until the process is gone or time is up; returns when it was last seen alive. */
async function gone(pid: number, deadline: number): Promise<number> {
  let seen = 0
  while (isAlive(pid)) {
    seen = Date.now()
    if (seen > deadline) break
    await sleep(10)
  }
  return seen
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

// ── pm2 ──────────────────────────────────────────────────────────────────────

async function launch(home: Home, crashFile: string): Promise<void> {
  mkdirSync(home.pm2, { recursive: true, mode: 0o700 })
  home.makeSocketDir()
  prepareEnvironment(home)
  const keeper = await spawnKeeper(home)
  const { default: pm2 } = await import('pm2')
  const call = async (method: 'connect' | 'start', ...args: unknown[]): Promise<void> =>
    await inTime(`pm2 ${method}`, (resolve, reject) => {
      ;(pm2[method] as (...args: unknown[]) => void).call(pm2, ...args, (err: unknown) => {
        if (err) reject(err instanceof Error ? err : new Error(`pm2 ${method}: ${JSON.stringify(err)}`))
        else resolve()
      })
    })
  await call('connect')
  try {
    await call('start', {
      name,
      script: join(packageRoot, 'bin/broker'),
      args: ['daemon', '--home', home.root],
      interpreter: process.execPath,
      node_args: nodeArguments,
      cwd: home.root,
      exec_mode: 'fork',
      output: crashFile,
      error: crashFile,
      merge_logs: true,
      exp_backoff_restart_delay: restartDelayMs,
      max_restarts: 1_000_000,
      stop_exit_codes: [Exit.stopped, Exit.config],
      kill_timeout: 15_000,
      treekill: false,
      vizion: false,
      pmx: false,
      automation: false
    })
  } finally {
    pm2.disconnect()
  }
  await new Promise(resolve => keeper.send('stay', resolve))
  keeper.disconnect()
}

/**
 * pm2 reads its paths from the environment when it is first loaded, and keeps the environment of whoever
 * started the daemon; it is given what the broker needs and not, say, a shell's secrets.
 */
function prepareEnvironment(home: Home): void {
  const needed = /^(PATH|HOME|USER|LOGNAME|SHELL|TMPDIR|TZ|LANG|LC_.*|NODE_.*|UV_.*|SSL_.*|PG.*|BROKER_.*|HOSTNAME)$/
  for (const key of Object.keys(process.env)) if (!needed.test(key)) delete process.env[key]
  Object.assign(process.env, {
    PM2_HOME: home.pm2,
    PM2_PROGRAMMATIC: 'true',
    PM2_DISCRETE_MODE: 'true',
    PM2_NO_INTERACTION: 'true',
    PM2_DISABLE_VERSION_CHECK: 'true'
  })
  if (home.hasRoomForSockets) return
  for (const socket of ['DAEMON_RPC_PORT', 'DAEMON_PUB_PORT', 'INTERACTOR_RPC_PORT']) {
    process.env[`PM2_${socket}`] = join(home.shortDir, `${socket.toLowerCase().replace('_port', '')}.sock`)
  }
}

/** Starts the process of keep(); resolves when its pm2 takes calls. */
async function spawnKeeper(home: Home): Promise<ChildProcess> {
  const logFile = join(home.pm2, 'pm2.log')
  const log = openSync(logFile, 'a')
  const keeper = spawn(process.execPath, [join(packageRoot, 'bin/broker'), 'keep', '--home', home.root], {
    cwd: home.root,
    detached: true,
    stdio: ['ignore', log, log, 'ipc']
  })
  closeSync(log)
  keeper.unref()
  await inTime('pm2', (resolve, reject) => {
    keeper.once('message', () => resolve())
    keeper.once('error', reject)
    keeper.once('exit', () => {
      reject(new BrokerError('UNAVAILABLE', `pm2 does not start:\n${readFileSync(logFile, 'utf8').trim()}`))
    })
  })
  return keeper
}

/**
 * The process in which pm2 lives. Not the one that pm2's client would spawn: ours holds a lock, by which every
 * later command finds it, and ends itself when the `broker start` that began it is killed half way.
 */
export async function keep(home: Home): Promise<void> {
  const quit = (): void => void process.kill(process.pid, 'SIGTERM') // pm2 then ends what it has started
  process.once('disconnect', quit)
  process.once('message', () => process.off('disconnect', quit))
  process.title = `pm2 of broker ${home.root}`
  const free = await lockInTime(home.pm2Lock)
  process.once('exit', free)
  const Daemon = createRequire(import.meta.url)('pm2/lib/Daemon.js') as new () => { start(): void }
  new Daemon().start() // says so to the parent process when it takes calls
  await new Promise(() => {})
}

/** One whose `broker start` was killed may not have ended yet. */
async function lockInTime(file: string): Promise<() => void> {
  for (const deadline = Date.now() + endingMs; ; await sleep(20)) {
    const free = lock(file)
    if (typeof free === 'function') return free
    if (Date.now() > deadline) throw new BrokerError('UNAVAILABLE', `another pm2 keeps this home (pid ${free})`)
  }
}

async function inTime(
  what: string,
  work: (resolve: () => void, reject: (err: unknown) => void) => void
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const late = setTimeout(() => reject(new BrokerError('UNAVAILABLE', `${what}: no answer`)), pm2TimeoutMs)
    work(
      () => {
        clearTimeout(late)
        resolve()
      },
      err => {
        clearTimeout(late)
        reject(err)
      }
    )
  })
}

/** Ends this home's pm2; true when there was one. */
async function endPm2(home: Home, signal: 'SIGTERM' | 'SIGKILL'): Promise<boolean> {
  const pid = holderOf(home.pm2Lock)
  if (pid === undefined) return false
  await end(pid, signal, endingMs)
  if (isAlive(pid)) await end(pid, 'SIGKILL', endingMs)
  return true
}
