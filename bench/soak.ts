/**
 * Full load for minutes, to see that memory does not grow:
 *
 *   npm run bench:soak [-- --minutes 10]
 *
 * The first fifth is to warm up. It fails when the last quarter of what is sampled
 * then has a median more than a tenth over that of the first, or a message is lost,
 * doubled or out of order.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { cpuOf, freePort, listening, memoryOf, startOurs } from './brokers.js'
import type { Outcome, Workload } from './load.js'

const { values } = parseArgs({ options: { minutes: { type: 'string', default: '10' } } })
const seconds = Number(values.minutes) * 60
const load: Workload = {
  shape: 'pairs',
  publishers: 50,
  subscribers: 50,
  qos: 1,
  size: 64,
  seconds,
  version: 5,
  userProperties: true
}

const median = (of: readonly number[]): number => [...of].sort((a, b) => a - b)[of.length >> 1]!

const dir = mkdtempSync(join(tmpdir(), 'broker-soak-'))
const port = await freePort()
const broker = startOurs(dir, port)
try {
  await listening(port)
  const worker = new Worker(new URL('./load.js', import.meta.url), { workerData: { port, load } })
  const samples: number[] = []
  const from = performance.now()
  const sampling = setInterval(() => {
    const at = (performance.now() - from) / 1000
    const mebibytes = memoryOf(broker.pid!) / 1024
    if (at > seconds / 5) samples.push(mebibytes)
    if (Math.round(at) % 30 === 0) console.log(`${Math.round(at)} s: ${mebibytes.toFixed(1)} MiB`)
  }, 1000)
  const outcome = await new Promise<Outcome>((resolve, reject) => {
    worker.once('error', reject)
    worker.on('message', (message: string | Outcome) => {
      if (message === 'measured') clearInterval(sampling)
      if (typeof message !== 'string') resolve(message)
    })
  })
  const quarter = Math.ceil(samples.length / 4)
  const [first, last] = [median(samples.slice(0, quarter)), median(samples.slice(-quarter))]
  const { delivered, lost, doubled, outOfOrder } = outcome
  const used = ((cpuOf(broker.pid!) * 1e6) / delivered).toFixed(2)
  console.log(
    `${delivered} messages in ${Math.round(outcome.seconds)} s, ${used} µs each; lost ${lost}, doubled ${doubled}, ` +
      `out of order ${outOfOrder}; memory ${first.toFixed(1)} MiB at first, ${last.toFixed(1)} MiB at last`
  )
  const isWell = last <= first * 1.1 && lost + doubled + outOfOrder === 0
  console.log(isWell ? 'no growth' : 'FAILED')
  process.exitCode = isWell ? 0 : 1
} finally {
  broker.kill('SIGKILL')
  rmSync(dir, { recursive: true, force: true })
}
