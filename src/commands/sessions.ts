import { BrokerError } from '../base/errors.js'
import type { Session } from '../delivery/session/session.js'
import type { Server } from '../server/server.js'
import { command, visible } from './command.js'

/** What waits for a client and what it missed, under the names of emqttd's `sessions list`. */
export const load = (s: Session) => ({
  subscriptions: s.subscriptions.size,
  max_inflight: s.maxInflight,
  inflight: s.inflightLength,
  mqueue_len: s.queueLength,
  mqueue_dropped: s.dropped,
  awaiting_rel: s.awaitingRel.size,
  deliver_msg: s.delivered,
  enqueue_msg: s.enqueued
})

const row = (session: Session, transient: boolean) => ({
  client_id: session.clientId,
  /** Whether it ends with its connection; in MQTT 5 that is for its expiry interval to say. */
  clean_sess: transient,
  ...load(session),
  created_at: Math.floor(session.createdAt.getTime() / 1000),
  online: session.online
})

type SessionRow = ReturnType<typeof row>

function* rows({ clients }: Server, wanted?: 'persistent' | 'transient'): Generator<SessionRow> {
  for (const session of clients.sessions.each()) {
    const transient = clients.sessions.transient(session.clientId)
    if (wanted === undefined || transient === (wanted === 'transient')) yield row(session, transient)
  }
}

const show = ({ client_id, online: _, ...rest }: SessionRow): string =>
  `Session(${visible(client_id)}, ${Object.entries(rest)
    .map(([name, value]) => `${name}=${value}`)
    .join(', ')})`

export const sessions = {
  'sessions list': command({ summary: 'List all sessions', run: server => rows(server), line: show }),
  'sessions list persistent': command({
    summary: 'List all persistent sessions',
    run: server => rows(server, 'persistent'),
    line: show
  }),
  'sessions list transient': command({
    summary: 'List all transient sessions',
    run: server => rows(server, 'transient'),
    line: show
  }),
  'sessions show': command({
    summary: 'Show a session',
    usage: '<clientId>',
    run({ clients }, { clientId }) {
      const session = clients.sessions.get(clientId)
      if (session === undefined) throw new BrokerError('NOT_FOUND', 'Not Found.')
      return row(session, clients.sessions.transient(clientId))
    },
    print: show
  })
}
