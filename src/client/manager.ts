/**
 * The clients: who is connected, with which identity and which session, and what the
 * operator and plugins may do about it. Each connection has a Channel; the policy
 * decides over its life; messages pass by in the data plane.
 */
import type { Duplex } from 'node:stream'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import type { Access } from '../access/access.js'
import { type Ban, concerns, sayBan } from '../access/banned.js'
import type { ClientInfo } from '../base/client-info.js'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import { TimerWheel } from '../base/timer-wheel.js'
import type { MqttOptions } from '../config/broker-keys.js'
import { Dispatcher } from '../delivery/dispatcher.js'
import { Ingress, type MessageFilter } from '../delivery/ingress.js'
import { subscribeInline } from '../delivery/inline-subscriber.js'
import { Message } from '../delivery/message.js'
import type { Session } from '../delivery/session/session.js'
import { Connection, type Origin } from '../net/connection.js'
import { addressIn } from '../net/peer.js'
import type { Alarms } from '../observe/alarms.js'
import { Metrics } from '../observe/metrics.js'
import { SlowClientMonitor } from '../observe/slow-clients.js'
import type { TraceInfo, TraceKind } from '../observe/trace/trace-file.js'
import { Tracer, type TraceTerms } from '../observe/trace/tracer.js'
import { Persistence } from '../persistence/persistence.js'
import { aliveKey, aliveMs, type Counts, restore } from '../persistence/restore.js'
import type { Message as HookMessage, Hooks } from '../plugins/hooks.js'
import type { Store } from '../store/store.js'
import type { WriteQueueEvents, WriteQueueTimes } from '../store/write-queue.js'
import type { QoS } from '../wire/frame.js'
import { isTopicFilter, splitShared } from '../wire/topic.js'
import { ConnectionPolicy } from './aedes/policy.js'
import { Channel } from './channel.js'
import type { ChannelDeps } from './channel-deps.js'
import { ConnectionHistory, type ConnectionRecord } from './history.js'
import { channelOptionsOf, dispatcherOptionsOf, ingressOptionsOf, limitsOf } from './options.js'
import { Sessions } from './sessions.js'
import { willFrom } from './will.js'

/** What outlives the process, and how. */
export interface Kept {
  readonly store: Store
  /** Whether acknowledgements wait for the disk. */
  readonly waits: boolean
  readonly times: WriteQueueTimes
}

/** Bytes that may wait for a client that reads slowly, beside its queue. */
const maxPendingBytes = 1024 * 1024

export class ClientManager {
  readonly metrics = new Metrics()
  readonly dispatcher: Dispatcher
  readonly ingress: Ingress
  readonly sessions: Sessions
  readonly tracer: Tracer
  readonly history = new ConnectionHistory()
  #options: MqttOptions
  readonly #access: Access
  readonly #hooks: Hooks
  readonly #log: Log
  readonly #wheel = new TimerWheel()
  readonly #policy: ConnectionPolicy
  #deps: ChannelDeps<Channel>
  readonly #connections = new Set<Connection>()
  readonly #online = new Map<string, Channel>()

  readonly #kept: Kept | undefined
  #alive: NodeJS.Timeout | undefined
  #resume = (): void => {}

  private constructor(
    options: MqttOptions,
    access: Access,
    hooks: Hooks,
    log: Log,
    alarms: Alarms,
    kept: Kept | undefined,
    policy: ConnectionPolicy
  ) {
    this.#kept = kept
    this.#options = options
    this.#access = access
    this.#hooks = hooks
    this.#log = log
    this.#policy = policy
    this.tracer = new Tracer(log)
    const persistence = kept === undefined ? undefined : new Persistence(kept.store, storeAlarms(alarms), kept)
    this.dispatcher = new Dispatcher(dispatcherOptionsOf(options), persistence, this.metrics)
    const filter: MessageFilter = message => this.#filter(message)
    this.ingress = new Ingress(this.dispatcher, ingressOptionsOf(options), () =>
      hooks.has('message.publish') ? filter : undefined
    )
    const monitor = new SlowClientMonitor(this.#wheel, alarms, log)
    this.sessions = new Sessions(this.dispatcher, limitsOf(options), this.#wheel, monitor)
    this.#deps = this.#channelDeps()
  }

  /** @param kept undefined where nothing outlives the process. */
  static async create(
    options: MqttOptions,
    access: Access,
    hooks: Hooks,
    log: Log,
    alarms: Alarms,
    kept?: Kept
  ): Promise<ClientManager> {
    const policy = await ConnectionPolicy.create(err => log.error('aedes', { err }))
    return new ClientManager(options, access, hooks, log, alarms, kept, policy)
  }

  /** Reads what the store has. @param progress told now and then how many records have been read. */
  async restore(progress: (records: number) => void): Promise<Counts | undefined> {
    const { persistence } = this.dispatcher
    if (this.#kept === undefined || persistence === undefined) return undefined
    const { counts, resume } = await restore({
      store: this.#kept.store,
      persistence,
      dispatcher: this.dispatcher,
      sessions: this.sessions,
      maxInflight: this.#options.session.maxInflight,
      willFrom: record => willFrom(record, (...who) => this.#access.identity(...who), this.#deps),
      progress
    })
    const alive = (): void => persistence.put('meta', aliveKey, timeNow())
    alive()
    this.#alive = setInterval(alive, aliveMs).unref()
    this.#resume = resume
    return counts
  }

  /** Sessions that have expired meanwhile end and wills are sent, for which the plugins that judge them must be there. */
  resume(): void {
    this.#resume()
    this.#resume = () => {} // it has all that was read
  }

  /** Other options from now on; what a client was told when it came in stays true for its connection. */
  reconfigure(options: MqttOptions): void {
    const was = this.#options
    this.#options = options
    this.#deps = this.#channelDeps()
    this.dispatcher.reconfigure(dispatcherOptionsOf(options))
    this.ingress.reconfigure(ingressOptionsOf(options))
    const isSame = isDeepStrictEqual([was.session, was.mqueue], [options.session, options.mqueue])
    if (!isSame) this.sessions.reconfigure(limitsOf(options))
  }

  /** Takes over a transport that a listener accepted. */
  establish(transport: Duplex, origin: Origin): Connection {
    const connection = new Connection(transport, origin, this.#wheel, {
      maxPacketSize: this.#options.maxPacketSize,
      idleTimeout: this.#options.client.idleTimeout,
      maxPending: maxPendingBytes,
      metrics: this.metrics
    })
    this.#connections.add(connection)
    const channel = new Channel(connection, this.#deps)
    if (this.tracer.active) this.tracer.look(channel, false)
    channel.start()
    return connection
  }

  /** The connected clients, by client id. */
  clients(): ClientInfo[] {
    return [...this.#online.values()]
      .map(channel => channel.identity!.client)
      .sort((a, b) => (a.clientId < b.clientId ? -1 : 1))
  }

  clientIds(): Iterable<string> {
    return this.#online.keys()
  }

  /** The same as they came in; may be read over several turns of the event loop. */
  *eachClient(): Generator<ClientInfo> {
    for (const channel of this.#online.values()) yield channel.identity!.client
  }

  /** Their channels, with connection and session; as above. */
  eachChannel(): Iterable<Channel> {
    return this.#online.values()
  }

  get clientCount(): number {
    return this.#online.size
  }

  /** Of a client id or an address, the oldest first. */
  lastConnections(who: string): ConnectionRecord[] {
    return this.history.of(who, addressIn(who))
  }

  /** A connected client's channel. */
  online(clientId: string): Channel | undefined {
    return this.#online.get(clientId)
  }

  isOnline(clientId: string): boolean {
    return this.#online.has(clientId)
  }

  client(clientId: string): ClientInfo {
    return this.#find(clientId).identity!.client
  }

  /** The session of a connected client. */
  session(clientId: string): Session {
    return this.#find(clientId).session!
  }

  /** A subscription that the operator makes for a session, also one whose client is away; no ACL applies. */
  subscribe(clientId: string, filter: string, qos: QoS): void {
    const subscriber = this.#session(clientId)
    if (!isTopicFilter(filter) || !this.ingress.fits(filter)) {
      throw new BrokerError('BAD_REQUEST', `not a topic filter: "${filter}"`)
    }
    const options = { noLocal: false, retainAsPublished: false, identifier: 0 }
    const subscription = { subscriber, filter, qos, ...options }
    this.dispatcher.subscribe(subscription)
    const client = this.#online.get(clientId)?.identity?.client
    if (client !== undefined) this.#hooks.tell('session.subscribed', client, filter, qos)
    if (splitShared(filter).group === undefined) subscriber.replayRetained(this.dispatcher.retainedFor(subscription))
  }

  /** A subscription of the program that the broker is embedded in; no ACL applies. Returns what ends it. */
  subscribeInline(filter: string, take: (message: HookMessage) => void): () => void {
    if (!isTopicFilter(filter) || !this.ingress.fits(filter)) {
      throw new BrokerError('BAD_REQUEST', `not a topic filter: "${filter}"`)
    }
    return subscribeInline(this.dispatcher, filter, ({ topic, payload, from }, qos, retain) => {
      try {
        take({ topic, payload: Buffer.from(payload), qos, retain, from })
      } catch (err) {
        this.#log.error('a subscription of the embedding program failed', { filter, err })
      }
    })
  }

  unsubscribe(clientId: string, filter: string): void {
    const was = this.dispatcher.unsubscribe(this.#session(clientId), filter)
    const client = this.#online.get(clientId)?.identity?.client
    if (was && client !== undefined) this.#hooks.tell('session.unsubscribed', client, filter)
  }

  #session(clientId: string): Session {
    const session = this.sessions.get(clientId)
    if (session === undefined) throw new BrokerError('NOT_FOUND', 'Error: Session not found!')
    return session
  }

  async kick(clientId: string): Promise<void> {
    const { connection } = this.#find(clientId)
    connection.hangUp('kicked')
    await new Promise<void>(resolve => process.nextTick(resolve)) // all that its end brings is done then
  }

  /** Ends the connections of the clients that a ban means; returns how many. */
  async kickBanned(ban: Ban): Promise<number> {
    const isMeant = concerns(ban)
    let count = 0
    await this.#eachChannel(channel => {
      if (!isMeant(channel.card.ref)) return
      channel.ban(sayBan(ban))
      count++
    })
    return count
  }

  /** Begins a trace, also of the clients that are connected. */
  async trace(kind: TraceKind, value: string, home: string, terms: TraceTerms): Promise<TraceInfo> {
    const info = this.tracer.start(kind, value, home, terms)
    await this.#eachChannel(channel => this.tracer.look(channel, channel.session !== undefined))
    return info
  }

  async #eachChannel(work: (channel: Channel) => void): Promise<void> {
    let seen = 0
    for (const connection of [...this.#connections]) {
      if (++seen % 5000 === 0) await nextTurn() // messages go on meanwhile
      if (!connection.closed) work(connection.handler as Channel)
    }
  }

  /** What the ACL said of a client that is connected and a topic it publishes to is asked anew. */
  forgetVerdict(clientId: string, topic: string): void {
    this.#find(clientId).identity!.cache.delete(topic)
  }

  /** Publishes for the broker itself or the program it is embedded in; no ACL applies. Resolves as Ingress.publish() does. */
  async publish({ topic, payload, qos, retain, from }: Omit<HookMessage, 'from'> & { from?: string }): Promise<void> {
    await this.ingress.publish(Message.of(topic, payload, { qos, retain, from }))
  }

  /** Forgets what is retained for the topic. */
  forget(topic: string): void {
    this.ingress.retain(Message.of(topic, Buffer.alloc(0), { retain: true }))
  }

  get connectionCount(): number {
    return this.#connections.size
  }

  /** Resolves when every byte written so far is with the system, or time is up. */
  async drained(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (performance.now() < deadline && [...this.#connections].some(c => c.pendingBytes > 0)) await sleep(10)
  }

  /** Ends the connections that came through a listener which is no more. */
  hangUpOn(listener: string): void {
    for (const connection of this.#connections) {
      if (connection.origin.listener === listener) connection.hangUp('listener_closed')
    }
  }

  /** Ends every connection; what was written to it still goes out. */
  hangUpAll(): void {
    for (const connection of this.#connections) connection.hangUp('shutdown')
  }

  async close(): Promise<void> {
    this.hangUpAll()
    this.tracer.close()
    await this.#policy.close()
    this.#wheel.stop()
    clearInterval(this.#alive)
    const { persistence } = this.dispatcher
    persistence?.put('meta', aliveKey, timeNow())
    await persistence?.queue.close()
  }

  #find(clientId: string): Channel {
    const channel = this.#online.get(clientId)
    if (channel === undefined) throw new BrokerError('NOT_FOUND', 'Not Found.')
    return channel
  }

  #channelDeps(): ChannelDeps<Channel> {
    const access = this.#access
    const hooks = this.#hooks
    const mqtt = (): MqttOptions => this.#options
    return {
      options: channelOptionsOf(this.#options),
      ingress: this.ingress,
      sessions: this.sessions,
      policy: this.#policy,
      auth: {
        beginExchange: (method, gone) => access.beginExchange(method, gone),
        identity: (client, superuser) => access.identity(client, superuser),
        timeLimit: this.#options.client.idleTimeout
      },
      log: this.#log,
      authenticate: (client, password) => access.authenticate(client, password),
      authorize: (identity, action, topic) => access.authorize(identity, action, topic),
      banned: client => {
        const ban = access.banned.find(client)
        return ban === undefined ? undefined : sayBan(ban)
      },
      get denyDisconnects() {
        return mqtt().aclDenyAction === 'disconnect'
      },
      refused: (client, code) => hooks.tell('client.refused', client, code),
      connected: channel => this.#connected(channel),
      closed: channel => this.#closed(channel),
      subscribed: (client, filter, qos) => hooks.tell('session.subscribed', client, filter, qos),
      unsubscribed: (client, filter) => hooks.tell('session.unsubscribed', client, filter)
    }
  }

  #connected(channel: Channel): void {
    const { card, connection } = channel
    const { client } = card.identity!
    this.#online.set(client.clientId, channel)
    this.metrics.peak('clients', this.#online.size)
    if (this.tracer.active) this.tracer.look(channel, true)
    channel.record = this.history.connected(card, connection.began, true)
    this.#log.info('client connected', { ...card.fields, username: client.username })
    this.#hooks.tell('client.connected', client)
  }

  #closed(channel: Channel): void {
    const { card, connection } = channel
    const reason = connection.reason ?? 'closed'
    this.#connections.delete(connection)
    this.history.ended(channel.record ?? this.history.connected(card, connection.began, false), card, reason)
    if (channel.session === undefined) return // was never in
    const { client } = card.identity!
    if (this.#online.get(client.clientId) === channel) this.#online.delete(client.clientId)
    const dropped = channel.dropped // messages that it was too slow for
    const slow = dropped > 0 ? { dropped } : {}
    this.#log.info('client disconnected', { ...card.fields, username: client.username, reason, ...slow })
    this.#hooks.tell('client.disconnected', client, reason)
  }

  /** What plugins make of a message. Its QoS stays the publisher's, since the acknowledgement hangs on it. */
  async #filter(message: Message): Promise<Message | null> {
    const { topic, payload, qos, retain, from } = message
    const next = await this.#hooks.pass('message.publish', { topic, payload: Buffer.from(payload), qos, retain, from })
    if (next === null) return null
    if (!this.ingress.isTopic(next.topic)) {
      this.#log.error('message.publish gave a bad topic; the message is lost', { clientId: from, topic: next.topic })
      return null
    }
    return message.remade(next.topic, next.payload, next.retain)
  }
}

function timeNow(): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeDoubleLE(Date.now())
  return bytes
}

const storeAlarm = 'store_unwritable'

function storeAlarms(alarms: Alarms): WriteQueueEvents {
  return {
    failed: err =>
      alarms.raise(storeAlarm, 'critical', 'the store cannot be written: messages that it must keep are refused', {
        why: messageOf(err)
      }),
    recovered: () => alarms.clear(storeAlarm)
  }
}
