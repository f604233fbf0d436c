import { setImmediate as nextTurn } from 'node:timers/promises'
import { description, localTime, uptime as words } from '../base/uptime.js'
import type { Histogram } from '../observe/metrics.js'
import { command, line } from './command.js'

const lines = (values: object, width: number): string =>
  Object.entries(values)
    .map(([name, value]) => line(name, value, width))
    .join('\n')

/** Upper bounds of the queues' lengths; no queue is as long as that of the last, unless mqtt.mqueue.max_length is raised. */
const lengths = [0, 1, 10, 100, 500, 1000, 10_000]

/** How many sessions are looked at in one turn of the event loop. */
const aTurn = 2000

const rowsOf = ({ bounds, counts }: Pick<Histogram, 'bounds' | 'counts'>) =>
  counts.map((count, i) => ({ le: bounds[i] ?? null, count }))

export const broker = {
  broker: command({
    summary: 'Show broker version, uptime and description',
    run: ({ version, startedAt }) => ({
      sysdescr: description,
      version,
      uptime: Math.floor((Date.now() - startedAt.getTime()) / 1000),
      datetime: new Date()
    }),
    print: ({ sysdescr, version, uptime, datetime }) =>
      lines({ sysdescr, version, uptime: words(uptime), datetime: localTime(new Date(datetime)) }, 10)
  }),
  'broker stats': command({
    summary: 'Show broker statistics of clients, topics, subscribers',
    run: server => server.stats(),
    print: stats => lines(stats, 20)
  }),
  'broker metrics': command({
    summary: 'Show broker metrics',
    run: ({ clients }) => clients.metrics.standard(clients.dispatcher.retained.size),
    print: metrics => lines(metrics, 24)
  }),
  'broker losses': command({
    summary: 'Show what did not get through, by cause, and packets of MQTT 5',
    run: ({ clients }) => clients.metrics.more(),
    print: metrics => lines(metrics, 28)
  }),
  'broker latency': command({
    summary: 'Show how long messages took through the broker',
    run: ({ clients }) => {
      const { latency } = clients.metrics
      const mean = latency.count === 0 ? 0 : latency.sum / latency.count
      return { unit: 'ms', count: latency.count, mean: Number(mean.toFixed(3)), buckets: rowsOf(latency) }
    },
    print: ({ count, mean, buckets }) =>
      [
        line('latency/samples', count, 24),
        line('latency/mean', `${mean} ms`, 24),
        ...buckets.map(b => line(b.le === null ? 'latency/more' : `latency/to ${b.le} ms`, b.count, 24))
      ].join('\n')
  }),
  'broker queues': command({
    summary: 'Show how many sessions have queues of which length',
    async run({ clients }) {
      const counts = new Array<number>(lengths.length + 1).fill(0)
      let sessions = 0
      let messages = 0
      for (const { queueLength } of clients.sessions.each()) {
        const at = lengths.findIndex(most => queueLength <= most)
        counts[at === -1 ? lengths.length : at]!++
        messages += queueLength
        if (++sessions % aTurn === 0) await nextTurn()
      }
      return { sessions, messages, buckets: rowsOf({ bounds: lengths, counts }) }
    },
    print: ({ sessions, messages, buckets }) =>
      [
        line('queues/sessions', sessions, 24),
        line('queues/messages', messages, 24),
        ...buckets.map(b => line(b.le === null ? 'queues/more' : `queues/to ${b.le}`, b.count, 24))
      ].join('\n')
  })
}
