/**
 * Compares this broker with others, under the same loads, one after the other:
 *
 *   npm run bench [-- --seconds 3] [--only pairs] [--peer name='command with {port}']
 *
 * It starts this broker, stock aedes and, where it is installed, mosquitto, and any
 * peer that is given; prints a table: messages delivered a second, the broker's CPU
 * time per delivered message, latency, lost, doubled, out of order, memory. The CPU
 * column is the one to trust on a noisy machine, and only beside a peer of the same run.
 * A second table has what a connection costs: CPU time of its CONNECT, and memory once
 * it is idle (`--only idle`).
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { type Contender, contenders, cpuOf, freePort, listening, memoryOf } from './brokers.js'
import type { Outcome, Workload } from './load.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3' },
    only: { type: 'string' },
    connections: { type: 'string', default: '10000' },
    peer: { type: 'string', multiple: true, default: [] }
  }
})

/** How long idle connections are left alone before their memory is looked at. */
const settleMs = 10_000
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
  'pairs q1 v5, two user properties': {
    ...common,
    shape: 'pairs',
    ...many,
    qos: 1,
    version: 5,
    userProperties: true
  },
  'share q0': { ...common, shape: 'share', ...many, qos: 0 },
  'share q1': { ...common, shape: 'share', ...many, qos: 1 },
  'pairs q0, 20 000/s': { ...common, shape: 'pairs', ...many, qos: 0, rate: 20_000 },
  'fan-out q0': { ...common, shape: 'fan-out', publishers: 1, subscribers: 50, qos: 0 },
  'fan-out q1': { ...common, shape: 'fan-out', publishers: 1, subscribers: 50, qos: 1 }
}

try {
  console.log(
    `${cpus()[0]?.model ?? ''}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Node.js ${process.version}\n`
  )
  console.log(
    '| load | broker | delivered/s | CPU µs/message | p50 ms | p99 ms | lost | doubled | out of order | MiB |'
  )
  console.log('|---|---|---:|---:|---:|---:|---:|---:|---:|---:|')
  const all = contenders(dir, values.peer)
  for (const [name, load] of Object.entries(loads)) {
    if (values.only !== undefined && !name.includes(values.only)) continue
    for (const contender of all) {
      if ((load.version === 5 || load.shape === 'share') && !contender.speaks5) continue
      console.log(await row(name, contender, load))
    }
  }
  if (values.only === undefined || 'idle'.includes(values.only)) {
    console.log('\n| broker | connections | CPU µs/CONNECT | KiB each, idle |\n|---|---:|---:|---:|')
    for (const contender of all) console.log(await connections(contender, Number(values.connections)))
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
      p50.toFixed(2),
      p99.toFixed(2),
      lost,
      doubled,
      outOfOrder,
      Math.round(mebibytes)
    ]
    return `| ${cells.join(' | ')} |`
  } finally {
    broker.kill('SIGKILL')
  }
}

async function connections(contender: Contender, count: number): Promise<string> {
  const port = await freePort()
  const broker = contender.start(port)
  try {
    await listening(port)
    await sleep(500)
    const memory = memoryOf(broker.pid!)
    const cpu = cpuOf(broker.pid!)
    const worker = new Worker(new URL('./connections.js', import.meta.url), { workerData: { port, count } })
    await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
    const each = ((cpuOf(broker.pid!) - cpu) * 1e6) / count
    await sleep(settleMs)
    const kib = (memoryOf(broker.pid!) - memory) / count
    await worker.terminate()
    return `| ${contender.name} | ${count} | ${Math.round(each)} | ${kib.toFixed(1)} |`
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
        mebibytes = memoryOf(pid) / 1024
      } else resolve({ outcome: message as Outcome, cpuSeconds: used, mebibytes })
    })
  })
}
