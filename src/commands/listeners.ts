import type { ListenerRow } from '../ops/operations.js'
import { command, line } from './command.js'

const print = (rows: ListenerRow[]): string =>
  rows
    .map(r =>
      [
        `listener on ${r.protocol}:${r.listen}`,
        `  ${line('acceptors', r.acceptors, 16)}`,
        `  ${line('max_clients', r.max_clients, 16)}`,
        `  ${line('current_clients', r.current_clients, 16)}`,
        `  ${line('shutdown_count', `[${counts(r.shutdown_count)}]`, 16)}`
      ].join('\n')
    )
    .join('\n')

const counts = (by: Readonly<Record<string, number>>): string =>
  Object.entries(by)
    .map(([reason, n]) => `${reason}=${n}`)
    .join(', ')

const done = (what: string) => (r: { protocol: string; listen: string }) =>
  `${what} ${r.protocol} listener on ${r.listen} successfully.`

const usage = '<proto> <port>'
const acts = true

export const listeners = {
  listeners: command({ summary: 'List listeners', run: ({ listeners }) => listeners.list(), print }),
  'listeners list': command({ summary: 'List listeners', run: ({ listeners }) => listeners.list(), print }),
  'listeners start': command({
    summary: 'Start a listener that was stopped',
    usage,
    acts,
    async run({ listeners }, { proto, port }) {
      return { name: await listeners.start(proto, port), protocol: proto, listen: port }
    },
    print: done('Start')
  }),
  'listeners restart': command({
    summary: 'Restart a listener; its clients are disconnected',
    usage,
    acts,
    async run({ listeners }, { proto, port }) {
      return { name: await listeners.restart(proto, port), protocol: proto, listen: port }
    },
    print: done('Restart')
  }),
  'listeners stop': command({
    summary: 'Stop a listener; its clients are disconnected',
    usage,
    acts,
    async run({ listeners }, { proto, port }) {
      return { name: await listeners.stop(proto, port), protocol: proto, listen: port }
    },
    print: done('Stop')
  })
}
