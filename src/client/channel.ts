/**
 * One client's side of the protocol: a state, and for each state the packets that may come in it. CONNECT is read from
 * top to bottom in one function; who may come in and what is granted is decided by the policy, access and sessions.
 * Messages never get that far: PUBLISH and its acknowledgements go to the data plane at once.
 *
 * Packets take effect in the order in which they came: while one is being decided, the connection hands on no other.
 * The file is longer than others, so that the protocol of one client is read in one place, from its first packet to its last.
 */
import { randomUUID } from 'node:crypto'
import type { Identity } from '../access/access.js'
import type { EndReason } from '../base/client-info.js'
import type { ClientRef } from '../base/client-ref.js'
import { RateLimit } from '../base/rate-limit.js'
import { Inbound, type PublishPolicy } from '../delivery/inbound.js'
import { type Link, OutgoingAliases } from '../delivery/session/link.js'
import type { Session } from '../delivery/session/session.js'
import type { Connection, Handler } from '../net/connection.js'
import type { Metrics } from '../observe/metrics.js'
import { settled } from '../persistence/durability.js'
import { type FrameFault, PacketType, strayFlags } from '../wire/frame.js'
import {
  type Connect,
  connack,
  disconnect,
  readAuth,
  readConnect,
  readDisconnect,
  readSubscribe,
  readUnsubscribe,
  type Subscribe,
  type Unsubscribe,
  type Version
} from '../wire/packets.js'
import { malformed, PacketError, protocolError, Reason, type ReasonCode } from '../wire/reason-codes.js'
import type { PolicyClient } from './aedes/policy.js'
import { ClientCard } from './card.js'
import type { ChannelDeps } from './channel-deps.js'
import {
  expiryAsked,
  faultOf,
  keepAliveOf,
  mountpointOf,
  promisesOf,
  reasonOfCode,
  refusalCode,
  versionSpoken
} from './connect.js'
import { reasonOfEnd, reasonOfFault } from './disconnect.js'
import type { EnhancedAuth } from './enhanced-auth.js'
import type { ConnectionRecord } from './history.js'
import { Login } from './login.js'
import { checkAnswer, type Settled, type SubscribeDeps, subscribe, unsubscribe } from './subscribe.js'
import { LastWill } from './will.js'

/** A packet that may come in a state; false: no more of them until the connection resumes. */
type PacketHandler = (channel: Channel, bytes: Buffer, start: number, at: number, end: number) => boolean

/** By packet type. What is not there must not come. */
type PacketHandlers = readonly (PacketHandler | undefined)[]

/** What a client may send in each state of its connection. */
let beforeConnect: PacketHandlers
let authenticating: PacketHandlers
let connected: PacketHandlers

export class Channel implements Handler, PublishPolicy, PolicyClient {
  readonly connection: Connection
  readonly card: ClientCard
  /** How the client is written to. */
  readonly link: {
    -readonly [K in keyof Link]: Link[K]
  }
  readonly #deps: ChannelDeps<Channel>
  readonly #metrics: Metrics
  #handlers: PacketHandlers
  /** The client's CONNECT and its identity by that, until it is in. */
  #login: Login | undefined
  /** Of a client that named a method. */
  #auth: EnhancedAuth | undefined
  #session: Session | undefined
  #droppedBefore = 0
  /** Once it is in. */
  #inbound: Inbound | undefined
  /** Of a session that ends with its connection, DISCONNECT must not make more [MQTT-3.14.2-2]. */
  #expiryAsked = 0
  /** What MQTT 5 is told in place of the reason of the end. */
  #fault: ReasonCode | undefined
  /** It has said DISCONNECT: its will is not sent. */
  #isWillOff = false
  #will: LastWill | undefined
  readonly #rate: RateLimit | undefined
  #pause: NodeJS.Timeout | undefined
  place: PolicyClient['place']
  topicAliasMaximum = 0
  /** Where its connection is written down, once it is in. */
  record: ConnectionRecord | undefined

  constructor(connection: Connection, deps: ChannelDeps<Channel>) {
    this.connection = connection
    this.card = new ClientCard(connection.origin)
    this.link = {
      out: connection.out,
      version: 4,
      receiveMaximum: 65_535,
      maximumPacketSize: Number.POSITIVE_INFINITY,
      aliases: undefined,
      mountpoint: ''
    }
    this.#deps = deps
    this.#handlers = beforeConnect
    this.#metrics = deps.ingress.dispatcher.metrics
    const rate = deps.options.maxPublishRate
    // One less: with each message it is asked how long the next has to wait.
    if (rate !== undefined) this.#rate = new RateLimit({ ...rate, burst: rate.burst - 1 })
  }

  start(): void {
    this.connection.start(this)
  }

  // ── packets ────────────────────────────────────────────────────────────────

  packet(bytes: Buffer, start: number, at: number, end: number): boolean {
    const type = bytes[start]! >> 4
    try {
      if (type === PacketType.PUBLISH && this.#inbound !== undefined) {
        const wait = this.#inbound.publish(bytes, start, at, end)
        const pause = this.#rate === undefined ? 0 : this.#rate.take(1)
        if (wait === undefined && pause === 0) return true
        this.#after(pause === 0 ? wait! : this.#paused(pause, wait))
        return false
      }
      const handle = this.#handlers[type]
      if (handle === undefined) throw this.#unexpected(type)
      return handle(this, bytes, start, at, end)
    } catch (err) {
      if (!(err instanceof PacketError)) throw err
      if (this.#inbound === undefined) this.#refuse(err)
      else this.#wrong(err)
      return false
    }
  }

  #unexpected(type: number): PacketError {
    if (this.#inbound !== undefined) return protocolError(`packet type ${type} where it must not be`)
    if (this.#auth !== undefined) return protocolError(`packet type ${type} before CONNACK`) // [MQTT-3.1.2-30]
    return protocolError('the first packet is not CONNECT') // [MQTT-3.1.0-1]
  }

  /** Over mqtt.client.max_publish_rate nothing more of this connection is read for a while. */
  async #paused(ms: number, wait: undefined | Promise<void>): Promise<void> {
    await wait
    await new Promise<void>(resolve => {
      this.#pause = setTimeout(resolve, ms)
    })
  }

  /** What the packet asks for is done later; no other is taken before. */
  #after(wait: Promise<void>): void {
    wait.then(
      () => this.connection.resume(),
      (err: unknown) => {
        if (!(err instanceof PacketError)) throw err
        if (!this.connection.closed) this.#wrong(err)
      }
    )
  }

  /** A client that is in has sent something wrong. */
  #wrong({ reason, message }: PacketError): void {
    this.card.why = message
    this.#deps.log.warning('bad packet', { ...this.card.fields, why: message })
    this.#fault = reason
    this.connection.hangUp(reason === Reason.NOT_AUTHORIZED ? 'not_authorized' : 'protocol_error')
  }

  static {
    /** The first packet must be CONNECT [MQTT-3.1.0-1]; nothing else is looked at until it is accepted. */
    beforeConnect = table({
      [PacketType.CONNECT]: (channel, bytes, start, at, end) => {
        channel.#metrics.connectReceived++
        let connect: Connect
        try {
          connect = readConnect(bytes, at, end)
        } catch (err) {
          channel.card.version = versionSpoken(bytes, at, end) ?? 0
          throw err
        }
        void channel.#enter(connect, bytes[start]!)
        return channel.#auth !== undefined // whose packets are taken meanwhile
      }
    })

    /** A client with a method sends nothing but AUTH and DISCONNECT before it has CONNACK [MQTT-3.1.2-30]. */
    authenticating = table({
      [PacketType.AUTH]: (channel, bytes, _start, at, end) => {
        channel.#metrics.authReceived++
        channel.#auth!.auth(readAuth(bytes, at, end), undefined)
        return true
      },
      [PacketType.DISCONNECT]: (channel, bytes, _start, at, end) => {
        readDisconnect(bytes, at, end, 5)
        channel.#metrics.disconnectReceived++
        channel.connection.hangUp('normal')
        return true
      }
    })

    const acknowledged: PacketHandler = (channel, bytes, start, at, end) => {
      channel.#checkFlags(bytes[start]!)
      channel.#inbound!.acknowledged(bytes[start]! >> 4, bytes, at, end)
      return true
    }

    connected = table({
      [PacketType.PUBACK]: acknowledged,
      [PacketType.PUBREC]: acknowledged,
      [PacketType.PUBREL]: acknowledged,
      [PacketType.PUBCOMP]: acknowledged,
      [PacketType.SUBSCRIBE]: (channel, bytes, start, at, end) => {
        channel.#checkFlags(bytes[start]!)
        const asked = readSubscribe(bytes, at, end, channel.#version)
        channel.#metrics.subscribeReceived++
        checkAnswer(asked.requests.length, channel.link.maximumPacketSize)
        channel.#after(channel.#subscribe(asked))
        return false
      },
      [PacketType.UNSUBSCRIBE]: (channel, bytes, start, at, end) => {
        channel.#checkFlags(bytes[start]!)
        const asked = readUnsubscribe(bytes, at, end, channel.#version)
        channel.#metrics.unsubscribeReceived++
        checkAnswer(asked.filters.length, channel.link.maximumPacketSize)
        channel.#after(channel.#unsubscribe(asked))
        return false
      },
      [PacketType.PINGREQ]: (channel, bytes, start, at, end) => {
        channel.#checkFlags(bytes[start]!)
        if (at !== end) throw malformed('PINGREQ')
        channel.#metrics.pingreqReceived++
        channel.#metrics.pingrespSent++
        channel.link.out.write(pingresp)
        return true
      },
      [PacketType.DISCONNECT]: (channel, bytes, start, at, end) => {
        channel.#checkFlags(bytes[start]!)
        channel.#disconnect(bytes, at, end)
        return false
      },
      [PacketType.AUTH]: (channel, bytes, start, at, end) => {
        channel.#checkFlags(bytes[start]!)
        if (channel.#auth === undefined) throw protocolError('AUTH without a method in CONNECT') // [MQTT-4.12.0-7]
        channel.#metrics.authReceived++
        channel.#auth.auth(readAuth(bytes, at, end), channel.card.identity)
        return true
      }
    })
  }

  /** MQTT 3.1 leaves the flags open [MQTT-2.1.3-1]. */
  #checkFlags(header: number): void {
    if (this.card.version !== 3 && strayFlags(header)) throw malformed('flags of a packet')
  }

  get #version(): Version {
    return this.card.version as Version
  }

  // ── CONNECT ────────────────────────────────────────────────────────────────

  /** CONNECT, from its checks to CONNACK. @param header its first byte. */
  async #enter(connect: Connect, header: number): Promise<void> {
    const { card, link } = this
    const { options, policy, sessions } = this.#deps
    const { clientId, version, cleanStart, will, properties } = connect
    try {
      card.version = version
      card.claimedId = clientId
      card.claimedUsername = connect.username
      link.maximumPacketSize = properties.maximumPacketSize ?? Number.POSITIVE_INFINITY
      const fault = faultOf(connect, header, options)
      if (fault !== undefined) throw fault
      card.clientId = clientId === '' ? `auto-${randomUUID()}` : clientId // [MQTT-3.1.3-6]
      this.#checkBan(card.ref)
      if (version === 5) link.version = 5
      link.receiveMaximum = properties.receiveMaximum ?? 65_535
      this.topicAliasMaximum = options.topicAliasMaximum
      const aliases = Math.min(properties.topicAliasMaximum ?? 0, options.topicAliasMaximum)
      if (aliases > 0) link.aliases = new OutgoingAliases(aliases)

      const login = new Login(connect, card, this.#deps)
      this.#login = login
      const { authenticationMethod, authenticationData } = properties
      if (authenticationMethod !== undefined) {
        const proved = this.#proveIdentity(login, authenticationMethod, authenticationData)
        this.#auth = login.exchange
        const { client } = await proved // its packets are taken meanwhile
        this.#checkBan({ ...card.ref, username: client.username }) // which nobody knew before
      }
      const code = await policy.connect(this)
      if (code === undefined || this.connection.closed) return
      const { identity } = card
      if (code !== 0 || identity === undefined) {
        this.#sendConnack(connack(version, false, version === 5 ? reasonOfCode(code) : code))
        return this.connection.hangUp('refused')
      }

      const askedExpiry = expiryAsked(connect, options)
      const expiry = this.#capped(askedExpiry)
      const promised = version === 5 ? promisesOf(connect, options, card.clientId, askedExpiry, expiry) : {}
      const promises = { ...promised, ...this.#auth?.lastWords } // [MQTT-4.12.0-5], [MQTT-4.12.0-6]
      const size = connack(version, false, 0, promises).length
      if (size > link.maximumPacketSize) {
        // Of its properties none may be left out; without its CONNACK a client is not in [MQTT-3.2.0-1].
        card.why = `CONNACK has ${size} bytes, the client takes ${link.maximumPacketSize}`
        this.#deps.log.warning('CONNECT refused', { ...card.fields, why: `CONNACK has ${size} bytes` })
        return this.connection.hangUp('refused')
      }
      link.mountpoint = mountpointOf(card.origin.mountpoint, identity.client)
      if (will !== undefined) this.#will = new LastWill(will, identity, link.mountpoint, this.#deps)
      const { session, present, durability } = sessions.open(card.clientId, cleanStart, expiry, this.#will)
      this.#session = session
      if (durability?.isOpen) await settled(durability)
      if (this.connection.closed) return

      this.#login = undefined
      this.#expiryAsked = properties.sessionExpiryInterval ?? 0
      this.#droppedBefore = session.dropped
      this.#sendConnack(connack(version, present && version !== 3, 0, promises))
      this.#inbound = new Inbound(this.#deps.ingress, session, link.out, this, version)
      this.#handlers = connected
      this.connection.established(keepAliveOf(connect, options) * 1000 * options.keepaliveBackoff * 2)
      this.#deps.connected(this)
      policy.entered(this)
      session.attach(link)
      this.connection.resume()
    } catch (err) {
      if (!(err instanceof PacketError)) throw err
      if (!this.connection.closed) this.#refuse(err)
    }
  }

  /** The exchange of a client that names a method; rejects with a PacketError when it does not show who it is. */
  #proveIdentity(login: Login, method: string, data: Buffer | undefined): Promise<Identity> {
    this.#handlers = authenticating
    return login.prove(method, data, {
      maximumPacketSize: this.link.maximumPacketSize,
      certificateName: this.card.origin.certificateName,
      gone: () => this.connection.closed,
      write: bytes => {
        this.#metrics.authSent++
        this.link.out.write(bytes)
      },
      provedAnew: identity => {
        this.card.identity = identity
        this.#deps.log.info('client authenticated anew', this.card.fields)
      },
      failedAnew: err => {
        this.card.why = err.message
        this.#deps.log.warning('re-authentication failed', { ...this.card.fields, why: err.message })
        this.#fault = err.reason
        this.connection.hangUp('not_authorized')
      }
    })
  }

  /** The policy asks who the client is. */
  authenticate(): number | undefined | Promise<number | undefined> {
    return this.#login!.authenticate()
  }

  #checkBan(client: ClientRef): void {
    const ban = this.#deps.banned(client)
    if (ban !== undefined) throw new PacketError(Reason.BANNED, ban)
  }

  /** CONNECT is refused with the reason, where the client's version has a word for it. */
  #refuse({ reason, message }: PacketError): void {
    const { card } = this
    card.why = message
    const id = card.claimedId.slice(0, 64) // not accepted, and as long as it likes
    const claimed = id === '' ? {} : { clientId: id }
    this.#deps.log.warning('CONNECT refused', { ...card.fields, ...claimed, why: message })
    const code = card.version === 0 ? undefined : refusalCode(reason, card.version)
    if (code !== undefined) this.#sendConnack(connack(card.version === 5 ? 5 : 4, false, code))
    this.connection.hangUp(code === undefined ? 'protocol_error' : 'refused')
  }

  /** Not over what the client takes [MQTT-3.1.2-24]. */
  #sendConnack(answer: Buffer): void {
    if (answer.length > this.link.maximumPacketSize) return
    this.#metrics.connackSent++
    this.link.out.write(answer)
  }

  #capped(seconds: number): number {
    return Math.min(seconds, this.#deps.options.sessionExpiry)
  }

  // ── SUBSCRIBE, UNSUBSCRIBE, DISCONNECT ─────────────────────────────────────

  get #subscribing(): SubscribeDeps {
    const { ingress, options, subscribed, unsubscribed } = this.#deps
    const { client } = this.card.identity!
    return {
      dispatcher: ingress.dispatcher,
      session: this.#session!,
      version: this.#version,
      mountpoint: this.link.mountpoint,
      options,
      subscribed: (filter, qos) => subscribed(client, filter, qos),
      unsubscribed: filter => unsubscribed(client, filter)
    }
  }

  async #subscribe(asked: Subscribe): Promise<void> {
    const filters = asked.requests.map(({ filter }) => filter)
    const granted = await this.#deps.policy.subscribe(this, filters)
    if (granted === undefined || this.connection.closed) return
    await this.#answer(subscribe(asked, granted, this.#subscribing))
  }

  async #unsubscribe(asked: Unsubscribe): Promise<void> {
    const isThere = await this.#deps.policy.unsubscribe(this)
    if (!isThere || this.connection.closed) return
    await this.#answer(unsubscribe(asked, this.#subscribing))
  }

  /** What the client asked for is done; it is told so once that is on disk. */
  async #answer({ durability, answer, after }: Settled): Promise<void> {
    if (durability?.isOpen) await settled(durability)
    if (this.connection.closed) return
    this.link.out.write(answer())
    after?.()
  }

  /** The policy asks whether a filter is granted. */
  authorizeSubscribe(filter: string): boolean | Promise<boolean> {
    return this.#deps.authorize(this.card.identity!, 'subscribe', filter)
  }

  #disconnect(bytes: Buffer, at: number, end: number): void {
    const { reason, properties } = readDisconnect(bytes, at, end, this.#version)
    this.#metrics.disconnectReceived++
    const { sessionExpiryInterval } = properties
    if (sessionExpiryInterval !== undefined) {
      if (sessionExpiryInterval > 0 && this.#expiryAsked === 0) {
        throw protocolError('a session expiry where CONNECT had none') // [MQTT-3.14.2-2]
      }
      this.#deps.sessions.setExpiry(this.card.clientId, this.#capped(sessionExpiryInterval))
    }
    this.#isWillOff = reason === 0 // [MQTT-3.14.4-3]
    this.connection.hangUp('normal') // before the policy does, with another reason
    this.#deps.policy.leave(this)
  }

  // ── what the data plane asks of it ─────────────────────────────────────────

  get isClosed(): boolean {
    return this.connection.closed
  }

  get mountpoint(): string {
    return this.link.mountpoint
  }

  get maxAwaitingRel(): number {
    return this.#deps.options.receiveMaximum
  }

  get maxTopicLevels(): number {
    return this.#deps.options.maxTopicLevels
  }

  get checkPayloadFormat(): boolean {
    return this.#deps.options.checkPayloadFormat
  }

  mayPublish(topic: string): boolean | Promise<boolean> {
    return this.#deps.authorize(this.card.identity!, 'publish', topic)
  }

  denied(): boolean {
    return this.#deps.denyDisconnects
  }

  // ── what the rest of the broker asks of it ─────────────────────────────────

  get clientId(): string {
    return this.card.clientId
  }

  get identity(): Identity | undefined {
    return this.card.identity
  }

  get session(): Session | undefined {
    return this.#session
  }

  /** Messages that its session has dropped during this connection. */
  get dropped(): number {
    return (this.#session?.dropped ?? 0) - this.#droppedBefore
  }

  topicOfAlias(alias: number, isSent: boolean): string | undefined {
    return isSent ? this.link.aliases?.topicOf(alias) : this.#inbound?.topicOf(alias)
  }

  /** The operator wants it out. */
  ban(why: string): void {
    this.card.why = why
    if (this.#login === undefined) return this.connection.hangUp('banned')
    this.#refuse(new PacketError(Reason.BANNED, why))
  }

  // ── the connection ─────────────────────────────────────────────────────────

  get from(): string {
    return `${this.card.peername} on ${this.card.origin.listener}`
  }

  giveWayTo({ from }: { readonly from: string }): void {
    this.card.why ??= `by ${from}`
    this.connection.hangUp('takeover')
  }

  /** The policy has ended the connection, or we have. */
  ended(): void {
    this.connection.hangUp('closed')
  }

  fault(fault: FrameFault, why: string): void {
    this.card.why = why
    this.#deps.log.warning('bad packet', { ...this.card.fields, why })
    this.#fault = reasonOfFault[fault]
  }

  drained(): void {
    this.#session?.pump()
  }

  lastWords(reason: EndReason): Buffer | undefined {
    if (this.#inbound === undefined || this.link.version !== 5) return undefined
    const code = this.#fault ?? reasonOfEnd[reason]
    if (code === undefined) return undefined
    this.#metrics.disconnectSent++
    return disconnect(code)
  }

  closed(): void {
    this.#deps.policy.gone(this)
    this.#auth?.end()
    clearTimeout(this.#pause)
    if (this.#session !== undefined) this.#deps.sessions.leave(this.#session, this.#isWillOff ? undefined : this.#will)
    this.#deps.closed(this)
  }
}

const pingresp = Buffer.from([0xd0, 0])

/** A handler for each of the 16 types there are. */
function table(handlers: Readonly<Partial<Record<number, PacketHandler>>>): PacketHandlers {
  return Array.from({ length: 16 }, (_, type) => handlers[type])
}
