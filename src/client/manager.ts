/**
 * The control plane: who is connected, with which identity and which session, and
 * what the operator and plugins may do about it. Each connection has a Channel; aedes
 * decides over its life; messages pass by in the data plane.
 */
import type { Duplex } from 'node:stream'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import type { Access, Admission } from '../access/access.js'
import { type Ban, concerns, sayBan } from '../access/banned.js'
import type { ClientInfo } from '../base/client-info.js'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import { TimerWheel } from '../base/timer-wheel.js'
import type { MqttOptions } from '../config/broker-keys.js'
import { Dispatcher } from '../delivery/dispatcher.js'
import { subscribeInline } from '../delivery/inline-subscriber.js'
import { Message } from '../delivery/message.js'
import type { Session } from '../delivery/session/session.js'
import { Connection, type Origin } from '../net/connection.js'
import { addressIn } from '../net/peer.js'
import type { Alarms } from '../observe/alarms.js'
import { Explain } from '../observe/explain/explain.js'
import { Metrics } from '../observe/metrics.js'
import { SlowClientMonitor } from '../observe/slow-clients.js'
import { type Stats, statsOf } from '../observe/stats.js'
import { type TraceInfo, type TraceKind, Tracer, type TraceTerms } from '../observe/trace/trace.js'
import { Persistence } from '../persistence/persistence.js'
import { aliveKey, aliveMs, type Counts, restore } from '../persistence/restore.js'
import type { Message as HookMessage, Hooks } from '../plugins/hooks.js'
import type { Store } from '../store/store.js'
import type { WriteQueueEvents, WriteQueueTimes } from '../store/write-queue.js'
import type { QoS } from '../wire/frame.js'
import { isTopicFilter, isTopicName, levelsOf, splitShared } from '../wire/topic.js'
import { ConnectionLife, type Decisions } from './aedes/policy.js'
import { Channel, type ChannelDeps } from './channel.js'
import { ConnectionHistory, type ConnectionRecord } from './history.js'
import { channelOptionsOf, dispatcherOptionsOf, limitsOf } from './options.js'
import { Sessions } from './sessions.js'
import { Takeover } from './takeover.js'
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
  readonly sessions: Sessions
  readonly tracer: Tracer
  readonly history = new ConnectionHistory()
  readonly explain: Explain
  #options: MqttOptions
  readonly #access: Access
  readonly #hooks: Hooks
  readonly #log: Log
  readonly #wheel = new TimerWheel()
  #control: ChannelDeps
  #life: ConnectionLife | undefined
  readonly #connections = new Set<Connection>()
  readonly #online = new Map<string, Channel>()
  readonly #takeover = new Takeover()

  readonly #kept: Kept | undefined
  #alive: NodeJS.Timeout | undefined
  #resume = (): void => {}

  private constructor(
    options: MqttOptions,
    access: Access,
    hooks: Hooks,
    log: Log,
    alarms: Alarms,
    kept: Kept | undefined
  ) {
    this.#kept = kept
    this.#options = options
    this.#access = access
    this.#hooks = hooks
    this.#log = log
    this.tracer = new Tracer(log)
    const persistence = kept === undefined ? undefined : new Persistence(kept.store, storeAlarms(alarms), kept)
    this.dispatcher = new Dispatcher(dispatcherOptionsOf(options), persistence, this.metrics)
    const host = new SlowClientMonitor(this.#wheel, alarms, log)
    this.sessions = new Sessions(this.dispatcher, limitsOf(options), this.#wheel, host)
    this.explain = new Explain({
      access,
      dispatcher: this.dispatcher,
      sessions: this.sessions,
      online: this.#online,
      isTopic: topic => this.#isTopic(topic)
    })
    this.#control = this.#makeControl()
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
    const broker = new ClientManager(options, access, hooks, log, alarms, kept)
    broker.#life = await ConnectionLife.create(broker.#decisions())
    return broker
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
      willFrom: record => willFrom(record, (...who) => this.#access.identity(...who), this.#control),
      progress
    })
    const alive = (): void => persistence.put('meta', aliveKey, timeNow())
    alive()
    this.#alive = setInterval(alive, aliveMs).unref()
    this.#resume = resume
    return counts
  }

  /** Sessions that have expired meanwhile end and wills are sent, which those who judge them must be there for. */
  resume(): void {
    this.#resume()
    this.#resume = () => {} // it has all that was read
  }

  /** Other options from now on; what a client was told when it came in stays true for its connection. */
  reconfigure(options: MqttOptions): void {
    const was = this.#options
    this.#options = options
    this.#control = this.#makeControl()
    this.dispatcher.reconfigure(dispatcherOptionsOf(options))
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
    const channel = new Channel(connection, this.#control)
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

  isOnline(clientId: string): boolean {
    return this.#online.has(clientId)
  }

  /** emqttd's stats, in its order. */
  stats(): Stats {
    return statsOf(this.#online.size, this.sessions.size, this.dispatcher)
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
    if (!isTopicFilter(filter) || !this.#fits(filter)) {
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
    if (!isTopicFilter(filter) || !this.#fits(filter)) {
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

  /** Ends the connections of those whom a ban means; tells how many. */
  async kickBanned(ban: Ban): Promise<number> {
    const isMeant = concerns(ban)
    let count = 0
    await this.#eachChannel(channel => {
      if (!isMeant(channel.ref)) return
      channel.ban(sayBan(ban))
      count++
    })
    return count
  }

  /** Begins a trace, also of those who are there. */
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

  /** Publishes for the broker itself or the program it is embedded in; no ACL applies. */
  async publish({ topic, payload, qos, retain, from }: Omit<HookMessage, 'from'> & { from?: string }): Promise<void> {
    if (!this.#isTopic(topic)) throw new BrokerError('BAD_REQUEST', `not a topic: "${topic}"`)
    const message = Message.of(topic, payload, { qos, retain, from })
    this.dispatcher.publish(message)
  }

  /** Forgets what is retained for the topic. */
  forget(topic: string): void {
    this.dispatcher.retain(Message.of(topic, Buffer.alloc(0), { retain: true }))
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
    await this.#life?.close()
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

  #makeControl(): ChannelDeps {
    const hooks = this.#hooks
    const mqtt = (): MqttOptions => this.#options
    const pass = (message: Message): Promise<Message | null> => this.#pass(message)
    return {
      options: channelOptionsOf(this.#options),
      dispatcher: this.dispatcher,
      sessions: this.sessions,
      authority: {
        beginExchange: (method, gone) => this.#access.beginExchange(method, gone),
        identity: (client, superuser) => this.#access.identity(client, superuser),
        timeLimit: this.#options.client.idleTimeout
      },
      log: this.#log,
      handle: stream => this.#life!.handle(stream),
      authorize: (identity, action, topic) => {
        // $SYS is the broker's own, and no ACL opens it to a client.
        if (action === 'publish' && topic.startsWith('$SYS/')) return false
        return this.#access.authorize(identity, action, topic)
      },
      banned: client => {
        const ban = this.#access.banned.find(client)
        return ban === undefined ? undefined : sayBan(ban)
      },
      get filter() {
        return hooks.has('message.publish') ? pass : undefined
      },
      get denyDisconnects() {
        return mqtt().aclDenyAction === 'disconnect'
      },
      connected: channel => this.#connected(channel),
      closed: channel => this.#closed(channel),
      subscribed: (channel, filter, qos) => hooks.tell('session.subscribed', channel.identity!.client, filter, qos),
      unsubscribed: (channel, filter) => hooks.tell('session.unsubscribed', channel.identity!.client, filter)
    }
  }

  #decisions(): Decisions<Channel> {
    return {
      authenticate: (channel, username, password) => {
        const info = channel.info(username)
        const admission = channel.proved ?? this.#access.authenticate(info, password)
        if (!(admission instanceof Promise)) return this.#judged(channel, info, admission)
        return admission.then(it => this.#judged(channel, info, it))
      },
      authorizeSubscribe: (channel, filter) => channel.maySubscribe(filter),
      registered: channel => this.#takeover.registered(channel),
      unregistered: channel => this.#takeover.unregistered(channel),
      failed: err => this.#log.error('aedes', { err })
    }
  }

  /** At once where it can: most clients need wait for nobody. */
  #judged(channel: Channel, info: ClientInfo, admission: Admission): number | undefined | Promise<undefined> {
    if (typeof admission === 'string') {
      channel.why = admission === 'refused' ? 'wrong user name or password' : 'an authenticator failed'
      this.#log.warning('login refused', { ...channel.who(), username: info.username, why: admission })
      const code = admission === 'refused' ? 4 : 3
      this.#hooks.tell('client.refused', info, code)
      return code
    }
    const admit = (): undefined => {
      channel.admitted(admission)
    }
    const turn = this.#takeover.take(channel)
    return turn === undefined ? admit() : turn.then(admit)
  }

  #connected(channel: Channel): void {
    const { client } = channel.identity!
    this.#online.set(client.clientId, channel)
    this.metrics.peak('clients', this.#online.size)
    if (this.tracer.active) this.tracer.look(channel, true)
    channel.record = this.history.record(channel, true)
    this.#log.info('client connected', { ...channel.who(), username: client.username })
    this.#hooks.tell('client.connected', client)
    this.#takeover.over(channel)
  }

  #closed(channel: Channel): void {
    const { connection } = channel
    this.#connections.delete(connection)
    this.#takeover.over(channel)
    this.history.over(channel)
    if (channel.session === undefined) return // was never in
    const { client } = channel.identity!
    if (this.#online.get(client.clientId) === channel) this.#online.delete(client.clientId)
    const reason = connection.reason ?? 'closed'
    const dropped = channel.dropped // messages that it was too slow for
    const slow = dropped > 0 ? { dropped } : {}
    this.#log.info('client disconnected', { ...channel.who(), username: client.username, reason, ...slow })
    this.#hooks.tell('client.disconnected', client, reason)
  }

  #isTopic(topic: string): boolean {
    return isTopicName(topic) && this.#fits(topic)
  }

  #fits(topic: string): boolean {
    return Buffer.byteLength(topic) <= 65_535 && levelsOf(topic) <= this.#options.maxTopicLevels
  }

  /** What plugins make of a message. Its QoS stays the publisher's, since the acknowledgement hangs on it. */
  async #pass(message: Message): Promise<Message | null> {
    const { topic, payload, qos, retain, from } = message
    const next = await this.#hooks.pass('message.publish', { topic, payload: Buffer.from(payload), qos, retain, from })
    if (next === null) return null
    if (!this.#isTopic(next.topic)) {
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
