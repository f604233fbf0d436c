/**
 * The control plane: who is connected, with which identity and which session, and
 * what the operator and plugins may do about it. Each connection has a Front; aedes
 * decides over its life; messages pass by in the data plane.
 */
import type { Duplex } from 'node:stream'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import type { Access, AclExplanation, LoginTrial } from '../access/access.js'
import { type Ban, concerns, type Suspect, sayBan } from '../access/banned.js'
import type { Alarms } from '../alarms.js'
import type { MqttOptions } from '../config/broker-options.js'
import { Hub } from '../delivery/hub.js'
import { Message } from '../delivery/message.js'
import { Priorities } from '../delivery/mqueue.js'
import type { Session, SessionLimits } from '../delivery/session.js'
import { BrokerError } from '../errors.js'
import type { Action, ClientInfo, Message as HookMessage, Hooks } from '../hooks.js'
import type { Log } from '../log.js'
import { Connection, type Origin } from '../net/connection.js'
import { DeadlineWheel } from '../net/keepalive.js'
import { addressIn, isLoopback } from '../net/peer.js'
import { type TraceInfo, type TraceKind, Tracer, type TraceTerms } from '../trace.js'
import { isTopicName, levelsOf } from '../wire/topic.js'
import { ConnectionLife } from './aedes.js'
import type { AedesStream } from './aedes-stream.js'
import { type Attempt, Attempts } from './attempts.js'
import { type Control, Front } from './front.js'
import { Overseer } from './overseer.js'
import { Sessions } from './sessions.js'

/** Bytes that may wait for a client that reads slowly, beside its queue. */
const maxPendingBytes = 1024 * 1024

export class Broker {
  readonly hub: Hub
  readonly sessions: Sessions
  readonly tracer: Tracer
  readonly attempts = new Attempts()
  readonly #options: MqttOptions
  readonly #access: Access
  readonly #hooks: Hooks
  readonly #log: Log
  readonly #wheel = new DeadlineWheel()
  readonly #control: Control
  #life: ConnectionLife | undefined
  readonly #connections = new Set<Connection>()
  readonly #fronts = new WeakMap<AedesStream, Front>()
  readonly #online = new Map<string, Front>()
  /** Who aedes has under a client id, and who waits for it to be gone. */
  readonly #registered = new Map<string, { front: Front; waiting: (() => void)[] }>()
  /** The last of those who come in under a client id, one after the other. */
  readonly #turns = new Map<string, Promise<void>>()

  private constructor(options: MqttOptions, access: Access, hooks: Hooks, log: Log, alarms: Alarms) {
    this.#options = options
    this.#access = access
    this.#hooks = hooks
    this.#log = log
    this.tracer = new Tracer(log)
    const { session, retain } = options
    this.hub = new Hub({
      shareStrategy: options.sharedSubscriptionStrategy,
      maxRetained: retain.maxMessageNum,
      maxRetainedPayload: retain.maxPayloadSize,
      ignoreLoopDeliver: session.ignoreLoopDeliver,
      upgradeQos: session.upgradeQos,
      retainExpiry: retain.expiryInterval
    })
    const host = new Overseer(this.#wheel, alarms, log)
    this.sessions = new Sessions(this.hub, limitsOf(options), this.#wheel, host)
    this.#control = this.#makeControl()
  }

  static async create(options: MqttOptions, access: Access, hooks: Hooks, log: Log, alarms: Alarms): Promise<Broker> {
    const broker = new Broker(options, access, hooks, log, alarms)
    broker.#life = await ConnectionLife.create(broker.#decisions(), { idleTimeoutMs: options.client.idleTimeout })
    return broker
  }

  /** Takes over a transport that a listener accepted. */
  establish(transport: Duplex, origin: Origin): Connection {
    const connection = new Connection(transport, origin, this.#wheel, {
      maxPacketSize: this.#options.maxPacketSize,
      idleTimeout: this.#options.client.idleTimeout,
      maxPending: maxPendingBytes
    })
    this.#connections.add(connection)
    const front = new Front(connection, this.#control)
    connection.once('close', () => this.#closed(front))
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

  client(clientId: string): ClientInfo {
    return this.#find(clientId).identity!.client
  }

  /** The session of a connected client. */
  session(clientId: string): Session {
    return this.#find(clientId).session!
  }

  async kick(clientId: string): Promise<void> {
    const { connection } = this.#find(clientId)
    const gone = new Promise<void>(resolve => connection.once('close', () => resolve()))
    connection.hangUp('kicked')
    await gone
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

  /** Why a client may or may not do something; one that is not connected is made up of what is said of it. */
  async explainAcl(who: Partial<Suspect>, action: Action, topic: string): Promise<AclExplanation> {
    const front = who.clientId === undefined ? undefined : this.#online.get(who.clientId)
    const isReal = front !== undefined && who.username === undefined && who.address === undefined
    const identity = isReal ? front.identity! : this.#access.identity(madeUp(who), false)
    if (action === 'publish' && topic.startsWith('$SYS/')) {
      return { allowed: false, by: "$SYS is the broker's own", cached: null, rules: [] }
    }
    return await this.#access.explain(identity, action, topic)
  }

  async tryLogin(who: Partial<Suspect>, password: string | undefined): Promise<LoginTrial> {
    return await this.#access.tryLogin(madeUp(who), password === undefined ? undefined : Buffer.from(password))
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

  /** Publishes for the broker itself or the program it is embedded in; no ACL applies. */
  async publish({ topic, payload, qos, retain }: Omit<HookMessage, 'from'>): Promise<void> {
    if (!this.#isTopic(topic)) throw new BrokerError('BAD_REQUEST', `not a topic: "${topic}"`)
    const message = Message.of(topic, payload, { qos, retain })
    this.hub.publish(message)
  }

  get connectionCount(): number {
    return this.#connections.size
  }

  /** Resolves when every byte written so far is with the system, or time is up. */
  async drained(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (performance.now() < deadline && [...this.#connections].some(c => c.pendingBytes > 0)) await sleep(10)
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
  }

  #find(clientId: string): Front {
    const front = this.#online.get(clientId)
    if (front === undefined) throw new BrokerError('NOT_FOUND', 'Not Found.')
    return front
  }

  #makeControl(): Control {
    const { session, ...options } = this.#options
    const hooks = this.#hooks
    const pass = (message: Message): Promise<Message | null> => this.#pass(message)
    return {
      options: {
        maxClientidLen: options.maxClientidLen,
        maxPacketSize: options.maxPacketSize,
        keepaliveBackoff: options.keepaliveBackoff,
        maxKeepalive: Math.floor(options.maxKeepalive / 1000),
        maxPublishRate: options.client.maxPublishRate,
        checkPayloadFormat: options.checkPayloadFormat,
        sessionExpiry: Math.floor(session.expiryInterval / 1000),
        maxSubscriptions: session.maxSubscriptions,
        receiveMaximum: session.maxAwaitingRel,
        topicAliasMaximum: options.maxTopicAlias,
        maxTopicLevels: options.maxTopicLevels
      },
      hub: this.hub,
      sessions: this.sessions,
      authority: {
        converse: (method, gone) => this.#access.converse(method, gone),
        identity: (client, superuser) => this.#access.identity(client, superuser),
        timeLimit: options.client.idleTimeout
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
      denyDisconnects: options.aclDenyAction === 'disconnect',
      opened: (front, stream) => this.#fronts.set(stream, front),
      connected: front => this.#connected(front),
      subscribed: (front, filter, qos) => hooks.tell('session.subscribed', front.identity!.client, filter, qos),
      unsubscribed: (front, filter) => hooks.tell('session.unsubscribed', front.identity!.client, filter)
    }
  }

  #decisions() {
    return {
      authenticate: async (stream: AedesStream, username: string | undefined, password: Buffer | undefined) => {
        const front = this.#fronts.get(stream)!
        const info = front.info(username)
        const admission = front.proved ?? (await this.#access.authenticate(info, password))
        if (typeof admission === 'string') {
          front.why = admission === 'refused' ? 'wrong user name or password' : 'an authenticator failed'
          this.#log.warning('login refused', { ...front.who(), username: info.username, why: admission })
          return admission === 'refused' ? 4 : 3
        }
        await this.#inTurn(info.clientId, front)
        front.admitted(admission)
        return undefined
      },
      authorizeSubscribe: (stream: AedesStream, filter: string) => this.#fronts.get(stream)!.maySubscribe(filter),
      registered: (stream: AedesStream) => {
        const front = this.#fronts.get(stream)!
        if (!front.connection.closed) this.#registered.set(front.clientId, { front, waiting: [] })
      },
      unregistered: (stream: AedesStream) => {
        const front = this.#fronts.get(stream)!
        const entry = this.#registered.get(front.clientId)
        if (entry?.front !== front) return
        this.#registered.delete(front.clientId)
        for (const resume of entry.waiting) resume()
      },
      failed: (err: Error) => this.#log.error('aedes', { err })
    }
  }

  /**
   * One client of an id comes in at a time: the next waits until this one is in or gone, and then takes its
   * place. Only who has shown that he may come in gets a turn, so that nobody else can hold up a client.
   */
  async #inTurn(clientId: string, front: Front): Promise<void> {
    const { connection } = front
    const before = this.#turns.get(clientId)
    const over = new Promise<void>(resolve => connection.once('close', resolve).once('established', resolve))
    const turn = Promise.all([before, over]).then(() => {
      if (this.#turns.get(clientId) === turn) this.#turns.delete(clientId)
    })
    this.#turns.set(clientId, turn)
    await before
    if (!connection.closed) await this.#takeOver(clientId, front)
  }

  /**
   * Ends the connection that has the client id now [MQTT-3.1.4-2] and waits until aedes has forgotten it:
   * a client that is still leaving when the next one registers takes that one's entry with it.
   */
  async #takeOver(clientId: string, by: Front): Promise<void> {
    const holder = this.#registered.get(clientId)
    if (holder === undefined) return
    const gone = new Promise<void>(resolve => holder.waiting.push(resolve))
    holder.front.why ??= `by ${by.peername} on ${by.connection.origin.listener}`
    holder.front.connection.hangUp('takeover')
    await gone
  }

  #connected(front: Front): void {
    const { client } = front.identity!
    this.#online.set(client.clientId, front)
    if (this.tracer.active) this.tracer.look(front, true)
    front.attempt = this.#attempted(front, true)
    this.#log.info('client connected', { ...front.who(), username: client.username })
    this.#hooks.tell('client.connected', client)
  }

  #closed(front: Front): void {
    const { connection } = front
    this.#connections.delete(connection)
    this.#remember(front)
    if (front.session === undefined) return // was never in
    const { client } = front.identity!
    if (this.#online.get(client.clientId) === front) this.#online.delete(client.clientId)
    const reason = connection.reason ?? 'closed'
    const dropped = front.dropped // messages that it was too slow for
    const slow = dropped > 0 ? { dropped } : {}
    this.#log.info('client disconnected', { ...front.who(), username: client.username, reason, ...slow })
    this.#hooks.tell('client.disconnected', client, reason)
  }

  #attempted(front: Front, accepted: boolean): Attempt {
    const { peer, listener } = front.connection.origin
    return this.attempts.add({
      at: front.connection.began,
      clientId: front.claimedId,
      username: front.suspect.username,
      peer,
      listener,
      version: front.spoken,
      accepted,
      endedAt: undefined,
      end: undefined,
      why: undefined
    })
  }

  #remember(front: Front): void {
    const attempt = front.attempt ?? this.#attempted(front, false)
    const end = front.connection.reason ?? 'closed'
    attempt.endedAt = new Date()
    attempt.end = end
    const silent = end === 'keepalive_timeout' ? `its keep alive is ${front.identity?.client.keepAlive} s` : undefined
    attempt.why = (front.why ?? silent)?.slice(0, 200)
  }

  #isTopic(topic: string): boolean {
    return isTopicName(topic) && Buffer.byteLength(topic) <= 65_535 && levelsOf(topic) <= this.#options.maxTopicLevels
  }

  /** What plugins make of a message. Its QoS stays the publisher's, since the acknowledgement hangs on it. */
  async #pass(message: Message): Promise<Message | null> {
    const { topic, payload, qos, retain, from } = message
    const next = await this.#hooks.pass('message.publish', { topic, payload: Buffer.from(payload), qos, retain, from })
    if (next === null) return null
    if (!this.#isTopic(next.topic)) {
      this.#log.error('message.publish gave a bad topic; the message is lost', { topic: next.topic })
      return null
    }
    return message.remade(next.topic, next.payload, next.retain)
  }
}

/** A client that might be. */
function madeUp({ clientId = '', username, address = '127.0.0.1' }: Partial<Suspect>): ClientInfo {
  const spelled = addressIn(address)
  if (spelled === undefined) throw new BrokerError('BAD_REQUEST', `expected an IP address, got "${address}"`)
  return {
    clientId,
    username,
    peer: { address: spelled, port: 0 },
    local: isLoopback(spelled),
    listener: 'tcp:none',
    cleanSession: true,
    keepAlive: 0,
    protocolVersion: 4,
    connectedAt: new Date()
  }
}

function limitsOf({ session, mqueue }: MqttOptions): SessionLimits {
  const { type, priority, maxLength, lowWatermark, highWatermark, storeQos0 } = mqueue
  const marks = {
    lowWatermark: Math.floor(maxLength * lowWatermark),
    highWatermark: Math.floor(maxLength * highWatermark)
  }
  return {
    maxInflight: session.maxInflight,
    maxQueued: maxLength,
    storeQos0,
    priorities: type === 'priority' ? new Priorities(priority ?? new Map()) : undefined,
    ...(maxLength === 0 ? {} : marks), // of a queue without a limit there is no percentage
    retryInterval: session.retryInterval,
    awaitRelTimeout: session.awaitRelTimeout
  }
}
