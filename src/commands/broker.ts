import { description, localTime, uptime as words } from '../base/uptime.js'
import type { Distribution } from '../ops/operations.js'
import { command, line } from './command.js'

const lines = (values: object, width: number): string =>
  Object.entries(values)
    .map(([name, value]) => line(name, value, width))
    .join('\n')

const rowsOf = ({ bounds, counts }: Pick<Distribution, 'bounds' | 'counts'>) =>
  counts.map((count, i) => ({ le: bounds[i] ?? null, count }))

export const broker = {
  broker: command({
    summary: 'Show broker version, uptime and description',
    run({ broker }) {
      const { version, startedAt } = broker.state()
      const uptime = Math.floor((Date.now() - startedAt.getTime()) / 1000)
      return { sysdescr: description, version, uptime, datetime: new Date() }
    },
    print: ({ sysdescr, version, uptime, datetime }) =>
      lines({ sysdescr, version, uptime: words(uptime), datetime: localTime(new Date(datetime)) }, 10)
  }),
  'broker stats': command({
    summary: 'Show broker statistics of clients, topics, subscribers',
    run: ({ broker }) => broker.stats(),
    print: stats => lines(stats, 20)
  }),
  'broker metrics': command({
    summary: 'Show broker metrics',
    run: ({ broker }) => broker.metrics(),
    print: metrics => lines(metrics, 24)
  }),
  'broker losses': command({
    summary: 'Show what did not get through, by cause, and packets of MQTT 5',
    run: ({ broker }) => broker.losses(),
    print: metrics => lines(metrics, 28)
  }),
  'broker latency': command({
    summary: 'Show how long messages took through the broker',
    run: ({ broker }) => {
      const latency = broker.latency()
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
    async run({ broker }) {
      const { sessions, messages, ...lengths } = await broker.queues()
      return { sessions, messages, buckets: rowsOf(lengths) }
    },
    print: ({ sessions, messages, buckets }) =>
      [
        line('queues/sessions', sessions, 24),
        line('queues/messages', messages, 24),
        ...buckets.map(b => line(b.le === null ? 'queues/more' : `queues/to ${b.le}`, b.count, 24))
      ].join('\n')
  })
}
