/** Each row of ops/operations.ts is made here, and nowhere else. */
import type { Ban } from '../access/banned.js'
import type { ClientInfo } from '../base/client-info.js'
import type { ConnectionRecord } from '../client/history.js'
import type { Message } from '../delivery/message.js'
import type { Subscription } from '../delivery/router.js'
import type { Session } from '../delivery/session/session.js'
import type { ListenerInfo } from '../net/listener-info.js'
import type { Alarm } from '../observe/alarms.js'
import type { TraceInfo } from '../observe/trace/trace-file.js'
import type {
  AlarmRow,
  BanRow,
  ClientRow,
  ConnectionRow,
  ListenerRow,
  RetainedDetail,
  RetainedRow,
  SessionLoad,
  SessionRow,
  SubscriptionRow,
  TraceRow
} from './operations.js'

const seconds = (at: Date | number): number => Math.floor(at.valueOf() / 1000)

export const clientRow = (client: ClientInfo): ClientRow => ({
  client_id: client.clientId,
  clean_sess: client.cleanSession,
  username: client.username ?? null,
  peername: `${client.peer.address}:${client.peer.port}`,
  connected_at: seconds(client.connectedAt),
  listener: client.listener,
  proto_ver: client.protocolVersion,
  keepalive: client.keepAlive
})

export const connectionRow = (record: ConnectionRecord): ConnectionRow => ({
  at: seconds(record.at),
  client_id: record.clientId,
  username: record.username ?? null,
  peername: `${record.peer.address}:${record.peer.port}`,
  listener: record.listener,
  proto_ver: record.version,
  accepted: record.accepted,
  ended_at: record.endedAt === undefined ? null : seconds(record.endedAt),
  end: record.end ?? null,
  why: record.why ?? null
})

export const sessionLoad = (s: Session): SessionLoad => ({
  subscriptions: s.subscriptions.size,
  max_inflight: s.maxInflight,
  inflight: s.inflightLength,
  mqueue_len: s.queueLength,
  mqueue_dropped: s.dropped,
  awaiting_rel: s.awaitingRel.size,
  deliver_msg: s.delivered,
  enqueue_msg: s.enqueued
})

export const sessionRow = (session: Session, isTransient: boolean): SessionRow => ({
  client_id: session.clientId,
  clean_sess: isTransient,
  ...sessionLoad(session),
  created_at: seconds(session.createdAt),
  online: session.online
})

export function subscriptionRow({
  subscriber,
  filter,
  qos
}: Subscription<{ readonly clientId: string }>): SubscriptionRow {
  const [, share, topic] = /^(?:\$local\/)?(?:(\$queue|\$share\/[^/]+)\/)?(.*)$/s.exec(filter)!
  return {
    client_id: subscriber.clientId,
    topic: topic!,
    filter,
    qos,
    share: share === undefined ? null : share.replace('$share/', '')
  }
}

export const retainedRow = ({ topic, qos, payloadLength, from }: Message): RetainedRow => ({
  topic,
  qos,
  size: payloadLength,
  from: from ?? null
})

export function retainedDetail(message: Message): RetainedDetail {
  const { payload, expiresAt } = message
  const text = payload.toString('utf8')
  const isText = Buffer.from(text).equals(payload)
  return {
    ...retainedRow(message),
    expires_at: expiresAt === 0 ? null : seconds(expiresAt),
    encoding: isText ? 'utf8' : 'base64',
    payload: isText ? text : payload.toString('base64')
  }
}

export const banRow = ({ kind, who, at, until, reason }: Ban): BanRow => ({
  as: kind,
  who,
  at: seconds(at),
  until: until === undefined ? null : seconds(until),
  reason: reason ?? null
})

export const listenerRow = (info: ListenerInfo): ListenerRow => ({
  name: info.name,
  protocol: `mqtt:${info.transport}`,
  listen: info.bind,
  acceptors: 1,
  max_clients: info.maxClients,
  current_clients: info.currentClients,
  shutdown_count: info.shutdownCount
})

export const alarmRow = ({ id, severity, title, details, raisedAt, clearedAt }: Alarm): AlarmRow => ({
  id,
  severity,
  title,
  details,
  raised_at: seconds(raisedAt),
  ...(clearedAt === undefined ? {} : { cleared_at: seconds(clearedAt) })
})

export const traceRow = (trace: TraceInfo): TraceRow => ({
  kind: trace.kind,
  value: trace.value,
  file: trace.file,
  format: trace.format,
  started_at: seconds(trace.startedAt),
  until: seconds(trace.until),
  packets: trace.packets,
  bytes: trace.bytes,
  left_out: trace.leftOut
})
