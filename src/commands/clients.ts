import type { Session } from '../delivery/session.js'
import type { ClientInfo } from '../hooks.js'
import { command, visible } from './command.js'

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

/** What waits for a client and what it missed, under the names of emqttd's `sessions list`. */
const load = (s: Session) => ({
  subscriptions: s.subscriptions.size,
  max_inflight: s.maxInflight,
  inflight: s.inflightLength,
  mqueue_len: s.queueLength,
  mqueue_dropped: s.dropped,
  awaiting_rel: s.awaitingRel.size,
  deliver_msg: s.delivered,
  enqueue_msg: s.enqueued
})

/** emqttd's line; `undefined` is what it prints for a client without a user name. */
const show = (c: ClientRow): string =>
  `Client(${visible(c.client_id)}, clean_sess=${c.clean_sess}, username=${visible(c.username ?? 'undefined')}, peername=${c.peername}, connected_at=${c.connected_at})`

export const clients = {
  'clients list': command({
    summary: 'List all clients',
    run: ({ broker }) => broker.clients().map(row),
    print: rows => rows.map(show).join('\n')
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
    async run({ broker, log }, { clientId }) {
      await broker.kick(clientId)
      log.info('client kicked', { clientId })
      return { client_id: clientId }
    }
  })
}
