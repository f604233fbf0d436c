import type { ClientInfo } from '../hooks.js'
import type { Server } from '../server.js'
import { command, visible } from './command.js'
import { load } from './sessions.js'

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

function* all({ broker }: Server): Generator<ClientRow> {
  for (const client of broker.eachClient()) yield row(client)
}

/** emqttd's line; `undefined` is what it prints for a client without a user name. */
const show = (c: ClientRow): string =>
  `Client(${visible(c.client_id)}, clean_sess=${c.clean_sess}, username=${visible(c.username ?? 'undefined')}, peername=${c.peername}, connected_at=${c.connected_at})`

export const clients = {
  'clients list': command({
    summary: 'List all clients',
    run: all,
    line: show
  }),
  'clients show': command({
    summary: 'Show a client',
    usage: '<clientId>',
    run: ({ broker }, { clientId }) => ({ ...row(broker.client(clientId)), session: load(broker.session(clientId)) }),
    print: show
  }),
  'clients kick': command({
    summary: 'Kick out a client',
    usage: '<clientId>',
    acts: true,
    async run({ broker, log }, { clientId }) {
      await broker.kick(clientId)
      log.info('client kicked', { clientId })
      return { client_id: clientId }
    }
  })
}
