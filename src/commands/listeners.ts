import { command, line } from './command.js'

export const listeners = {
  listeners: command({
    summary: 'List listeners',
    run: ({ listeners }) =>
      listeners
        .map(l => l.info())
        .map(({ name, transport, bind, maxClients, currentClients, shutdownCount }) => ({
          name,
          protocol: `mqtt:${transport}`,
          listen: bind,
          acceptors: 1,
          max_clients: maxClients,
          current_clients: currentClients,
          shutdown_count: shutdownCount
        })),
    print: rows =>
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
  })
}

const counts = (by: Readonly<Record<string, number>>): string =>
  Object.entries(by)
    .map(([reason, n]) => `${reason}=${n}`)
    .join(', ')
