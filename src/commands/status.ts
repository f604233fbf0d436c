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
      sysdescr: 'tsmqttd MQTT Broker',
      version,
      uptime: Math.floor((Date.now() - startedAt.getTime()) / 1000),
      datetime: new Date()
    }),
    print: ({ sysdescr, version, uptime, datetime }) =>
      [
        line('sysdescr', sysdescr, 10),
        line('version', version, 10),
        line('uptime', words(uptime), 10),
        line('datetime', local(new Date(datetime)), 10)
      ].join('\n')
  })
}

/** `1 hours, 25 minutes, 24 seconds`, emqttd's plural included. */
function words(seconds: number): string {
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'days'],
    [Math.floor(seconds / 3600) % 24, 'hours'],
    [Math.floor(seconds / 60) % 60, 'minutes'],
    [seconds % 60, 'seconds']
  ]
  const first = parts.findIndex(([n]) => n > 0)
  return parts
    .slice(first === -1 ? 3 : first)
    .map(([n, unit]) => `${n} ${unit}`)
    .join(', ')
}

/** `2016-01-16 13:17:32`, in the time zone of who reads it. */
function local(at: Date): string {
  const two = (n: number): string => String(n).padStart(2, '0')
  const day = [at.getFullYear(), two(at.getMonth() + 1), two(at.getDate())].join('-')
  return `${day} ${[at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(':')}`
}
