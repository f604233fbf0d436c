import type { ClientInfo } from '../base/client-info.js'
import { BrokerError } from '../base/errors.js'
import type { ConnectionRecord } from '../client/history.js'
import type { Server } from '../server/server.js'
import { command, visible } from './command.js'
import { load } from './sessions.js'
import { clock } from './when.js'

/** A client as scripts see it: names in emqttd's spelling, times in seconds since 1970. */
export interface ClientRow {
  readonly client_id: string
  readonly clean_sess: boolean
  readonly username: string | null
  readonly peername: string
  readonly connected_at: number
  readonly listener: string
  readonly proto_ver: number
  readonly keepalive: number
}

function row({
  clientId,
  cleanSession,
  username,
  peer,
  connectedAt,
  listener,
  protocolVersion,
  keepAlive
}: ClientInfo): ClientRow {
  return {
    client_id: clientId,
    clean_sess: cleanSession,
    username: username ?? null,
    peername: `${peer.address}:${peer.port}`,
    connected_at: Math.floor(connectedAt.getTime() / 1000),
    listener,
    proto_ver: protocolVersion,
    keepalive: keepAlive
  }
}

function* all({ clients }: Server): Generator<ClientRow> {
  for (const client of clients.eachClient()) yield row(client)
}

/** emqttd's line; `undefined` is what it prints for a client without a user name. */
const show = (c: ClientRow): string =>
  `Client(${visible(c.client_id)}, clean_sess=${c.clean_sess}, username=${visible(c.username ?? 'undefined')}, peername=${c.peername}, connected_at=${c.connected_at})`

const seconds = (at: Date): number => Math.floor(at.getTime() / 1000)

const attemptRow = ({
  at,
  clientId,
  username,
  peer,
  listener,
  version,
  accepted,
  endedAt,
  end,
  why
}: ConnectionRecord) => ({
  at: seconds(at),
  client_id: clientId,
  username: username ?? null,
  peername: `${peer.address}:${peer.port}`,
  listener,
  proto_ver: version,
  accepted,
  ended_at: endedAt === undefined ? null : seconds(endedAt),
  end: end ?? null,
  why: why ?? null
})

type AttemptRow = ReturnType<typeof attemptRow>

const protocols: Readonly<Record<number, string>> = { 3: ', MQTT 3.1', 4: ', MQTT 3.1.1', 5: ', MQTT 5' }

function tell({ at, client_id, username, peername, listener, proto_ver, accepted, ended_at, end, why }: AttemptRow) {
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
    run: all,
    line: show
  }),
  'clients show': command({
    summary: 'Show a client',
    usage: '<clientId>',
    run: ({ clients }, { clientId }) => ({
      ...row(clients.client(clientId)),
      session: load(clients.session(clientId))
    }),
    print: show
  }),
  'clients kick': command({
    summary: 'Kick out a client',
    usage: '<clientId>',
    acts: true,
    async run({ clients, log }, { clientId }) {
      await clients.kick(clientId)
      log.info('client kicked', { clientId })
      return { client_id: clientId }
    }
  }),
  'clients why': command({
    summary: 'Show how the last connections of a client or an address ended',
    usage: '<clientId>',
    synopsis: '<clientId | ip>',
    run({ clients }, { clientId }) {
      const found = clients.lastConnections(clientId)
      if (found.length === 0) throw new BrokerError('NOT_FOUND', `no connection of ${clientId} is remembered`)
      return found.map(attemptRow)
    },
    print: rows => rows.map(tell).join('\n')
  })
}
