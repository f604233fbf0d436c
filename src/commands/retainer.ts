import { setImmediate as nextTurn } from 'node:timers/promises'
import { BrokerError } from '../base/errors.js'
import type { Message } from '../delivery/message.js'
import type { Server } from '../server/server.js'
import { command, line, visible } from './command.js'

/** How many are removed in one turn of the event loop. */
const aTurn = 500

const row = ({ topic, qos, payloadLength, from }: Message) => ({ topic, qos, size: payloadLength, from: from ?? null })

function* all({ clients }: Server): Generator<ReturnType<typeof row>> {
  for (const message of clients.dispatcher.retained.all()) yield row(message)
}

export const retainer = {
  'retainer info': command({
    summary: 'Show the count of retained messages',
    run: ({ clients }) => ({ 'retained/total': clients.dispatcher.retained.size }),
    print: info => `retained/total: ${info['retained/total']}`
  }),
  'retainer topics': command({
    summary: 'Show all topics of retained messages',
    run: all,
    line: ({ topic }) => visible(topic)
  }),
  'retainer show': command({
    summary: 'Show a retained message',
    usage: '<topic>',
    run({ clients }, { topic }) {
      const message = clients.dispatcher.retained.get(topic)
      if (message === undefined) throw new BrokerError('NOT_FOUND', 'Not Found.')
      const { payload, expiresAt } = message
      const text = payload.toString('utf8')
      const isText = Buffer.from(text).equals(payload)
      const expires_at = expiresAt === 0 ? null : Math.floor(expiresAt / 1000)
      return {
        ...row(message),
        expires_at,
        encoding: isText ? 'utf8' : 'base64',
        payload: isText ? text : payload.toString('base64')
      }
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
    async run({ clients, log }, { filter }) {
      let cleaned = 0
      const { retained } = clients.dispatcher
      for (const { topic } of filter === undefined ? retained.all() : retained.match(filter)) {
        clients.forget(topic)
        if (++cleaned % aTurn === 0) await nextTurn()
      }
      log.info('retained messages cleaned', { count: cleaned, ...(filter === undefined ? {} : { filter }) })
      return { cleaned }
    },
    print: ({ cleaned }) => `Cleaned ${cleaned} retained messages`
  })
}
