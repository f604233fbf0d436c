/**
 * What Operations answer, as plain data. Rows have the names and forms that broker-ctl prints with --json: emqttd's
 * spelling, times in seconds since 1970.
 */
import type { ListenerInfo } from '../net/listener-info.js'
import type { TraceKind } from '../observe/trace/trace-file.js'
import type { QoS } from '../wire/frame.js'

/** `drain`: what was written goes out first; `fast`: it does not. */
export type StopMode = 'drain' | 'fast'
export type Phase = 'starting' | 'running' | 'stopping'

export interface NodeState {
  readonly node: string
  readonly version: string
  readonly pid: number
  readonly phase: Phase
  /** What a start is at that takes its time, in words. */
  readonly doing: string | undefined
  readonly startedAt: Date
  /** For the operator who started it. */
  readonly notices: readonly string[]
}

/** How often a value was at most each of the bounds, and more than all of them. */
export interface Distribution {
  readonly bounds: readonly number[]
  /** One more than there are bounds. Each counts its own bucket alone. */
  readonly counts: readonly number[]
  readonly count: number
  readonly sum: number
}

/** Totals since the start, of which rates are made. */
export interface Counters {
  readonly messages_in: number
  readonly messages_out: number
  readonly bytes_in: number
  readonly bytes_out: number
  readonly dropped: number
}

export interface QueueLengths extends Pick<Distribution, 'bounds' | 'counts'> {
  readonly sessions: number
  readonly messages: number
}

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

/** What waits for a client and what it missed, under the names of emqttd's `sessions list`. */
export interface SessionLoad {
  readonly subscriptions: number
  readonly max_inflight: number
  readonly inflight: number
  readonly mqueue_len: number
  readonly mqueue_dropped: number
  readonly awaiting_rel: number
  readonly deliver_msg: number
  readonly enqueue_msg: number
}

/** How a connection ended, or that it lasts. */
export interface ConnectionRow {
  readonly at: number
  readonly client_id: string
  readonly username: string | null
  readonly peername: string
  readonly listener: string
  /** MQTT version; 0 where it did not get as far as to say. */
  readonly proto_ver: number
  readonly accepted: boolean
  readonly ended_at: number | null
  readonly end: string | null
  readonly why: string | null
}

/** What a connected client has counted since its session began, or its connection for bytes. */
export interface ClientTraffic {
  /** Of the connection, in this process. */
  readonly key: object
  readonly client_id: string
  readonly username: string | null
  readonly peername: string
  readonly published: number
  readonly delivered: number
  readonly received: number
  readonly sent: number
  readonly dropped: number
  readonly queue: number
  readonly inflight: number
  /** Bytes that it has not taken yet. */
  readonly unsent: number
}

export interface SessionRow extends SessionLoad {
  readonly client_id: string
  /** Whether it ends with its connection; in MQTT 5 that is for its expiry interval to say. */
  readonly clean_sess: boolean
  readonly created_at: number
  readonly online: boolean
}

export interface SubscriptionRow {
  readonly client_id: string
  /** Without `$share/<group>/` and the like, as `topics list` has it. */
  readonly topic: string
  readonly filter: string
  readonly qos: number
  readonly share: string | null
}

export interface RouteRow {
  readonly topic: string
  readonly node: string
}

export interface TopicSampling {
  /** One message in so many is looked at. */
  readonly every: number
  /** The period is over: the `most` topics with the most messages, and all begin anew. */
  end(most: number): readonly { readonly topic: string; readonly messages: number; readonly bytes: number }[]
  stop(): void
}

export interface RetainedRow {
  readonly topic: string
  readonly qos: number
  readonly size: number
  readonly from: string | null
}

export interface RetainedDetail extends RetainedRow {
  readonly expires_at: number | null
  readonly encoding: 'utf8' | 'base64'
  readonly payload: string
}

export interface PublishedMessage {
  readonly topic: string
  readonly payload: Buffer
  readonly qos: QoS
  readonly retain: boolean
  /** Whom the message is from. */
  readonly from?: string
}

export interface BanRow {
  readonly as: string
  readonly who: string
  readonly at: number
  readonly until: number | null
  readonly reason: string | null
}

export interface ListenerRow {
  readonly name: string
  readonly protocol: string
  readonly listen: string
  readonly acceptors: number
  readonly max_clients: number
  readonly current_clients: number
  /** How often connections ended, by why. */
  readonly shutdown_count: Readonly<Record<string, number>>
}

export interface ListenerState extends ListenerInfo {
  readonly isOpen: boolean
  /** Of the management API. */
  readonly isApi: boolean
}

/** A key that has another value than what is in force. */
export interface Change {
  readonly key: string
  /** Null: not set. Secrets are not shown. */
  readonly from: string | null
  readonly to: string | null
  /** `connect`: for connections made from now on. */
  readonly effect: 'now' | 'connect' | 'restart'
  /** Why it takes a restart. */
  readonly why?: string
}

export interface Report {
  readonly changes: readonly Change[]
  /** Rules of acl.conf, where they are others than before. */
  readonly rules?: number
  /** Listeners with other certificates under the same names. */
  readonly certificates: readonly string[]
  /** Plugins that were loaded anew. */
  readonly plugins: readonly string[]
}

export interface Shown {
  readonly key: string
  /** In force; null: not set. */
  readonly value: string | null
  /** What a reload would find: in the file or the environment. */
  readonly file: string | null
  readonly default: string | null
  readonly effect: Change['effect']
}

export interface AlarmRow {
  readonly id: string
  readonly severity: string
  readonly title: string
  readonly details: Readonly<Record<string, unknown>>
  readonly raised_at: number
  readonly cleared_at?: number
}

export interface TraceRow {
  readonly kind: TraceKind
  readonly value: string
  readonly file: string
  readonly format: 'text' | 'json'
  readonly started_at: number
  readonly until: number
  readonly packets: number
  readonly bytes: number
  readonly left_out: number
}
