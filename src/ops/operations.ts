/**
 * All that can be asked of a running broker or done to it, as plain data: the commands of broker-ctl, the management
 * API, metrics and `top` ask this and nothing else. ops/local.ts answers for the broker of this process; several workers
 * or nodes are another answer to the same questions.
 *
 * Rows have the names and forms that broker-ctl prints with --json: emqttd's spelling, times in seconds since 1970.
 * What cannot be done throws a BrokerError.
 */
import type { AclExplanation, LoginTrial } from '../access/access.js'
import type { BanTerms } from '../access/banned.js'
import type { Action } from '../base/client-info.js'
import type { ClientRef } from '../base/client-ref.js'
import type { Level, LogTarget, Sink } from '../base/log/log.js'
import type { ListenerInfo } from '../net/listener-info.js'
import type { MessageExplanation, MessageQuestion } from '../observe/explain/message.js'
import type { MetricName } from '../observe/metrics.js'
import type { Stats } from '../observe/stats.js'
import type { TraceKind } from '../observe/trace/trace-file.js'
import type { TraceTerms } from '../observe/trace/tracer.js'
import type { VmFigures } from '../observe/vm.js'
import type { PluginInfo } from '../plugins/host.js'
import type { StoreState } from '../store/maintenance.js'
import type { QoS } from '../wire/frame.js'
import type { Sample } from './samples.js'

/** A list that may be long: it is read over many turns of the event loop, while what it lists goes on changing. */
export type Rows<T> = Generator<T, void, undefined>

export type { AclExplanation, LoginTrial, MessageExplanation, PluginInfo, StoreState, TraceKind, TraceTerms, VmFigures }

type Awaitable<T> = T | Promise<T>

/** `drain`: what was written goes out first; `fast`: it does not. */
export type StopMode = 'drain' | 'fast'
export type Phase = 'starting' | 'running' | 'stopping'

// ── the node ─────────────────────────────────────────────────────────────────

export interface NodeState {
  readonly node: string
  readonly version: string
  readonly pid: number
  readonly phase: Phase
  /** What a start is at that takes its time, in words. */
  readonly doing: string | undefined
  readonly startedAt: Date
  /** For who started it. */
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

export interface BrokerOperations {
  state(): NodeState
  stop(mode: StopMode, timeoutMs: number): void
  /** emqttd's stats, in its order. */
  stats(): Stats
  /** emqttd's 38 metrics, in its order. */
  metrics(): Record<MetricName, number>
  /** What did not get through, by cause, and packets of MQTT 5. */
  losses(): Readonly<Record<string, number>>
  counters(): Counters
  /** Milliseconds that messages took. */
  latency(): Distribution
  queues(): Promise<QueueLengths>
}

// ── clients and sessions ─────────────────────────────────────────────────────

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

export interface ClientOperations {
  count(): number
  ids(): Iterable<string>
  list(): Rows<ClientRow>
  traffic(): Rows<ClientTraffic>
  isOnline(clientId: string): boolean
  show(clientId: string): Awaitable<ClientRow & { readonly session: SessionLoad }>
  kick(clientId: string): Promise<void>
  /** The last connections of a client id or an address, the oldest first. */
  why(who: string): Awaitable<ConnectionRow[]>
  /** What the ACL said of a client and a topic that it publishes to is asked anew. */
  forgetVerdict(clientId: string, topic: string): Awaitable<void>
}

export interface SessionRow extends SessionLoad {
  readonly client_id: string
  /** Whether it ends with its connection; in MQTT 5 that is for its expiry interval to say. */
  readonly clean_sess: boolean
  readonly created_at: number
  readonly online: boolean
}

export interface SessionOperations {
  count(): number
  list(kind?: 'persistent' | 'transient'): Rows<SessionRow>
  show(clientId: string): Awaitable<SessionRow | undefined>
}

export interface SubscriptionRow {
  readonly client_id: string
  /** Without `$share/<group>/` and the like, as `topics list` has it. */
  readonly topic: string
  readonly filter: string
  readonly qos: number
  readonly share: string | null
}

export interface SubscriptionOperations {
  count(): number
  list(): Rows<SubscriptionRow>
  of(clientId: string): Awaitable<SubscriptionRow[]>
  /** For a session, also one whose client is away; no ACL applies. */
  add(clientId: string, filter: string, qos: QoS): Awaitable<void>
  remove(clientId: string, filter: string): Awaitable<void>
}

// ── topics and messages ──────────────────────────────────────────────────────

export interface RouteRow {
  readonly topic: string
  readonly node: string
}

export interface TopicOperations {
  count(): number
  list(): Rows<RouteRow>
  /** None, or one for each node that has it. */
  show(topic: string): Awaitable<RouteRow[]>
  /** How many sessions get a message to the topic; a shared subscription's group is one. */
  receivers(topic: string): number
  /** Begins to sample which topics have the most messages. */
  sample(): TopicSampling
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

export interface RetainedOperations {
  count(): number
  list(): Rows<RetainedRow>
  show(topic: string): Awaitable<RetainedDetail | undefined>
  /** False when there was none. */
  forget(topic: string): Awaitable<boolean>
  /** All, or those that a filter matches; tells how many. */
  clean(filter?: string): Promise<number>
}

export interface PublishedMessage {
  readonly topic: string
  readonly payload: Buffer
  readonly qos: QoS
  readonly retain: boolean
  /** Whom the message is from. */
  readonly from?: string
}

export interface MessageOperations {
  /** No ACL applies. Resolves when what must be kept is on disk. */
  publish(message: PublishedMessage): Promise<void>
  /** Why a client did not get a message, or would not. */
  why(question: MessageQuestion): Promise<MessageExplanation>
}

// ── who may come in and do what ──────────────────────────────────────────────

export interface BanRow {
  readonly as: string
  readonly who: string
  readonly at: number
  readonly until: number | null
  readonly reason: string | null
}

export interface AccessOperations {
  reloadAcl(): Awaitable<{ readonly rules: number }>
  /** Why a client may or may not do something; one that is not connected is made up of what is said of it. */
  explainAcl(who: Partial<ClientRef>, action: Action, topic: string): Promise<AclExplanation>
  /** What a login would come to. */
  tryLogin(who: Partial<ClientRef>, password: string | undefined): Promise<LoginTrial>
}

export interface BanOperations {
  list(): Awaitable<BanRow[]>
  /** Bans, and ends the connections of those whom the ban means; tells how many. */
  add(as: string, who: string, terms: BanTerms): Promise<BanRow & { readonly kicked: number }>
  remove(as: string, who: string): Awaitable<Pick<BanRow, 'as' | 'who'>>
}

/** Users and tokens of the management API. */
export interface AdminOperations {
  users(): { username: string; tags: string }[]
  add(username: string, password: string, tags?: string): Promise<void>
  setPassword(username: string, password: string): Promise<void>
  remove(username: string): void
  tokens(): { name: string; access: string; created_at: number }[]
  /** Returns the token, which is not shown again. */
  addToken(name: string, access: string): string
  removeToken(name: string): void
}

// ── plugins, listeners, configuration, store ─────────────────────────────────

export interface PluginOperations {
  list(): Promise<PluginInfo[]>
  load(name: string): Promise<void>
  unload(name: string): Promise<void>
  reload(name: string): Promise<void>
  /** Calls an action that a loaded plugin has for its commands: plain data in and out. */
  call(name: string, action: string, args: Readonly<Record<string, unknown>>): Promise<unknown>
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

export interface ListenerOperations {
  /** Those that are open, as in emqttd. */
  list(): ListenerRow[]
  /** All that are configured. */
  states(): ListenerState[]
  /** @param proto `mqtt:tcp`. @param port as `1883` or `127.0.0.1:1883`. Returns its name. */
  start(proto: string, port: string): Promise<string>
  /** Its clients are told so. */
  stop(proto: string, port: string): Promise<string>
  restart(proto: string, port: string): Promise<string>
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

export interface ConfigOperations {
  /** Reads everything under etc/ again, all or nothing. */
  reload(): Promise<Report>
  /** Sets a key until a restart or a reload. */
  set(key: string, text: string): Promise<Change>
  /** The keys that are `prefix` or below it; all without one. */
  show(prefix?: string): Shown[]
}

export interface StoreOperations {
  /** What is in use: memory also where the store could not be opened, which is an alarm. Waits for nobody. */
  summary(): { readonly type: 'memory' | 'lmdb'; readonly size: number | null }
  info(): Promise<StoreState>
  /** Throws when a record cannot be read or is not what was written. */
  check(): Promise<StoreState>
  compact(): Promise<{ before: number; after: number }>
  backup(file: string): Promise<{ file: string; size: number }>
  /** Has the next start take a copy for the store. */
  restore(file: string): Promise<{ file: string }>
}

// ── what is going on ─────────────────────────────────────────────────────────

export interface AlarmRow {
  readonly id: string
  readonly severity: string
  readonly title: string
  readonly details: Readonly<Record<string, unknown>>
  readonly raised_at: number
  readonly cleared_at?: number
}

export interface AlarmOperations {
  list(): AlarmRow[]
  history(): AlarmRow[]
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

export interface TraceOperations {
  list(): TraceRow[]
  /** Begins one, also of clients that are connected. */
  start(kind: TraceKind, value: string, terms: TraceTerms): Promise<TraceRow>
  stop(kind: TraceKind, value: string): Awaitable<TraceRow>
}

export interface LogOperations {
  targets(): LogTarget[]
  /** Of a target, or of all but `error`; returns what was set, nothing when there is no such one. */
  setLevel(level: Level, target?: string): LogTarget[]
  /** Takes each line from now on; returns what ends that. */
  follow(sink: Sink): () => void
}

export interface TopOperations {
  /** Calls `take` each second with what the broker is busy with; returns what ends that. */
  watch(take: (sample: Sample) => void): () => void
}

export interface Operations {
  readonly broker: BrokerOperations
  readonly clients: ClientOperations
  readonly sessions: SessionOperations
  readonly subscriptions: SubscriptionOperations
  readonly topics: TopicOperations
  readonly retained: RetainedOperations
  readonly messages: MessageOperations
  readonly access: AccessOperations
  readonly bans: BanOperations
  /** Throws where the broker has no home, which has the users. */
  readonly admins: AdminOperations
  readonly plugins: PluginOperations
  readonly listeners: ListenerOperations
  /** Throws where the broker has no files. */
  readonly config: ConfigOperations
  readonly store: StoreOperations
  readonly alarms: AlarmOperations
  readonly traces: TraceOperations
  readonly log: LogOperations
  readonly vm: VmFigures
  readonly top: TopOperations
}
