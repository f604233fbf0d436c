/**
 * The daemon process, kept by pm2; each home has a pm2 of its own.
 *
 * pm2 calls a start good even when the script dies or never becomes ready
 * (Unitech/pm2#5716), starting a name that runs restarts it in silence, and nothing
 * keeps two starts from spawning two daemons (Unitech/pm2#2503). So its word is not
 * taken: a lock lets one command at a time work on a home, the broker runs when its
 * admin socket says so, and it has failed when it left a word or time is up.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { AdminClient } from '../admin/client.js'
import { BrokerError } from '../errors.js'
import { type Home, packageRoot } from '../home.js'
import { holderOf, isAlive, lock } from '../lock.js'
import { Exit } from './io.js'

const name = 'broker'
/** A call to pm2 that takes longer is not going to end. */
const pm2TimeoutMs = 10_000

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
}

/** Resolves when the broker runs and its listeners are open; at once when asked not to wait. */
export async function startDaemon(home: Home, { wait, timeoutMs, crashFile }: StartOptions): Promise<Pong | undefined> {
  return await exclusively(home, async () => {
    const deadline = Date.now() + timeoutMs
    if (await ping(home)) throw new BrokerError('CONFLICT', 'Node is already running!')
    await endPm2(home) // of a start that was killed half way
    const holder = holderOf(home.brokerLock)
    if (holder !== undefined)
      throw new BrokerError('CONFLICT', `Node is already running! (pid ${holder} does not answer)`)
    rmSync(home.failure, { force: true })
    capFile(crashFile)
    try {
      await launch(home, crashFile)
      if (!wait) return undefined
      for (; Date.now() < deadline; await sleep(25)) {
        const answer = await ping(home)
        if (answer?.phase === 'running') return answer
        const word = failureOf(home)
        if (word !== undefined) throw new BrokerError('UNAVAILABLE', word)
      }
    } catch (err) {
      await endPm2(home)
      rmSync(home.failure, { force: true })
      throw err
    }
    throw new BrokerError(
      'UNAVAILABLE',
      `The broker failed to start within ${timeoutMs / 1000} seconds,\nsee ${crashFile} and \`broker logs\`; it goes on trying.\n` +
        'If you want to wait longer, set the environment variable\nWAIT_FOR_BROKER to the number of seconds to wait.'
    )
  })
}

export interface StopOptions {
  readonly mode: 'drain' | 'fast' | 'immediate'
  readonly timeoutMs: number
}

/** Ends the broker and the pm2 that keeps it; false when there was none. What does not end in time is killed. */
export async function stopDaemon(home: Home, { mode, timeoutMs }: StopOptions): Promise<boolean> {
  return await exclusively(home, async () => {
    const deadline = Date.now() + timeoutMs
    const answer = await ping(home)
    const pid = answer?.pid ?? holderOf(home.brokerLock)
    if (mode === 'immediate' && pid !== undefined) {
      await endPm2(home, 'SIGKILL') // first, or it would start another
      process.kill(pid, 'SIGKILL')
    } else if (answer !== undefined) {
      const patience = Math.max(100, timeoutMs - 1000)
      await new AdminClient(home.adminSocket, 2000).call('node stop', { mode, timeoutMs: String(patience) })
    }
    if (pid !== undefined) await gone(pid, deadline)
    const stopped = pid !== undefined && !isAlive(pid)
    // A pm2 whose broker has stopped has nothing left to do; one that is between two tries must end its own way.
    const kept = await endPm2(home, stopped ? 'SIGKILL' : 'SIGTERM')
    const left = stopped ? undefined : (holderOf(home.brokerLock) ?? pid)
    if (left !== undefined && isAlive(left)) {
      process.kill(left, 'SIGKILL')
      await gone(left, Date.now() + 5000)
    }
    for (const file of [home.adminSocket, home.socketRecord, home.brokerLock, home.failure])
      rmSync(file, { force: true })
    return pid !== undefined || kept
  })
}

async function gone(pid: number, deadline: number): Promise<void> {
  while (isAlive(pid) && Date.now() < deadline) await sleep(10)
}

async function exclusively<T>(home: Home, work: () => Promise<T>): Promise<T> {
  let free: (() => void) | number
  try {
    mkdirSync(home.data, { recursive: true })
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
    throw new BrokerError('CONFLICT', `another start or stop of this broker is under way (pid ${free})`)
  }
  try {
    return await work()
  } finally {
    free()
  }
}

function failureOf(home: Home): string | undefined {
  try {
    return (JSON.parse(readFileSync(home.failure, 'utf8')) as { message: string }).message
  } catch {
    return undefined // not there, or not yet whole
  }
}

/** pm2 appends for ever; one old file is kept. */
function capFile(file: string): void {
  mkdirSync(dirname(file), { recursive: true })
  if (existsSync(file) && statSync(file).size > 10 * 1024 * 1024) renameSync(file, `${file}.1`)
}

// ── pm2 ──────────────────────────────────────────────────────────────────────

async function launch(home: Home, crashFile: string): Promise<void> {
  mkdirSync(home.pm2, { recursive: true, mode: 0o700 })
  prepareEnvironment(home)
  const { default: pm2 } = await import('pm2')
  const call = async (method: 'connect' | 'start', ...args: unknown[]): Promise<void> =>
    await new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new BrokerError('UNAVAILABLE', `pm2 ${method}: no answer`)), pm2TimeoutMs)
      ;(pm2[method] as (...args: unknown[]) => void).call(pm2, ...args, (err: unknown) => {
        clearTimeout(late)
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
      cwd: home.root,
      exec_mode: 'fork',
      output: crashFile,
      error: crashFile,
      merge_logs: true,
      exp_backoff_restart_delay: 100, // grows to 15 s while it keeps dying
      max_restarts: 1_000_000,
      stop_exit_codes: [Exit.ok, Exit.config],
      kill_timeout: 15_000,
      treekill: false,
      vizion: false,
      pmx: false,
      automation: false
    })
  } finally {
    pm2.disconnect()
  }
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
  mkdirSync(home.shortDir, { recursive: true, mode: 0o700 })
  for (const socket of ['DAEMON_RPC_PORT', 'DAEMON_PUB_PORT', 'INTERACTOR_RPC_PORT']) {
    process.env[`PM2_${socket}`] = join(home.shortDir, `${socket.toLowerCase().replace('_port', '')}.sock`)
  }
}

/** Ends this home's pm2 daemon and removes what it keeps; true when there was one. */
async function endPm2(home: Home, signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<boolean> {
  const pid = pm2Pid(home)
  if (pid !== undefined) {
    process.kill(pid, signal)
    for (const deadline = Date.now() + 5000; isAlive(pid); await sleep(10)) {
      if (Date.now() > deadline) process.kill(pid, 'SIGKILL')
    }
  }
  rmSync(home.pm2, { recursive: true, force: true })
  if (!home.hasRoomForSockets) rmSync(home.shortDir, { recursive: true, force: true })
  return pid !== undefined
}

/** The pid in pm2's file, if that process is pm2: after a reboot it may be anybody. */
function pm2Pid(home: Home): number | undefined {
  try {
    const pid = Number(readFileSync(join(home.pm2, 'pm2.pid'), 'utf8'))
    if (!Number.isInteger(pid) || pid <= 1 || !isAlive(pid)) return undefined
    const command = execFileSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' })
    return /PM2|Daemon\.js/.test(command) ? pid : undefined
  } catch {
    return undefined
  }
}
