/**
 * The control plane: who is connected, with which identity and which session, and
 * what the operator and plugins may do about it. Each connection has a Front; aedes
 * decides over its life; messages pass by in the data plane.
 */
import type { Duplex } from 'node:stream'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import type { Access, Admission } from '../access/access.js'
import { type Ban, concerns, sayBan } from '../access/banned.js'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import { DeadlineWheel } from '../base/timer-wheel.js'
import type { MqttOptions } from '../config/broker-options.js'
import { Hub } from '../delivery/dispatcher.js'
import { tap } from '../delivery/inline-subscriber.js'
import { Message } from '../delivery/message.js'
import type { Session } from '../delivery/session/session.js'
import { Connection, type Origin } from '../net/connection.js'
import { addressIn } from '../net/peer.js'
import type { Alarms } from '../observe/alarms.js'
import { Inquiries } from '../observe/explain/explain.js'
import { Metrics } from '../observe/metrics.js'
import { Overseer } from '../observe/slow-clients.js'
import { type Stats, statsOf } from '../observe/stats.js'
import { type TraceInfo, type TraceKind, Tracer, type TraceTerms } from '../observe/trace/trace.js'
import { Keeper } from '../persistence/persistence.js'
import { aliveKey, aliveMs, type Counts, restore } from '../persistence/restore.js'
import type { ClientInfo, Message as HookMessage, Hooks } from '../plugins/hooks.js'
import type { Store } from '../store/store.js'
import type { JournalEvents, JournalTimes } from '../store/write-queue.js'
import type { QoS } from '../wire/frame.js'
import { isTopicFilter, isTopicName, levelsOf, splitShared } from '../wire/topic.js'
import { ConnectionLife, type Decisions } from './aedes/policy.js'
import { type Control, Front } from './channel.js'
import { type Attempt, Attempts } from './history.js'
import { frontOptionsOf, hubOptionsOf, limitsOf } from './options.js'
import { Sessions } from './sessions.js'
import { Turns } from './takeover.js'
import { willFrom } from './will.js'

/** What outlives the process, and how. */
export interface Kept {
  readonly store: Store
  /** Whether acknowledgements wait for the disk. */
  readonly waits: boolean
  readonly times: JournalTimes
}

/** Bytes that may wait for a client that reads slowly, beside its queue. */
const maxPendingBytes = 1024 * 1024

export class Broker {
  readonly metrics = new Metrics()
  readonly hub: Hub
  readonly sessions: Sessions
  readonly tracer: Tracer
  readonly attempts = new Attempts()
  readonly inquiries: Inquiries
  #options: MqttOptions
  readonly #access: Access
  readonly #hooks: Hooks
  readonly #log: Log
  readonly #wheel = new DeadlineWheel()
  #control: Control
  #life: ConnectionLife | undefined
  readonly #connections = new Set<Connection>()
  readonly #online = new Map<string, Front>()
  readonly #turns = new Turns()

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
    const keeper = kept === undefined ? undefined : new Keeper(kept.store, storeAlarms(alarms), kept)
    this.hub = new Hub(hubOptionsOf(options), keeper, this.metrics)
    const host = new Overseer(this.#wheel, alarms, log)
    this.sessions = new Sessions(this.hub, limitsOf(options), this.#wheel, host)
    this.inquiries = new Inquiries({
      access,
      hub: this.hub,
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
  ): Promise<Broker> {
    const broker = new Broker(options, access, hooks, log, alarms, kept)
    broker.#life = await ConnectionLife.create(broker.#decisions())
    return broker
  }

  /** Reads what the store has. @param progress told now and then how many records have been read. */
  async restore(progress: (records: number) => void): Promise<Counts | undefined> {
    const { keeper } = this.hub
    if (this.#kept === undefined || keeper === undefined) return undefined
    const { counts, resume } = await restore({
      store: this.#kept.store,
      keeper,
      hub: this.hub,
      sessions: this.sessions,
      maxInflight: this.#options.session.maxInflight,
      willFrom: record => willFrom(record, (...who) => this.#access.identity(...who), this.#control),
      progress
    })
    const alive = (): void => keeper.put('meta', aliveKey, timeNow())
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
  use(options: MqttOptions): void {
    const was = this.#options
    this.#options = options
    this.#control = this.#makeControl()
    this.hub.use(hubOptionsOf(options))
    const isSame = isDeepStrictEqual([was.session, was.mqueue], [options.session, options.mqueue])
    if (!isSame) this.sessions.use(limitsOf(options))
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
    const front = new Front(connection, this.#control)
    if (this.tracer.active) this.tracer.look(front, false)
    front.start()
    return connection
  }

  /** The connected clients, by client id. */
  clients(): ClientInfo[] {
    return [...this.#online.values()]
      .map(front => front.identity!.client)
      .sort((a, b) => (a.clientId < b.clientId ? -1 : 1))
  }

  clientIds(): Iterable<string> {
    return this.#online.keys()
  }

  /** The same as they came in; may be read over several turns of the event loop. */
  *eachClient(): Generator<ClientInfo> {
    for (const front of this.#online.values()) yield front.identity!.client
  }

  /** Their fronts, with connection and session; as above. */
  eachFront(): Iterable<Front> {
    return this.#online.values()
  }

  get clientCount(): number {
    return this.#online.size
  }

  /** Of a client id or an address, the oldest first. */
  lastConnections(who: string): Attempt[] {
    return this.attempts.of(who, addressIn(who))
  }

  isOnline(clientId: string): boolean {
    return this.#online.has(clientId)
  }

  /** emqttd's stats, in its order. */
  stats(): Stats {
    return statsOf(this.#online.size, this.sessions.size, this.hub)
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
    this.hub.subscribe(subscription)
    const client = this.#online.get(clientId)?.identity?.client
    if (client !== undefined) this.#hooks.tell('session.subscribed', client, filter, qos)
    if (splitShared(filter).group === undefined) subscriber.feed(this.hub.retainedFor(subscription))
  }

  /** A subscription of the program that the broker is embedded in; no ACL applies. Returns what ends it. */
  tap(filter: string, take: (message: HookMessage) => void): () => void {
    if (!isTopicFilter(filter) || !this.#fits(filter)) {
      throw new BrokerError('BAD_REQUEST', `not a topic filter: "${filter}"`)
    }
    return tap(this.hub, filter, ({ topic, payload, from }, qos, retain) => {
      try {
        take({ topic, payload: Buffer.from(payload), qos, retain, from })
      } catch (err) {
        this.#log.error('a subscription of the embedding program failed', { filter, err })
      }
    })
  }

  unsubscribe(clientId: string, filter: string): void {
    const was = this.hub.unsubscribe(this.#session(clientId), filter)
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
    await this.#eachFront(front => {
      if (!isMeant(front.suspect)) return
      front.ban(sayBan(ban))
      count++
    })
    return count
  }

  /** Begins a trace, also of those who are there. */
  async trace(kind: TraceKind, value: string, home: string, terms: TraceTerms): Promise<TraceInfo> {
    const info = this.tracer.start(kind, value, home, terms)
    await this.#eachFront(front => this.tracer.look(front, front.session !== undefined))
    return info
  }

  async #eachFront(work: (front: Front) => void): Promise<void> {
    let seen = 0
    for (const connection of [...this.#connections]) {
      if (++seen % 5000 === 0) await nextTurn() // messages go on meanwhile
      if (!connection.closed) work(connection.handler as Front)
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
    this.hub.publish(message)
  }

  /** Forgets what is retained for the topic. */
  forget(topic: string): void {
    this.hub.retain(Message.of(topic, Buffer.alloc(0), { retain: true }))
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
    const { keeper } = this.hub
    keeper?.put('meta', aliveKey, timeNow())
    await keeper?.journal.close()
  }

  #find(clientId: string): Front {
    const front = this.#online.get(clientId)
    if (front === undefined) throw new BrokerError('NOT_FOUND', 'Not Found.')
    return front
  }

  #makeControl(): Control {
    const hooks = this.#hooks
    const mqtt = (): MqttOptions => this.#options
    const pass = (message: Message): Promise<Message | null> => this.#pass(message)
    return {
      options: frontOptionsOf(this.#options),
      hub: this.hub,
      sessions: this.sessions,
      authority: {
        converse: (method, gone) => this.#access.converse(method, gone),
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
      banned: suspect => {
        const ban = this.#access.banned.find(suspect)
        return ban === undefined ? undefined : sayBan(ban)
      },
      get filter() {
        return hooks.has('message.publish') ? pass : undefined
      },
      get denyDisconnects() {
        return mqtt().aclDenyAction === 'disconnect'
      },
      connected: front => this.#connected(front),
      closed: front => this.#closed(front),
      subscribed: (front, filter, qos) => hooks.tell('session.subscribed', front.identity!.client, filter, qos),
      unsubscribed: (front, filter) => hooks.tell('session.unsubscribed', front.identity!.client, filter)
    }
  }

  #decisions(): Decisions<Front> {
    return {
      authenticate: (front, username, password) => {
        const info = front.info(username)
        const admission = front.proved ?? this.#access.authenticate(info, password)
        if (!(admission instanceof Promise)) return this.#judged(front, info, admission)
        return admission.then(it => this.#judged(front, info, it))
      },
      authorizeSubscribe: (front, filter) => front.maySubscribe(filter),
      registered: front => this.#turns.registered(front),
      unregistered: front => this.#turns.unregistered(front),
      failed: err => this.#log.error('aedes', { err })
    }
  }

  /** At once where it can: most clients need wait for nobody. */
  #judged(front: Front, info: ClientInfo, admission: Admission): number | undefined | Promise<undefined> {
    if (typeof admission === 'string') {
      front.why = admission === 'refused' ? 'wrong user name or password' : 'an authenticator failed'
      this.#log.warning('login refused', { ...front.who(), username: info.username, why: admission })
      const code = admission === 'refused' ? 4 : 3
      this.#hooks.tell('client.refused', info, code)
      return code
    }
    const admit = (): undefined => {
      front.admitted(admission)
    }
    const turn = this.#turns.take(front)
    return turn === undefined ? admit() : turn.then(admit)
  }

  #connected(front: Front): void {
    const { client } = front.identity!
    this.#online.set(client.clientId, front)
    this.metrics.peak('clients', this.#online.size)
    if (this.tracer.active) this.tracer.look(front, true)
    front.attempt = this.attempts.made(front, true)
    this.#log.info('client connected', { ...front.who(), username: client.username })
    this.#hooks.tell('client.connected', client)
    this.#turns.over(front)
  }

  #closed(front: Front): void {
    const { connection } = front
    this.#connections.delete(connection)
    this.#turns.over(front)
    this.attempts.over(front)
    if (front.session === undefined) return // was never in
    const { client } = front.identity!
    if (this.#online.get(client.clientId) === front) this.#online.delete(client.clientId)
    const reason = connection.reason ?? 'closed'
    const dropped = front.dropped // messages that it was too slow for
    const slow = dropped > 0 ? { dropped } : {}
    this.#log.info('client disconnected', { ...front.who(), username: client.username, reason, ...slow })
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

function storeAlarms(alarms: Alarms): JournalEvents {
  return {
    failed: err =>
      alarms.raise(storeAlarm, 'critical', 'the store cannot be written: messages that it must keep are refused', {
        why: messageOf(err)
      }),
    recovered: () => alarms.clear(storeAlarm)
  }
}
