/** Runs the real binaries, each in a home of its own, and leaves no process behind. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Home } from '../../src/base/home.js'
import { type ServerFiles, until } from './server.js'

export const packageRoot = fileURLToPath(new URL('../../..', import.meta.url))

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly out: string
  readonly err: string
}

interface RunOptions {
  readonly cwd?: string
  readonly env?: NodeJS.ProcessEnv
  readonly input?: string
  /** Leaves standard input open, as a terminal does. */
  readonly open?: true
  readonly uid?: number
}

/** A program under way. */
export interface Started {
  readonly child: ChildProcess
  /** What it has written so far. */
  readonly out: () => string
  readonly err: () => string
  readonly ended: Promise<Ended>
}

export function begin(program: 'broker' | 'broker-ctl', args: readonly string[], options: RunOptions = {}): Started {
  const { cwd = packageRoot, env = {}, input, open, uid } = options
  const child = spawn(process.execPath, [join(packageRoot, 'bin', program), ...args], {
    cwd,
    env: { ...inherited(), WAIT_FOR_BROKER: '600', ...env }, // a busy machine starts nothing in seconds
    stdio: [input === undefined && !open ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    ...(uid === undefined ? {} : { uid, gid: uid })
  })
  let out = ''
  let err = ''
  child.stdout!.setEncoding('utf8').on('data', chunk => {
    out += chunk
  })
  child.stderr!.setEncoding('utf8').on('data', chunk => {
    err += chunk
  })
  if (!open) child.stdin?.end(input)
  const ended = new Promise<Ended>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve({ code, signal, out, err }))
  })
  return { child, out: () => out, err: () => err, ended }
}

/** Without what decides where a home is, and without the marks of the test runner. */
function inherited(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(BROKER_|NODE_TEST_|WAIT_FOR_BROKER|FORCE_COLOR)/.test(name))
  )
}

/** The programs, with their home named. */
export interface Instance {
  readonly home: Home
  broker(...args: string[]): Promise<Ended>
  ctl(...args: string[]): Promise<Ended>
  begin(...args: string[]): Started
  /** Processes that belong to the home, with their command lines. */
  processes(): Map<number, string>
  /** Sockets, locks and pm2's files: what only a running broker has. */
  traces(): string[]
}

/** An instance whose processes end, and whose directory goes, with the test. */
export function instance(
  t: Pick<TestContext, 'after'>,
  { conf = '', acl = '', plugins = {} }: ServerFiles = {},
  parent = tmpdir()
): Instance {
  const root = mkdtempSync(join(parent, 'broker-test-'))
  mkdirSync(join(root, 'etc/plugins'), { recursive: true })
  writeFileSync(join(root, 'etc/broker.conf'), conf || 'listener.tcp.test = 127.0.0.1:0\n')
  writeFileSync(join(root, 'etc/acl.conf'), acl)
  for (const [name, text] of Object.entries(plugins)) writeFileSync(join(root, `etc/plugins/${name}.conf`), text)
  const home = new Home(root)
  t.after(async () => {
    try {
      await endAll(home.root)
    } finally {
      rmSync(root, { recursive: true, force: true })
      if (!home.hasRoomForSockets) rmSync(home.shortDir, { recursive: true, force: true })
    }
  })
  const withHome = (args: string[]): string[] => ['--home', home.root, ...args]
  return {
    home,
    broker: (...args) => begin('broker', withHome(args)).ended,
    ctl: (...args) => begin('broker-ctl', withHome(args)).ended,
    begin: (...args) => begin('broker', withHome(args)),
    processes: () => processesOf(home.root),
    traces: () => [
      ...listed(home.data).filter(name => !/^(loaded_plugins|store)$/.test(name)),
      ...(home.hasRoomForSockets ? [] : listed(home.shortDir))
    ]
  }
}

function listed(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}

/** Those that name it in their command line or environment: a broker has its home in the one, pm2 in the other. */
function processesOf(root: string): Map<number, string> {
  const found = new Map<number, string>()
  const all = execFileSync('ps', ['axeww', '-o', 'pid=,stat=,command='], { encoding: 'utf8', maxBuffer: 1 << 26 })
  for (const line of all.split('\n')) {
    const [, pid, stat, command] = /^\s*(\d+)\s+(\S+)\s+(.*)$/.exec(line) ?? []
    if (command?.includes(root) && !stat!.startsWith('Z')) found.set(Number(pid), command.slice(0, 200))
  }
  return found
}

/** All at once, and again for what pm2 had just started. */
async function endAll(root: string): Promise<void> {
  await until('every process of the test is gone', () => {
    const left = [...processesOf(root).keys()]
    for (const pid of left) signal(pid, 'SIGKILL')
    return left.length === 0
  })
}

/** It may be gone already. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err
  }
}
