import { BrokerError } from '../base/errors.js'
import type { Subscription } from '../delivery/router.js'
import type { Subscriber } from '../delivery/subscriber.js'
import type { Server } from '../server/server.js'
import { command, line, visible } from './command.js'

const row = ({ subscriber, filter, qos }: Subscription<Subscriber>) => {
  const [, share, topic] = /^(?:\$local\/)?(?:(\$queue|\$share\/[^/]+)\/)?(.*)$/s.exec(filter)!
  return {
    client_id: subscriber.clientId,
    /** Without `$share/<group>/` and the like, as `topics list` has it. */
    topic: topic!,
    filter,
    qos,
    share: share === undefined ? null : share.replace('$share/', '')
  }
}

type Row = ReturnType<typeof row>

function* all({ clients }: Server): Generator<Row> {
  for (const session of clients.sessions.each()) {
    for (const subscription of session.subscriptions.values()) yield row(subscription)
  }
}

const short = ({ client_id, topic }: Row): string => `${visible(client_id)} -> ${visible(topic)}`

const long = (r: Row): string =>
  [
    short(r),
    `  ${line('qos', r.qos, 8)}`,
    ...(r.share === null ? [] : [`  ${line('share', visible(r.share), 8)}`])
  ].join('\n')

export const subscriptions = {
  'subscriptions list': command({ summary: 'List all subscriptions', run: all, line: short }),
  'subscriptions show': command({
    summary: 'Show subscriptions of a client',
    usage: '<clientId>',
    run({ clients }, { clientId }) {
      const rows = [...(clients.sessions.get(clientId)?.subscriptions.values() ?? [])].map(row)
      if (rows.length === 0) throw new BrokerError('NOT_FOUND', 'Not Found.')
      return rows
    },
    print: rows => rows.map(long).join('\n')
  }),
  'subscriptions add': command({
    summary: 'Add a static subscription manually',
    usage: '<clientId> <topic> <qos>',
    acts: true,
    run({ clients, log }, { clientId, topic, qos }) {
      if (!/^[012]$/.test(qos)) throw new BrokerError('BAD_REQUEST', 'QoS should be 0, 1, 2')
      clients.subscribe(clientId, topic, Number(qos) as 0 | 1 | 2)
      log.info('subscription added', { clientId, filter: topic, qos })
      return { client_id: clientId, filter: topic, qos: Number(qos) }
    },
    print: () => 'ok'
  }),
  'subscriptions del': command({
    summary: 'Delete a static subscription manually',
    usage: '<clientId> <topic>',
    acts: true,
    run({ clients, log }, { clientId, topic }) {
      clients.unsubscribe(clientId, topic)
      log.info('subscription deleted', { clientId, filter: topic })
      return { client_id: clientId, filter: topic }
    },
    print: () => 'ok'
  })
}
