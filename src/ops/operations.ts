/**
 * All that can be asked of a running broker or done to it, as plain data: the commands of broker-ctl, the management
 * API, metrics and `top` ask this and nothing else. ops/local.ts answers for the broker of this process; several workers
 * or nodes are another answer to the same questions.
 * What they answer is in ops/results.ts. What cannot be done throws a BrokerError.
 */
import type { AclExplanation, LoginTrial } from '../access/access.js'
import type { BanTerms } from '../access/banned.js'
import type { Action } from '../base/client-info.js'
import type { ClientRef } from '../base/client-ref.js'
import type { Level, LogTarget, Sink } from '../base/log/log.js'
import type { MessageExplanation, MessageQuestion } from '../observe/explain/message.js'
import type { MetricName } from '../observe/metrics.js'
import type { Stats } from '../observe/stats.js'
import type { TraceKind } from '../observe/trace/trace-file.js'
import type { TraceTerms } from '../observe/trace/tracer.js'
import type { VmFigures } from '../observe/vm.js'
import type { PluginInfo } from '../plugins/host.js'
import type { StoreState } from '../store/maintenance.js'
import type { QoS } from '../wire/frame.js'
import type {
  AlarmRow,
  BanRow,
  Change,
  ClientRow,
  ClientTraffic,
  ConnectionRow,
  Counters,
  Distribution,
  ListenerRow,
  ListenerState,
  NodeState,
  PublishedMessage,
  QueueLengths,
  Report,
  RetainedDetail,
  RetainedRow,
  RouteRow,
  SessionLoad,
  SessionRow,
  Shown,
  StopMode,
  SubscriptionRow,
  TopicSampling,
  TraceRow
} from './results.js'
import type { Sample } from './samples.js'

export type * from './results.js'

/** A list that may be long: it is read over many turns of the event loop, while what it lists goes on changing. */
export type Rows<T> = Generator<T, void, undefined>

export type { AclExplanation, LoginTrial, MessageExplanation, PluginInfo, StoreState, TraceKind, TraceTerms, VmFigures }

type Awaitable<T> = T | Promise<T>

// ── the node ─────────────────────────────────────────────────────────────────

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

export interface SessionOperations {
  count(): number
  list(kind?: 'persistent' | 'transient'): Rows<SessionRow>
  show(clientId: string): Awaitable<SessionRow | undefined>
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

export interface RetainedOperations {
  count(): number
  list(): Rows<RetainedRow>
  show(topic: string): Awaitable<RetainedDetail | undefined>
  /** False when there was none. */
  forget(topic: string): Awaitable<boolean>
  /** All, or those that a filter matches; tells how many. */
  clean(filter?: string): Promise<number>
}

export interface MessageOperations {
  /** No ACL applies. Resolves when what must be kept is on disk. */
  publish(message: PublishedMessage): Promise<void>
  /** Why a client did not get a message, or would not. */
  why(question: MessageQuestion): Promise<MessageExplanation>
}

// ── who may come in and do what ──────────────────────────────────────────────

export interface AccessOperations {
  reloadAcl(): Awaitable<{ readonly rules: number }>
  /** Why a client may or may not do something; one that is not connected is made up of what is said of it. */
  explainAcl(who: Partial<ClientRef>, action: Action, topic: string): Promise<AclExplanation>
  /** What a login would come to. */
  tryLogin(who: Partial<ClientRef>, password: string | undefined): Promise<LoginTrial>
}

export interface BanOperations {
  list(): Awaitable<BanRow[]>
  /** Bans, and ends the connections of the clients that the ban means; returns how many. */
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

export interface ConfigOperations {
  /** Reads everything under etc/ again, all or nothing. */
  reload(): Promise<Report>
  /** Sets a key until a restart or a reload. */
  set(key: string, text: string): Promise<Change>
  /** The keys that are `prefix` or below it; all without one. */
  show(prefix?: string): Shown[]
}

export interface StoreOperations {
  /** What is in use: memory also where the store could not be opened, which is an alarm. Answers at once. */
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

export interface AlarmOperations {
  list(): AlarmRow[]
  history(): AlarmRow[]
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
