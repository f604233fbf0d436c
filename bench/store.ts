/**
 * What keeping messages costs, beside mosquitto with `persistence true`, which does not
 * wait for the disk, and beside this broker on memory:
 *
 *   npm run bench:store [-- --seconds 4] [--messages 1000000] [--sessions 1000]
 *
 * First traffic between sessions that are stored and connected; then a queue of many
 * messages for sessions whose clients are away, a kill, a start, and the delivery of
 * all. The event loop's longest hold-ups are the broker's own figures.
 */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { AdminClient } from '../src/admin/client.js'
import { Home } from '../src/base/home.js'
import { PacketType } from '../src/wire/frame.js'
import {
  cpuOf,
  findMosquitto,
  freePort,
  homeFor,
  listening,
  memoryOf,
  startIn,
  startMosquitto,
  startOurs
} from './brokers.js'
import { type Outcome, open, packet, type Sender, string, type Workload } from './load.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '4' },
    messages: { type: 'string', default: '1000000' },
    sessions: { type: 'string', default: '1000' }
  }
})
const messages = Number(values.messages)
const sessions = Number(values.sessions)
const each = Math.floor(messages / sessions)
const dir = mkdtempSync(join(tmpdir(), 'broker-bench-'))
const queue = `mqtt.mqueue.max_length = ${each + 1}`

const contenders: readonly (readonly [string, (port: number) => ChildProcess])[] = [
  ['tsmqttd, lmdb, sync = commit', port => startOurs(dir, port)],
  ['tsmqttd, memory', port => startOurs(dir, port, 'store.type = memory')],
  ...mosquittoIfThere()
]

function mosquittoIfThere(): [string, (port: number) => ChildProcess][] {
  const command = findMosquitto()
  const extra = `persistence true\npersistence_location ${dir}/`
  return command === undefined
    ? []
    : [['mosquitto, persistence true', port => startMosquitto(dir, command, port, extra)]]
}

try {
  console.log('| load | broker | delivered/s | CPU µs/message | p50 ms | p99 ms | lost | doubled | MiB |')
  console.log('|---|---|---:|---:|---:|---:|---:|---:|---:|')
  for (const qos of [1, 2] as const) for (const [name, start] of contenders) console.log(await online(qos, name, start))
  console.log('')
  await offline()
} finally {
  rmSync(dir, { recursive: true, force: true })
}

/** 50 publishers, each with a subscriber of its own whose session is stored. */
async function online(qos: 1 | 2, name: string, start: (port: number) => ChildProcess): Promise<string> {
  const port = await freePort()
  const broker = start(port)
  try {
    await listening(port)
    const load: Workload = {
      shape: 'pairs',
      publishers: 50,
      subscribers: 50,
      qos,
      size: 64,
      seconds: Number(values.seconds),
      version: 4,
      stored: true
    }
    const worker = new Worker(new URL('./load.js', import.meta.url), { workerData: { port, load } })
    let before = 0
    let used = 0
    let mebibytes = 0
    const outcome = await new Promise<Outcome>((resolve, reject) => {
      worker.once('error', reject)
      worker.on('message', (message: string | Outcome) => {
        if (message === 'measuring') before = cpuOf(broker.pid!)
        else if (message === 'measured') {
          used = cpuOf(broker.pid!) - before
          mebibytes = memoryOf(broker.pid!) / 1024
        } else resolve(message as Outcome)
      })
    })
    const { delivered, seconds, p50, p99, lost, doubled } = outcome
    const cpu = ((used * 1e6) / delivered).toFixed(2)
    const cells = [
      Math.round(delivered / seconds),
      cpu,
      p50.toFixed(2),
      p99.toFixed(2),
      lost,
      doubled,
      Math.round(mebibytes)
    ]
    return `| pairs q${qos}, stored | ${name} | ${cells.join(' | ')} |`
  } finally {
    broker.kill('SIGKILL')
  }
}

async function offline(): Promise<void> {
  const port = await freePort()
  const home = new Home(homeFor(dir, port, queue))
  let broker = startIn(home.root)
  console.log(`${messages} messages of 200 B at QoS 1 for ${sessions} stored sessions whose clients are away:\n`)
  console.log(
    '| step | seconds | messages/s | CPU s | MiB | longest hold-up of the event loop, ms | longest GC pause, ms |'
  )
  console.log('|---|---:|---:|---:|---:|---:|---:|')
  try {
    await listening(port)
    for (let i = 0; i < sessions; i++) await subscribe(port, i)
    await step('queued and acknowledged', broker, home, () => publishAll(port))
    const size = statSync(join(home.root, 'data/store/data.mdb')).size
    broker.kill('SIGKILL')
    await once(broker, 'close')
    broker = startIn(home.root)
    await step('started again after kill -9', broker, home, () => listening(port))
    await step('delivered and acknowledged', broker, home, () => takeAll(port))
    console.log(`\nThe file had ${Math.round(size / 2 ** 20)} MiB when all was queued.`)
  } finally {
    broker.kill('SIGKILL')
  }
}

async function step(name: string, broker: ChildProcess, home: Home, work: () => Promise<void>): Promise<void> {
  const [from, cpu] = [performance.now(), cpuOf(broker.pid!)]
  await work()
  const seconds = (performance.now() - from) / 1000
  const used = cpuOf(broker.pid!) - cpu
  const admin = new AdminClient(home.adminSocket)
  const vm = await admin.call('vm eventloop', {})
  const gc = await admin.call('vm gc', {})
  const cells = [
    seconds.toFixed(1),
    Math.round(messages / seconds),
    used.toFixed(1),
    Math.round(memoryOf(broker.pid!) / 1024)
  ]
  console.log(`| ${name} | ${cells.join(' | ')} | ${vm['eventloop/delay_max']} | ${gc['gc/pause_max']} |`)
}

async function subscribe(port: number, i: number): Promise<void> {
  let granted: () => void = () => {}
  const sender = await open(
    port,
    `away-${i}`,
    4,
    bytes => {
      if (bytes[0]! >> 4 === PacketType.SUBACK) granted()
    },
    true
  )
  const done = new Promise<void>(resolve => {
    granted = resolve
  })
  sender.send(packet(0x82, Buffer.from([0, 1]), string(`away/${i}`), Buffer.from([1])))
  await done
  sender.send(Buffer.from([0xe0, 0]))
  sender.end()
}

/** 20 publishers with 500 messages under way each. */
async function publishAll(port: number): Promise<void> {
  const publishers = 20
  const underWay = 500
  const payload = Buffer.alloc(200, 'x')
  const one = async (p: number): Promise<void> => {
    const total = Math.floor(messages / publishers) + (p < messages % publishers ? 1 : 0)
    let sent = 0
    let acknowledged = 0
    let finished: () => void = () => {}
    const all = new Promise<void>(resolve => {
      finished = resolve
    })
    const sender = await open(port, `from-${p}`, 4, (bytes, start) => {
      if (bytes[start]! >> 4 !== PacketType.PUBACK) return
      if (++acknowledged === total) finished()
      more()
    })
    const more = (): void => {
      while (sent < total && sent - acknowledged < underWay) {
        const id = Buffer.from([((sent % 65_535) + 1) >> 8, ((sent % 65_535) + 1) & 255])
        sender.send(packet(0x32, string(`away/${(p + sent * publishers) % sessions}`), id, payload))
        sent++
      }
    }
    more()
    await all
    sender.end()
  }
  await Promise.all(Array.from({ length: publishers }, (_, p) => one(p)))
}

async function takeAll(port: number): Promise<void> {
  let got = 0
  let finished: () => void = () => {}
  const all = new Promise<void>(resolve => {
    finished = resolve
  })
  const senders: Sender[] = []
  for (let i = 0; i < sessions; i++) {
    let sender: Sender | undefined
    const early: [Buffer, number][] = []
    sender = await open(
      port,
      `away-${i}`,
      4,
      (bytes, start, at) => {
        if (bytes[start]! >> 4 !== PacketType.PUBLISH) return
        const id = at + 2 + ((bytes[at]! << 8) | bytes[at + 1]!)
        if (sender === undefined) early.push([bytes, id])
        else sender.acknowledge(0x40, bytes, id)
        if (++got === messages) finished()
      },
      true
    )
    for (const [bytes, id] of early) sender.acknowledge(0x40, bytes, id)
    senders.push(sender)
  }
  await all
  for (const sender of senders) sender.end()
}
