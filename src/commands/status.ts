import { command } from './command.js'

export const status = {
  status: command({
    summary: 'Show broker status',
    run: ({ options, version, phase, startedAt, broker }) => ({
      node: options.node.name,
      status: 'started',
      version,
      running: phase === 'running',
      pid: process.pid,
      startedAt,
      clients: broker.clientCount
    }),
    print: ({ node, version, running }) =>
      `Node '${node}' is started\n${running ? `broker ${version} is running` : 'broker is not running'}`
  })
}
