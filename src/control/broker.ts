/**
 * The control plane: aedes, with its callbacks turned into our hooks and its
 * clients into plain data. Nothing outside this file names aedes.
 *
 * Only aedes' public interface is used. It is handed a Connection that has
 * already seen to framing, limits and timeouts; here a client gets its identity,
 * and what aedes would do on its own (guard $SYS, close on a denied publish, let
 * two CONNECTs of one client id race) is done as this broker promises.
 */
import { randomUUID } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { Aedes, type AedesPublishPacket, type AuthenticateError, type Client, type PublishPacket } from 'aedes'
import type { Access, Identity } from '../access/access.js'
import type { MqttOptions } from '../config/broker-options.js'
import { BrokerError } from '../errors.js'
import type { Action, ClientInfo, Hooks, Message } from '../hooks.js'
import type { Log } from '../log.js'
import { Connection, type Origin } from '../net/connection.js'
import { DeadlineWheel } from '../net/keepalive.js'
import { ConnackCode, connack, connackUnsupportedVersion5, readConnectFront } from '../wire/connect.js'
import { PacketType } from '../wire/frame.js'
import { isTopicFilter, isTopicName } from '../wire/topic.js'

export type ControlOptions = Pick<
  MqttOptions,
  'maxClientidLen' | 'maxPacketSize' | 'keepaliveBackoff' | 'aclDenyAction' | 'client'
>

/** Where a denied publish goes: nobody can subscribe there, and it carries nothing. */
const nowhere = '$SYS/denied'

/** Subscriptions that need a router of our own. */
const special = /^\$(share|queue|local)\//

export class Broker {
  readonly #options: ControlOptions
  readonly #access: Access
  readonly #hooks: Hooks
  readonly #log: Log
  readonly #aedes: Aedes
  readonly #wheel = new DeadlineWheel()
  readonly #online = new Map<string, Connection>()
  readonly #connections = new Set<Connection>()
  readonly #identities = new WeakMap<Connection, Identity>()
  /** What a CONNECT says of itself, until it is let in. */
  readonly #claims = new WeakMap<Connection, Claim>()
  /** Who aedes has under a client id, and who waits for it to be gone. */
  readonly #registered = new Map<string, { connection: Connection; waiting: (() => void)[] }>()
  /** The CONNECT that holds a client id until it is in or gone. */
  readonly #turns = new Map<string, Promise<void>>()

  private constructor(options: ControlOptions, access: Access, hooks: Hooks, log: Log, aedes: Aedes) {
    this.#options = options
    this.#access = access
    this.#hooks = hooks
    this.#log = log
    this.#aedes = aedes
  }

  static async create(options: ControlOptions, access: Access, hooks: Hooks, log: Log): Promise<Broker> {
    const aedes = await Aedes.createBroker({
      maxClientsIdLength: options.maxClientidLen,
      connectTimeout: options.client.idleTimeout + 60_000 // ours comes first
    })
    const broker = new Broker(options, access, hooks, log, aedes)
    broker.#attach()
    return broker
  }

  /** Takes over a transport that a listener accepted. */
  establish(transport: Duplex, origin: Origin): Connection {
    const { maxPacketSize, client } = this.#options
    const connection = new Connection(transport, origin, this.#wheel, {
      maxPacketSize,
      idleTimeout: client.idleTimeout,
      admit: (c, frame) => this.#admit(c, frame)
    })
    this.#connections.add(connection)
    connection.once('close', () => this.#closed(connection))
    connection.once('fault', (why: string) => {
      this.#log.warning('bad packet', { ...this.#who(connection), why })
    })
    this.#aedes.handle(connection)
    return connection
  }

  /** The connected clients, by client id. */
  clients(): ClientInfo[] {
    return [...this.#online.values()]
      .map(c => this.#identities.get(c)!.client)
      .sort((a, b) => (a.clientId < b.clientId ? -1 : 1))
  }

  get clientCount(): number {
    return this.#online.size
  }

  client(clientId: string): ClientInfo {
    return this.#identities.get(this.#find(clientId))!.client
  }

  async kick(clientId: string): Promise<void> {
    const connection = this.#find(clientId)
    const gone = new Promise<void>(resolve => connection.once('close', () => resolve()))
    connection.hangUp('kicked')
    await gone
  }

  /** Publishes for the broker itself or the program it is embedded in; no ACL applies. */
  async publish(message: Omit<Message, 'from'>): Promise<void> {
    if (!isTopicName(message.topic)) throw new BrokerError('BAD_REQUEST', `not a topic: "${message.topic}"`)
    const packet = { cmd: 'publish', dup: false, ...message } as PublishPacket
    await new Promise<void>((resolve, reject) => {
      this.#aedes.publish(packet, err => (err ? reject(err) : resolve()))
    })
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
    await new Promise<void>(resolve => {
      this.#aedes.close(resolve)
    })
    this.#wheel.stop()
  }

  #find(clientId: string): Connection {
    const connection = this.#online.get(clientId)
    if (connection === undefined) throw new BrokerError('NOT_FOUND', 'Not Found.')
    return connection
  }

  /**
   * Judges the first packet before aedes sees it: the protocol [MQTT-3.1.2-2], and the client id's
   * length, which aedes knows no limit for.
   */
  #admit(connection: Connection, frame: Buffer): boolean {
    const refuse = (why: string, answer?: Buffer): false => {
      this.#log.warning('CONNECT refused', { ...this.#who(connection), why })
      if (answer !== undefined) connection.write(answer)
      connection.hangUp(answer === undefined ? 'protocol_error' : 'refused')
      return false
    }
    if (frame[0]! >> 4 !== PacketType.CONNECT) return refuse('the first packet is not CONNECT') // [MQTT-3.1.0-1]
    const front = readConnectFront(frame)
    if (front === undefined) return refuse('malformed CONNECT')
    const { protocolName, protocolLevel, clientIdLength, cleanSession } = front
    if (protocolName === 'MQTT' && protocolLevel === 5) {
      return refuse('MQTT 5 is not supported', connackUnsupportedVersion5)
    }
    if (protocolName !== 'MQTT' && protocolName !== 'MQIsdp') return refuse('not MQTT') // [MQTT-3.1.2-1]
    if (protocolLevel !== (protocolName === 'MQTT' ? 4 : 3)) {
      return refuse(`protocol level ${protocolLevel}`, connack(ConnackCode.UNACCEPTABLE_PROTOCOL))
    }
    if (clientIdLength === 0 && (protocolLevel === 3 || !cleanSession)) {
      return refuse('no client id', connack(ConnackCode.IDENTIFIER_REJECTED)) // [MQTT-3.1.3-8]
    }
    if ((clientIdLength ?? 0) > this.#options.maxClientidLen) {
      return refuse('client id over mqtt.max_clientid_len', connack(ConnackCode.IDENTIFIER_REJECTED))
    }
    return true
  }

  #attach(): void {
    const aedes = this.#aedes

    aedes.preConnect = (client, packet, done) => {
      const connection = connectionOf(client)
      const { will } = packet
      if (will !== undefined && !isTopicName(will.topic)) return done(new Error('bad will topic'), false)
      packet.clientId ||= `auto-${randomUUID()}` // [MQTT-3.1.3-6]
      this.#claims.set(connection, {
        clientId: packet.clientId,
        cleanSession: packet.clean ?? true,
        keepAlive: packet.keepalive ?? 0,
        protocolVersion: packet.protocolVersion ?? 4
      })
      packet.keepalive = 0 // ours is kept by the wheel
      void this.#inTurn(packet.clientId, connection).then(() => done(null, !connection.destroyed))
    }

    aedes.authenticate = (client, username, password, done) => {
      const connection = connectionOf(client)
      const info = this.#infoOf(connection, username)
      void this.#access.authenticate(info, password).then(admission => {
        if (typeof admission === 'string') {
          this.#log.warning('login refused', { ...this.#who(connection), ...subject(info), why: admission })
          connection.because('refused')
          const returnCode =
            admission === 'refused' ? ConnackCode.BAD_USERNAME_OR_PASSWORD : ConnackCode.SERVER_UNAVAILABLE
          return done(Object.assign(new Error(admission), { returnCode }) as AuthenticateError, null)
        }
        this.#identities.set(connection, admission)
        void this.#takeOver(info.clientId).then(() => done(null, true))
      })
    }

    aedes.authorizeSubscribe = (client, subscription, done) => {
      const connection = connectionOf(client)
      const filter = subscription.topic
      if (!isTopicFilter(filter)) return done(new Error(`not a topic filter: ${JSON.stringify(filter)}`))
      if (special.test(filter)) {
        this.#log.warning('shared and local subscriptions are not supported', { ...this.#who(connection), filter })
        return done(null, null) // SUBACK 0x80 [MQTT-3.9.3-2]
      }
      this.#allowed(connection, 'subscribe', filter, allowed => done(null, allowed ? subscription : null))
    }

    aedes.authorizePublish = (client, packet, done) => {
      if (client === null) return done(null) // the broker's own
      const connection = connectionOf(client)
      // aedes listens on some $SYS topics itself, so no ACL may open them to clients.
      if (packet.topic.startsWith('$SYS/')) return this.#denied(connection, packet, done)
      this.#allowed(connection, 'publish', packet.topic, allowed => {
        if (!allowed) this.#denied(connection, packet, done)
        else if (this.#hooks.has('message.publish')) void this.#passed(connection, packet, done)
        else done(null)
      })
    }

    aedes.on('client', client => {
      const connection = connectionOf(client)
      if (!connection.destroyed) this.#registered.set(client.id, { connection, waiting: [] })
    })
    aedes.on('clientDisconnect', client => {
      const entry = this.#registered.get(client.id)
      if (entry?.connection !== connectionOf(client)) return
      this.#registered.delete(client.id)
      for (const resume of entry.waiting) resume()
    })
    aedes.on('clientReady', client => {
      const connection = connectionOf(client)
      const identity = this.#identities.get(connection)
      if (identity === undefined || connection.destroyed) return
      const { client: info } = identity
      this.#online.set(info.clientId, connection)
      connection.established(info.keepAlive * 1000 * this.#options.keepaliveBackoff * 2)
      this.#log.info('client connected', { ...this.#who(connection), ...subject(info) })
      this.#hooks.tell('client.connected', info)
    })
    aedes.on('subscribe', (subscriptions, client) => {
      const identity = this.#identities.get(connectionOf(client))
      for (const { topic, qos } of subscriptions) {
        if (identity !== undefined && qos < 128) this.#hooks.tell('session.subscribed', identity.client, topic, qos)
      }
    })
    aedes.on('unsubscribe', (filters, client) => {
      const identity = this.#identities.get(connectionOf(client))
      if (identity === undefined || client.closed) return
      for (const filter of filters) this.#hooks.tell('session.unsubscribed', identity.client, filter)
    })
    const troubled = (client: Client, err: Error): void => {
      this.#log.debug('connection failed', { ...this.#who(connectionOf(client)), err })
    }
    aedes.on('clientError', troubled)
    aedes.on('connectionError', troubled)
    ;(aedes as EventEmitter).on('error', (err: Error) => this.#log.error('aedes', { err }))
  }

  /** One CONNECT of a client id at a time: the next waits until this one is in or gone. */
  async #inTurn(clientId: string, connection: Connection): Promise<void> {
    const before = this.#turns.get(clientId)
    let end = (): void => {}
    const turn = new Promise<void>(resolve => {
      end = resolve
    })
    this.#turns.set(clientId, turn)
    const over = (): void => {
      if (this.#turns.get(clientId) === turn) this.#turns.delete(clientId)
      end()
    }
    connection.once('close', over)
    connection.once('established', over)
    await before
  }

  /**
   * Ends the connection that has the client id now [MQTT-3.1.4-2] and waits until aedes has forgotten it:
   * a client that is still leaving when the next one registers takes that one's entry with it.
   */
  async #takeOver(clientId: string): Promise<void> {
    const holder = this.#registered.get(clientId)
    if (holder === undefined) return
    const gone = new Promise<void>(resolve => holder.waiting.push(resolve))
    holder.connection.hangUp('takeover')
    await gone
  }

  #infoOf(connection: Connection, username: string | undefined): ClientInfo {
    const { peer, local, listener, certificateName } = connection.origin
    return {
      ...this.#claims.get(connection)!,
      username: certificateName ?? username,
      peer,
      local,
      listener,
      connectedAt: new Date()
    }
  }

  #allowed(connection: Connection, action: Action, topic: string, then: (allowed: boolean) => void): void {
    const identity = this.#identities.get(connection)
    if (identity === undefined) return then(false)
    const verdict = this.#access.authorize(identity, action, topic)
    if (typeof verdict === 'boolean') return then(verdict)
    verdict.then(then, (err: unknown) => {
      this.#log.error('authorize', { err })
      then(false)
    })
  }

  /** Acknowledged and dropped, so that the client does not send it for ever; or the end of the connection. */
  #denied(connection: Connection, packet: PublishPacket, done: (err?: Error | null) => void): void {
    if (connection.destroyed) return done(new Error('not authorized')) // a will
    if (this.#options.aclDenyAction === 'disconnect') {
      connection.because('not_authorized')
      return done(new Error('not authorized'))
    }
    Object.assign(packet, { topic: nowhere, payload: Buffer.alloc(0), retain: false })
    done(null)
  }

  async #passed(connection: Connection, packet: PublishPacket, done: (err?: Error | null) => void): Promise<void> {
    const { topic, payload, qos, retain } = packet as AedesPublishPacket
    const message = {
      topic,
      payload: Buffer.from(payload),
      qos,
      retain,
      from: this.#identities.get(connection)?.client.clientId
    }
    const next = await this.#hooks.pass('message.publish', message)
    if (next === null) return this.#denied(connection, packet, done)
    Object.assign(packet, { topic: next.topic, payload: next.payload, qos: next.qos, retain: next.retain })
    done(null)
  }

  #closed(connection: Connection): void {
    this.#connections.delete(connection)
    const identity = this.#identities.get(connection)
    if (identity === undefined) return
    const { client } = identity
    if (this.#online.get(client.clientId) === connection) this.#online.delete(client.clientId)
    else if (connection.reason !== 'takeover') return // was never in
    const reason = connection.reason ?? 'closed'
    this.#log.info('client disconnected', { ...this.#who(connection), ...subject(client), reason })
    this.#hooks.tell('client.disconnected', client, reason)
  }

  #who({ origin: { peer, listener } }: Connection): object {
    return { peer: `${peer.address}:${peer.port}`, listener }
  }
}

type Claim = Pick<ClientInfo, 'clientId' | 'cleanSession' | 'keepAlive' | 'protocolVersion'>

const subject = ({ clientId, username }: ClientInfo): object => ({ clientId, username })

const connectionOf = (client: Client): Connection => client.conn as Connection
