import { command } from './command.js'

export const status = {
  status: command({
    summary: 'Show broker status',
    run({ broker, clients, store, alarms }) {
      const { node, version, phase, pid, startedAt } = broker.state()
      return {
        node,
        status: 'started',
        version,
        running: phase === 'running',
        pid,
        startedAt,
        clients: clients.count(),
        store: store.summary(),
        alarms: alarms.list().length
      }
    },
    print: ({ node, version, running }) =>
      `Node '${node}' is started\n${running ? `broker ${version} is running` : 'broker is not running'}`
  })
}
