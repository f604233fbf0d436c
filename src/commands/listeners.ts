import { BrokerError } from '../base/errors.js'
import type { ApiListener } from '../mgmt/listener.js'
import type { Listener } from '../net/listener.js'
import type { Server } from '../server/server.js'
import { command, line } from './command.js'

type Row = ReturnType<typeof rowOf>

type Door = Listener | ApiListener

function rowOf(listener: Door) {
  const { name, transport, bind, maxClients, currentClients, shutdownCount } = listener.info()
  return {
    name,
    protocol: `mqtt:${transport}`,
    listen: bind,
    acceptors: 1,
    max_clients: maxClients,
    current_clients: currentClients,
    shutdown_count: shutdownCount
  }
}

/** Those that are open, as in emqttd. */
const rows = (server: Server): Row[] =>
  doors(server)
    .filter(l => l.listening)
    .map(rowOf)

const doors = ({ listeners, management }: Server): Door[] => [...listeners, ...(management?.listeners ?? [])]

const print = (rows: Row[]): string =>
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

interface Address {
  readonly proto: string
  readonly port: string
}

/** emqttd's words for what a listener is told, done or not. */
async function told(
  what: 'start' | 'stop' | 'restart',
  server: Server,
  { proto, port }: Address,
  work: (listener: Door) => Promise<void>
) {
  const { log, phase } = server
  const failed = (code: 'NOT_FOUND' | 'CONFLICT' | 'UNAVAILABLE', why: string): BrokerError =>
    new BrokerError(code, `Failed to ${what} ${proto} listener on ${port}, error:${why}`)
  const found = doors(server).find(l => `mqtt:${l.info().transport}` === proto && l.answersTo(port))
  if (found === undefined || (what !== 'start' && !found.listening)) throw failed('NOT_FOUND', 'not_found')
  if (what === 'start' && found.listening) throw failed('CONFLICT', 'already_started')
  if (phase !== 'running') throw failed('CONFLICT', `the broker is ${phase}`)
  try {
    await work(found)
  } catch (err) {
    if (err instanceof BrokerError) throw failed('UNAVAILABLE', err.message)
    throw err
  }
  log.info(`listener ${what}`, { listener: found.name, on: port })
  return { name: found.name, protocol: proto, listen: port }
}

const done = (what: string) => (r: { protocol: string; listen: string }) =>
  `${what} ${r.protocol} listener on ${r.listen} successfully.`

const usage = '<proto> <port>'
const acts = true

/** Its clients are told so. */
async function closed({ clients }: Server, listener: Door): Promise<void> {
  clients.hangUpOn(listener.name)
  await listener.close({ goodbyes: true })
}

export const listeners = {
  listeners: command({ summary: 'List listeners', run: rows, print }),
  'listeners list': command({ summary: 'List listeners', run: rows, print }),
  'listeners start': command({
    summary: 'Start a listener that was stopped',
    usage,
    acts,
    run: (server, args) => told('start', server, args, listener => listener.open()),
    print: done('Start')
  }),
  'listeners restart': command({
    summary: 'Restart a listener; its clients are disconnected',
    usage,
    acts,
    run: (server, args) =>
      told('restart', server, args, async listener => {
        await closed(server, listener)
        if (server.phase === 'running') await listener.open() // it may have been asked to stop meanwhile
      }),
    print: done('Restart')
  }),
  'listeners stop': command({
    summary: 'Stop a listener; its clients are disconnected',
    usage,
    acts,
    run: (server, args) => told('stop', server, args, listener => closed(server, listener)),
    print: done('Stop')
  })
}
