/**
 * Whether the broker keeps what it has acknowledged: it is killed again and again while clients publish and
 * subscribe, and a model says what they must and must not have got.
 *
 *   npm run bench:crash -- [--rounds 200] [--seed 1] [--jobs 1]
 *
 * The seed decides who is there, what is published and about when the broker is killed; a round that fails is
 * run again with its own seed: --seed <that> --rounds 1.
 */
import { parseArgs } from 'node:util'
import { crashRound } from './kill.js'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '200' },
    seed: { type: 'string', default: '1' },
    jobs: { type: 'string', default: '1' }
  }
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
const rounds = Number(values.rounds)
const first = Number(values.seed)
const total = { rounds: 0, failed: 0, kills: 0, messages: 0, deliveries: 0 }
const began = performance.now()
let next = 0

async function work(): Promise<void> {
  while (next < rounds) {
    const seed = first + next++
    const { problems, kills, messages, deliveries, ms } = await crashRound(seed)
    total.rounds++
    total.kills += kills
    total.messages += messages
    total.deliveries += deliveries
    if (problems.length > 0) total.failed++
    console.log(`seed ${seed}: ${kills} kills, ${messages} messages, ${deliveries} deliveries, ${Math.round(ms)} ms`)
    for (const problem of problems) console.log(`  ${problem}`)
  }
}

await Promise.all(Array.from({ length: Number(values.jobs) }, work))
console.log({ ...total, seed: first, minutes: Math.round((performance.now() - began) / 6000) / 10 })
process.exit(total.failed === 0 ? 0 : 1)
