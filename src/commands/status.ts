import { command } from './command.js'

export const status = {
  status: command({
    summary: 'Show broker status',
    run: ({ options, version, phase, startedAt, clients, store, alarms }) => ({
      node: options.node.name,
      status: 'started',
      version,
      running: phase === 'running',
      pid: process.pid,
      startedAt,
      clients: clients.clientCount,
      /** What is in use: memory also where the store could not be opened, which is an alarm. */
      store: store === undefined ? { type: 'memory', size: null } : { type: 'lmdb', size: store.size },
      alarms: alarms.list().length
    }),
    print: ({ node, version, running }) =>
      `Node '${node}' is started\n${running ? `broker ${version} is running` : 'broker is not running'}`
  })
}
