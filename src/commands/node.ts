/** What the `broker` program asks of a running broker; not words of broker-ctl. */
import { BrokerError } from '../errors.js'
import { command } from './command.js'

export const node = {
  'node ping': command({
    summary: 'Answer',
    hidden: true,
    run: ({ options, version, phase, doing, startedAt, listeners }) => ({
      node: options.node.name,
      version,
      pid: process.pid,
      phase,
      doing,
      startedAt,
      listeners: phase === 'running' ? listeners.map(l => l.info()) : []
    })
  }),
  'node stop': command({
    summary: 'Stop the broker',
    usage: '<mode> <timeoutMs>',
    hidden: true,
    run(server, { mode, timeoutMs }) {
      if (mode !== 'drain' && mode !== 'fast') throw new BrokerError('BAD_REQUEST', `no such mode: ${mode}`)
      setImmediate(() => void server.stop(mode, Number(timeoutMs))) // after the answer
      return { pid: process.pid }
    }
  })
}
