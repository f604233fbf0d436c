import { BrokerError } from '../base/errors.js'
import { clock } from '../base/uptime.js'
import type { ClientRow, ConnectionRow } from '../ops/operations.js'
import { command, visible } from './command.js'

/** emqttd's line; `undefined` is what it prints for a client without a user name. */
const show = (c: ClientRow): string =>
  `Client(${visible(c.client_id)}, clean_sess=${c.clean_sess}, username=${visible(c.username ?? 'undefined')}, peername=${c.peername}, connected_at=${c.connected_at})`

const protocols: Readonly<Record<number, string>> = { 3: ', MQTT 3.1', 4: ', MQTT 3.1.1', 5: ', MQTT 5' }

function tell({ at, client_id, username, peername, listener, proto_ver, accepted, ended_at, end, why }: ConnectionRow) {
  const user = username === null ? '' : `, user ${visible(username)}`
  const who = `${client_id === '' ? '-' : visible(client_id)} from ${peername} on ${listener}${user}`
  const more = why === null ? '' : ` (${visible(why)})`
  const lasted = ended_at === null ? 'and is connected' : `ended after ${ended_at - at} s: ${end}${more}`
  const outcome = accepted ? `accepted, ${lasted}` : end === 'refused' ? `refused${more}` : `never in: ${end}${more}`
  return `${clock(at)} ${who}${protocols[proto_ver] ?? ''}: ${outcome}`
}

export const clients = {
  'clients list': command({
    summary: 'List all clients',
    run: ({ clients }) => clients.list(),
    line: show
  }),
  'clients show': command({
    summary: 'Show a client',
    usage: '<clientId>',
    run: ({ clients }, { clientId }) => clients.show(clientId),
    print: show
  }),
  'clients kick': command({
    summary: 'Kick out a client',
    usage: '<clientId>',
    acts: true,
    async run({ clients }, { clientId }) {
      await clients.kick(clientId)
      return { client_id: clientId }
    }
  }),
  'clients why': command({
    summary: 'Show how the last connections of a client or an address ended',
    usage: '<clientId>',
    synopsis: '<clientId | ip>',
    async run({ clients }, { clientId }) {
      const found = await clients.why(clientId)
      if (found.length === 0) throw new BrokerError('NOT_FOUND', `no connection of ${clientId} is remembered`)
      return found
    },
    print: rows => rows.map(tell).join('\n')
  })
}
