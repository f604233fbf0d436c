/** The brokers that are measured: how each is started, and what its process has used. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { nodeArguments } from '../src/cli/pm2/host.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

export interface Contender {
  readonly name: string
  /** MQTT 5, and shared subscriptions. */
  readonly speaks5: boolean
  start(port: number): ChildProcess
}

const stockAedes = `
import('aedes').then(async ({ Aedes }) => {
  const aedes = await Aedes.createBroker()
  require('node:net').createServer({ noDelay: true }, aedes.handle).listen(Number(process.argv[1]), '127.0.0.1')
})`

/**
 * This broker and all others that are there.
 * @param dir where they may write.
 * @param peers `name=command with {port}`.
 */
export function contenders(dir: string, peers: readonly string[]): Contender[] {
  const all: Contender[] = [
    { name: 'tsmqttd', speaks5: true, start: port => startOurs(dir, port) },
    {
      name: 'aedes 1.2.0',
      speaks5: false,
      start: port => spawn(process.execPath, ['-e', stockAedes, String(port)], { cwd: root, stdio: 'inherit' })
    }
  ]
  const mosquitto = findMosquitto()
  if (mosquitto !== undefined) {
    all.push({ name: versionOf(mosquitto), speaks5: true, start: port => startMosquitto(dir, mosquitto, port) })
  }
  for (const peer of peers) {
    const [name, command] = [peer.slice(0, peer.indexOf('=')), peer.slice(peer.indexOf('=') + 1)]
    all.push({
      name,
      speaks5: true,
      start: port => spawn('sh', ['-c', `exec ${command.replaceAll('{port}', String(port))}`], { stdio: 'ignore' })
    })
  }
  return all
}

/** Seconds of CPU that the process has used; to 10 ms on Linux, to a second elsewhere. */
export function cpuOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) / 100
  } catch {
    const time = execFileSync('ps', ['-o', 'time=', '-p', String(pid)], { encoding: 'utf8' }).trim()
    return time.split(/[:-]/).reduce((sum, part) => sum * 60 + Number(part), 0)
  }
}

/** KiB of resident memory. */
export function memoryOf(pid: number): number {
  return Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' }))
}

/** With its defaults, the shipped ACL file included, as the daemon runs. @param extra lines of the configuration, in place of those there. */
export const startOurs = (dir: string, port: number, extra = ''): ChildProcess => startIn(homeFor(dir, port, extra))

export function homeFor(dir: string, port: number, extra = ''): string {
  const home = mkdtempSync(join(dir, 'home-'))
  execFileSync(process.execPath, [join(root, 'bin/broker'), 'init', home], { stdio: 'ignore' })
  const conf = join(home, 'etc/broker.conf')
  const text = readFileSync(conf, 'utf8').replace(/^listener\.(ssl|ws|wss)\..*$/gm, '')
  const only = text
    .replace(/^(listener\.tcp\.external =).*$/m, `$1 127.0.0.1:${port}`)
    .replace(/^(listener\.tcp\.external\.max_clients =).*$/m, '$1 100000')
  const given = new Set(extra.split('\n').map(line => line.split(' ')[0]))
  const rest = only.split('\n').filter(line => line === '' || !given.has(line.split(' ')[0]))
  writeFileSync(conf, `${rest.join('\n')}\n${extra}\n`)
  return home
}

export function startIn(home: string): ChildProcess {
  const args = [...nodeArguments, join(root, 'bin/broker'), '--home', home, 'foreground']
  return spawn(process.execPath, args, { stdio: 'ignore' })
}

export function startMosquitto(dir: string, command: string, port: number, extra = ''): ChildProcess {
  const conf = join(dir, `mosquitto-${port}.conf`)
  writeFileSync(
    conf,
    `listener ${port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\nset_tcp_nodelay true\n${extra}\n`
  )
  return spawn(command, ['-c', conf], { stdio: 'ignore' })
}

export const findMosquitto = (): string | undefined =>
  ['mosquitto', '/usr/sbin/mosquitto', '/opt/homebrew/sbin/mosquitto'].find(has)

function has(command: string): boolean {
  try {
    execFileSync('sh', ['-c', `command -v ${command}`], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

function versionOf(command: string): string {
  try {
    return execFileSync(command, ['-h'], { encoding: 'utf8' }).split('\n')[0]!.replace(' version', '')
  } catch (err) {
    return (err as { stdout?: string }).stdout?.split('\n')[0]?.replace(' version', '') ?? 'mosquitto'
  }
}

export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}

export async function listening(port: number): Promise<void> {
  for (const deadline = Date.now() + 10_000; ; await sleep(50)) {
    const answered = await new Promise<boolean>(resolve => {
      const socket = connect(port, '127.0.0.1')
      socket.once('connect', () => {
        socket.destroy()
        resolve(true)
      })
      socket.once('error', () => resolve(false))
    })
    if (answered) return
    if (Date.now() > deadline) throw new Error(`nothing listens on ${port}`)
  }
}
