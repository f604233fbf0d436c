/**
 * pm2, which keeps the daemon: starts it again when it dies. Each home has a pm2 of its own, which runs in a process of ours
 * that holds a lock, by which every later command finds it.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '../../base/errors.js'
import { type Home, packageRoot } from '../../base/home.js'
import { holderOf, isAlive, lock } from '../../base/lock.js'
import { Exit } from '../io.js'
import { endingMs, endProcess } from './ending.js'

/** pm2's name for the broker. */
const name = 'broker'
/** A call to pm2 that takes longer is not going to end. */
const pm2TimeoutMs = 10_000
/** How soon pm2 starts a broker that has died; it grows to 15 s while the broker keeps dying. */
export const restartDelayMs = 100

/**
 * A small young generation: what a message needs is gone at once, and what a connection needs stays. With V8's own 16 MB
 * the daemon has up to 50 MB more and messages are no faster; with less, reading a large store takes longer (docs/benchmarks.md).
 */
export const nodeArguments = ['--max-semi-space-size=4']

/** Starts the broker in this home's pm2, which is started for it. @param crashFile where what the broker says outside its log goes. */
export async function launch(home: Home, crashFile: string): Promise<void> {
  mkdirSync(home.pm2, { recursive: true, mode: 0o700 })
  home.makeSocketDir()
  prepareEnvironment(home)
  const host = await spawnPm2(home)
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
  await new Promise(resolve => host.send('stay', resolve))
  host.disconnect()
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
async function spawnPm2(home: Home): Promise<ChildProcess> {
  const logFile = join(home.pm2, 'pm2.log')
  const log = openSync(logFile, 'a')
  const host = spawn(process.execPath, [join(packageRoot, 'bin/broker'), 'keep', '--home', home.root], {
    cwd: home.root,
    detached: true,
    stdio: ['ignore', log, log, 'ipc']
  })
  closeSync(log)
  host.unref()
  await inTime('pm2', (resolve, reject) => {
    host.once('message', () => resolve())
    host.once('error', reject)
    host.once('exit', () => {
      reject(new BrokerError('UNAVAILABLE', `pm2 does not start:\n${readFileSync(logFile, 'utf8').trim()}`))
    })
  })
  return host
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
export async function endPm2(home: Home, signal: 'SIGTERM' | 'SIGKILL'): Promise<boolean> {
  const pid = holderOf(home.pm2Lock)
  if (pid === undefined) return false
  await endProcess(pid, signal, endingMs)
  if (isAlive(pid)) await endProcess(pid, 'SIGKILL', endingMs)
  return true
}
