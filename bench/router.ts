/**
 * What a million subscriptions cost the router in memory, and what they add to the
 * cost of a message: `npm run bench:router [-- --filters 1000000]`.
 */
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Dispatcher } from '../src/delivery/dispatcher.js'
import { Message } from '../src/delivery/message.js'
import { Session } from '../src/delivery/session/session.js'

const { values } = parseArgs({ options: { filters: { type: 'string', default: '1000000' } } })

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

/** One filter in ten has a wildcard. */
const filterOf = (i: number): string => `site/${i % 100}/device/${i}/${i % 10 === 0 ? '+' : 'state'}`
const topicOf = (i: number): string => `site/${i % 100}/device/${i}/state`

/** A dispatcher in which one client has all of them. */
function filled(filters: number): { dispatcher: Dispatcher; session: Session; bytes: number } {
  gc()
  const before = process.memoryUsage().heapUsed
  const dispatcher = new Dispatcher({
    shareStrategy: 'random',
    ignoreLoopDeliver: false,
    upgradeQos: false
  })
  const session = new Session('bench', { maxInflight: 0, maxQueued: 0, storeQos0: false })
  for (let i = 0; i < filters; i++) {
    const filter = Buffer.from(filterOf(i)).toString() // as from the wire: a string of its own
    dispatcher.subscribe({
      subscriber: session,
      filter,
      qos: 0,
      noLocal: false,
      retainAsPublished: false,
      identifier: 0
    })
  }
  gc()
  return { dispatcher, session, bytes: (process.memoryUsage().heapUsed - before) / filters }
}

/** Nanoseconds that each message takes; the best of five goes. */
function costOf(dispatcher: Dispatcher, messages: readonly Message[], rounds: number, before = (): void => {}): number {
  let best = Number.POSITIVE_INFINITY
  for (let go = 0; go < 5; go++) {
    before()
    const start = performance.now()
    for (let round = 0; round < rounds; round++) for (const message of messages) dispatcher.route(message)
    best = Math.min(best, ((performance.now() - start) * 1e6) / (rounds * messages.length))
  }
  return best
}

const messages = Array.from({ length: 50_000 }, (_, i) =>
  Message.of(topicOf(i), Buffer.alloc(64), { qos: 0, retain: false })
)
console.log('| filters | bytes of heap each | ns a message | ns the first of a topic |\n|---:|---:|---:|---:|')
for (const filters of [100, 10_000, Number(values.filters)]) {
  const { dispatcher, session, bytes } = filled(filters)
  const again = costOf(dispatcher, messages.slice(0, 100), 1000)
  const forget = {
    subscriber: session,
    filter: '+',
    qos: 0,
    noLocal: false,
    retainAsPublished: false,
    identifier: 0
  } as const
  const first = costOf(dispatcher, messages, 1, () => {
    dispatcher.subscribe(forget) // a change to a wildcard forgets what topics match
    dispatcher.unsubscribe(session, forget.filter)
  })
  console.log(`| ${filters} | ${Math.round(bytes)} | ${Math.round(again)} | ${Math.round(first)} |`)
}
