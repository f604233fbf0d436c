import { description, localTime, uptime as words } from '../about.js'
import { command, line } from './command.js'

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
  }),
  broker: command({
    summary: 'Show broker version, uptime and description',
    run: ({ version, startedAt }) => ({
      sysdescr: description,
      version,
      uptime: Math.floor((Date.now() - startedAt.getTime()) / 1000),
      datetime: new Date()
    }),
    print: ({ sysdescr, version, uptime, datetime }) =>
      [
        line('sysdescr', sysdescr, 10),
        line('version', version, 10),
        line('uptime', words(uptime), 10),
        line('datetime', localTime(new Date(datetime)), 10)
      ].join('\n')
  })
}
