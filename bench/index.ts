/**
 * Compares this broker with others, under the same loads, one after the other:
 *
 *   npm run bench [-- --seconds 3] [--only pairs] [--peer name='command with {port}']
 *
 * It starts this broker, stock aedes and, where it is installed, mosquitto, and any
 * peer that is given; prints a table: messages delivered a second, the broker's CPU
 * time per delivered message, latency, lost, doubled, out of order, memory. The CPU
 * column is the one to trust on a noisy machine, and only beside a peer of the same run.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { cpus, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import type { Outcome, Workload } from './load.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3' },
    only: { type: 'string' },
    peer: { type: 'string', multiple: true, default: [] }
  }
})

const root = fileURLToPath(new URL('../..', import.meta.url))
const dir = mkdtempSync(join(tmpdir(), 'broker-bench-'))
const common = { size: 64, seconds: Number(values.seconds), version: 4 } as const
const many = { publishers: 50, subscribers: 50 }
const loads: Record<string, Workload> = {
  'fan-in q0': { ...common, shape: 'fan-in', publishers: 50, subscribers: 1, qos: 0 },
  'fan-in q1': { ...common, shape: 'fan-in', publishers: 50, subscribers: 1, qos: 1 },
  'pairs q0': { ...common, shape: 'pairs', ...many, qos: 0 },
  'pairs q1': { ...common, shape: 'pairs', ...many, qos: 1 },
  'pairs q2': { ...common, shape: 'pairs', ...many, qos: 2 },
  'pairs q0 v5': { ...common, shape: 'pairs', ...many, qos: 0, version: 5 },
  'pairs q1 v5': { ...common, shape: 'pairs', ...many, qos: 1, version: 5 },
  'fan-out q0': { ...common, shape: 'fan-out', publishers: 1, subscribers: 50, qos: 0 },
  'fan-out q1': { ...common, shape: 'fan-out', publishers: 1, subscribers: 50, qos: 1 }
}

interface Contender {
  readonly name: string
  readonly speaks5: boolean
  start(port: number): ChildProcess
}

const stockAedes = `
import('aedes').then(async ({ Aedes }) => {
  const aedes = await Aedes.createBroker()
  require('node:net').createServer({ noDelay: true }, aedes.handle).listen(Number(process.argv[1]), '127.0.0.1')
})`

const contenders: Contender[] = [
  { name: 'tsmqttd', speaks5: true, start: startOurs },
  {
    name: 'aedes 1.2.0',
    speaks5: false,
    start: port => spawn(process.execPath, ['-e', stockAedes, String(port)], { cwd: root, stdio: 'inherit' })
  }
]
const mosquitto = ['mosquitto', '/usr/sbin/mosquitto', '/opt/homebrew/sbin/mosquitto'].find(has)
if (mosquitto !== undefined) {
  contenders.push({ name: versionOf(mosquitto), speaks5: true, start: port => startMosquitto(mosquitto, port) })
}
for (const peer of values.peer) {
  const [name, command] = [peer.slice(0, peer.indexOf('=')), peer.slice(peer.indexOf('=') + 1)]
  contenders.push({
    name,
    speaks5: true,
    start: port => spawn('sh', ['-c', `exec ${command.replaceAll('{port}', String(port))}`], { stdio: 'ignore' })
  })
}

try {
  console.log(
    `${cpus()[0]?.model ?? ''}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Node.js ${process.version}\n`
  )
  console.log(
    '| load | broker | delivered/s | CPU µs/message | p50 ms | p99 ms | lost | doubled | out of order | MiB |'
  )
  console.log('|---|---|---:|---:|---:|---:|---:|---:|---:|---:|')
  for (const [name, load] of Object.entries(loads)) {
    if (values.only !== undefined && !name.includes(values.only)) continue
    for (const contender of contenders) {
      if (load.version === 5 && !contender.speaks5) continue
      console.log(await row(name, contender, load))
    }
  }
} finally {
  rmSync(dir, { recursive: true, force: true })
}

async function row(name: string, contender: Contender, load: Workload): Promise<string> {
  const port = await freePort()
  const broker = contender.start(port)
  try {
    await listening(port)
    const { outcome, cpuSeconds, mebibytes } = await measure(port, broker.pid!, load)
    const { delivered, seconds, lost, doubled, outOfOrder, p50, p99 } = outcome
    const cells = [
      name,
      contender.name,
      Math.round(delivered / seconds),
      ((cpuSeconds * 1e6) / delivered).toFixed(2),
      p50.toFixed(1),
      p99.toFixed(1),
      lost,
      doubled,
      outOfOrder,
      mebibytes
    ]
    return `| ${cells.join(' | ')} |`
  } finally {
    broker.kill('SIGKILL')
  }
}

interface Measured {
  readonly outcome: Outcome
  readonly cpuSeconds: number
  readonly mebibytes: number
}

async function measure(port: number, pid: number, load: Workload): Promise<Measured> {
  const worker = new Worker(new URL('./load.js', import.meta.url), { workerData: { port, load } })
  return await new Promise((resolve, reject) => {
    let before = 0
    let used = 0
    let mebibytes = 0
    worker.once('error', reject)
    worker.on('message', (message: string | Outcome) => {
      if (message === 'measuring') before = cpuOf(pid)
      else if (message === 'measured') {
        used = cpuOf(pid) - before
        mebibytes = memoryOf(pid)
      } else resolve({ outcome: message as Outcome, cpuSeconds: used, mebibytes })
    })
  })
}

/** Seconds of CPU that the process has used; to 10 ms on Linux, to a second elsewhere. */
function cpuOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) / 100
  } catch {
    const time = execFileSync('ps', ['-o', 'time=', '-p', String(pid)], { encoding: 'utf8' }).trim()
    return time.split(/[:-]/).reduce((sum, part) => sum * 60 + Number(part), 0)
  }
}

function memoryOf(pid: number): number {
  return Math.round(Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' })) / 1024)
}

/** With its defaults, the shipped ACL file included. */
function startOurs(port: number): ChildProcess {
  const home = mkdtempSync(join(dir, 'home-'))
  execFileSync(process.execPath, [join(root, 'bin/broker'), 'init', home], { stdio: 'ignore' })
  const conf = join(home, 'etc/broker.conf')
  const text = readFileSync(conf, 'utf8').replace(/^listener\.(ssl|ws|wss)\..*$/gm, '')
  writeFileSync(conf, text.replace(/^(listener\.tcp\.external =).*$/m, `$1 127.0.0.1:${port}`))
  return spawn(process.execPath, [join(root, 'bin/broker'), '--home', home, 'foreground'], { stdio: 'ignore' })
}

function startMosquitto(command: string, port: number): ChildProcess {
  const conf = join(dir, `mosquitto-${port}.conf`)
  writeFileSync(
    conf,
    `listener ${port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\nset_tcp_nodelay true\n`
  )
  return spawn(command, ['-c', conf], { stdio: 'ignore' })
}

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

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}

async function listening(port: number): Promise<void> {
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
