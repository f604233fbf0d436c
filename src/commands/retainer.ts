import { BrokerError } from '../base/errors.js'
import { command, line, visible } from './command.js'

export const retainer = {
  'retainer info': command({
    summary: 'Show the count of retained messages',
    run: ({ retained }) => ({ 'retained/total': retained.count() }),
    print: info => `retained/total: ${info['retained/total']}`
  }),
  'retainer topics': command({
    summary: 'Show all topics of retained messages',
    run: ({ retained }) => retained.list(),
    line: ({ topic }) => visible(topic)
  }),
  'retainer show': command({
    summary: 'Show a retained message',
    usage: '<topic>',
    async run({ retained }, { topic }) {
      const found = await retained.show(topic)
      if (found === undefined) throw new BrokerError('NOT_FOUND', 'Not Found.')
      return found
    },
    print: ({ payload, ...rest }) =>
      [...Object.entries(rest), ['payload', payload] as const]
        .map(([name, value]) => line(name, visible(String(value ?? '-')), 10))
        .join('\n')
  }),
  'retainer clean': command({
    summary: 'Clean all retained messages, or those that a filter matches',
    usage: '[filter]',
    acts: true,
    async run({ retained }, { filter }) {
      return { cleaned: await retained.clean(filter) }
    },
    print: ({ cleaned }) => `Cleaned ${cleaned} retained messages`
  })
}
