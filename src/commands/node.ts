/** What the `broker` program asks of a running broker; not words of broker-ctl. */
import { BrokerError } from '../base/errors.js'
import type { ApiListener } from '../mgmt/listener.js'
import { command } from './command.js'

/** Its own port may be taken, and then the broker runs all the same. */
const opened = (listeners: readonly ApiListener[]): ApiListener[] => listeners.filter(l => l.listening)

export const node = {
  'node ping': command({
    summary: 'Answer',
    hidden: true,
    run: ({ options, version, phase, doing, startedAt, listeners, management }) => ({
      node: options.node.name,
      version,
      pid: process.pid,
      phase,
      doing,
      startedAt,
      listeners: phase === 'running' ? [...listeners, ...opened(management?.listeners ?? [])].map(l => l.info()) : [],
      /** For who started it. */
      notices: management?.notices ?? []
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
