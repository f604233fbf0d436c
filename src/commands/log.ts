import { BrokerError } from '../base/errors.js'
import type { Level } from '../base/log/log.js'
import { command, line } from './command.js'

/** Written out here, since broker-ctl must not load the log. */
const levels: readonly Level[] = ['debug', 'info', 'warning', 'error', 'critical']

export const log = {
  'log levels': command({
    summary: 'Show from which level on each log is kept',
    run: ({ log }) => log.targets(),
    print: rows => rows.map(show).join('\n')
  }),
  'log set-level': command({
    summary: 'Set the level of the log, or of one target, until a restart',
    acts: true,
    usage: '<level> [target]',
    run({ log }, { level, target }) {
      const wanted = levels.find(l => l === level)
      if (wanted === undefined)
        throw new BrokerError('BAD_REQUEST', `no such level: ${level}; there are ${levels.join(', ')}`)
      const changed = log.setLevel(wanted, target)
      if (changed.length === 0) {
        const there = log.targets().map(t => t.target)
        const which = there.length === 0 ? 'no log is kept' : `there are ${there.join(', ')}`
        throw new BrokerError('NOT_FOUND', target === undefined ? which : `no such log: ${target}; ${which}`)
      }
      return changed
    },
    print: rows => rows.map(show).join('\n')
  })
}

const show = ({ target, level, configured }: { target: string; level: string; configured: string }): string =>
  line(target, level === configured ? level : `${level} (configured: ${configured})`, 10)
