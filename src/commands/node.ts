/** What the `broker` program asks of a running broker; not words of broker-ctl. */
import { BrokerError } from '../base/errors.js'
import { command } from './command.js'

export const node = {
  'node ping': command({
    summary: 'Answer',
    hidden: true,
    run({ broker, listeners }) {
      const state = broker.state()
      const all = state.phase === 'running' ? listeners.states() : []
      // The port of the management API may be taken, and then the broker runs all the same.
      return { ...state, listeners: all.filter(({ isApi, isOpen }) => isOpen || !isApi) }
    }
  }),
  'node stop': command({
    summary: 'Stop the broker',
    usage: '<mode> <timeoutMs>',
    hidden: true,
    run({ broker }, { mode, timeoutMs }) {
      if (mode !== 'drain' && mode !== 'fast') throw new BrokerError('BAD_REQUEST', `no such mode: ${mode}`)
      setImmediate(() => broker.stop(mode, Number(timeoutMs))) // after the answer
      return { pid: broker.state().pid }
    }
  })
}
