import { BrokerError } from '../base/errors.js'
import type { SubscriptionRow } from '../ops/operations.js'
import { command, line, visible } from './command.js'

const short = ({ client_id, topic }: SubscriptionRow): string => `${visible(client_id)} -> ${visible(topic)}`

const long = (r: SubscriptionRow): string =>
  [
    short(r),
    `  ${line('qos', r.qos, 8)}`,
    ...(r.share === null ? [] : [`  ${line('share', visible(r.share), 8)}`])
  ].join('\n')

export const subscriptions = {
  'subscriptions list': command({
    summary: 'List all subscriptions',
    run: ({ subscriptions }) => subscriptions.list(),
    line: short
  }),
  'subscriptions show': command({
    summary: 'Show subscriptions of a client',
    usage: '<clientId>',
    async run({ subscriptions }, { clientId }) {
      const rows = await subscriptions.of(clientId)
      if (rows.length === 0) throw new BrokerError('NOT_FOUND', 'Not Found.')
      return rows
    },
    print: rows => rows.map(long).join('\n')
  }),
  'subscriptions add': command({
    summary: 'Add a static subscription manually',
    usage: '<clientId> <topic> <qos>',
    acts: true,
    async run({ subscriptions }, { clientId, topic, qos }) {
      if (!/^[012]$/.test(qos)) throw new BrokerError('BAD_REQUEST', 'QoS should be 0, 1, 2')
      await subscriptions.add(clientId, topic, Number(qos) as 0 | 1 | 2)
      return { client_id: clientId, filter: topic, qos: Number(qos) }
    },
    print: () => 'ok'
  }),
  'subscriptions del': command({
    summary: 'Delete a static subscription manually',
    usage: '<clientId> <topic>',
    acts: true,
    async run({ subscriptions }, { clientId, topic }) {
      await subscriptions.remove(clientId, topic)
      return { client_id: clientId, filter: topic }
    },
    print: () => 'ok'
  })
}
