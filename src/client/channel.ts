/**
 * One client's side of the control plane. It reads every packet, speaks the client's
 * version of MQTT, and has aedes decide over CONNECT, SUBSCRIBE, UNSUBSCRIBE, PINGREQ
 * and DISCONNECT: those go to aedes as MQTT 3.1.1, and its answers come back through
 * here, with what only MQTT 5 can say added. Messages never get that far: PUBLISH and
 * its acknowledgements go to the data plane at once.
 *
 * Packets take effect in the order in which they came: while one is being decided,
 * the connection hands on no other.
 */
import { randomUUID } from 'node:crypto'
import type { Admission, Identity } from '../access/access.js'
import type { ClientRef } from '../access/banned.js'
import type { Action, ClientInfo, EndReason } from '../base/client-info.js'
import type { Log } from '../base/log/log.js'
import { RateLimit } from '../base/rate-limit.js'
import type { Dispatcher } from '../delivery/dispatcher.js'
import { Inbound, type PublishPolicy } from '../delivery/inbound.js'
import type { Message } from '../delivery/message.js'
import type { Link } from '../delivery/session/link.js'
import { OutgoingAliases } from '../delivery/session/mqtt-link.js'
import type { Session } from '../delivery/session/session.js'
import type { Connection, Handler } from '../net/connection.js'
import type { Metrics } from '../observe/metrics.js'
import type { TracedConnection } from '../observe/trace/trace.js'
import type { Durability } from '../persistence/persistence.js'
import { type FrameFault, PacketType, strayFlags } from '../wire/frame.js'
import {
  ackWithReason,
  type Connect,
  connack,
  disconnect,
  readAck,
  readAuth,
  readConnect,
  readDisconnect,
  readSubscribe,
  readUnsubscribe,
  type Subscribe,
  type Unsubscribe
} from '../wire/packets.js'
import type { Properties } from '../wire/properties.js'
import { malformed, PacketError, protocolError, Reason, type ReasonCode } from '../wire/reason-codes.js'
import { connectOf, disconnectPlain, pingreq, subscribeOf, unsubscribePlaceholder } from './aedes/packets.js'
import { AedesStream, type Asker } from './aedes/stream.js'
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
import { EnhancedAuth, type EnhancedAuthDeps } from './enhanced-auth.js'
import type { ConnectionRecord } from './history.js'
import type { ChannelOptions } from './options.js'
import type { Opened, Sessions } from './sessions.js'
import { checkAnswer, type Settled, subscribe, unsubscribe } from './subscribe.js'
import { LastWill } from './will.js'

/** What a channel needs of the broker. */
export interface ChannelDeps {
  readonly options: ChannelOptions
  readonly dispatcher: Dispatcher
  readonly sessions: Sessions
  readonly authority: EnhancedAuthDeps
  readonly log: Log
  /** Hands the stream to aedes. */
  handle(stream: AedesStream): void
  authorize(identity: Identity, action: Action, topic: string): boolean | Promise<boolean>
  /** Why somebody may not come in, whoever he proves to be. */
  banned(client: ClientRef): string | undefined
  /** What plugins make of a message; undefined when none listens. */
  readonly filter: ((message: Message) => Promise<Message | null>) | undefined
  /** A publish was denied: true when the connection is to be ended for it. */
  readonly denyDisconnects: boolean
  connected(channel: Channel): void
  /** Once, when its connection is over. */
  closed(channel: Channel): void
  subscribed(channel: Channel, filter: string, qos: number): void
  unsubscribed(channel: Channel, filter: string): void
}

export class Channel implements Handler, PublishPolicy, Link, Asker, TracedConnection {
  readonly connection: Connection
  readonly #control: ChannelDeps
  readonly #metrics: Metrics
  /** Since its CONNECT. */
  #stream: AedesStream | undefined
  #connect: Connect | undefined
  #clientId = ''
  #identity: Identity | undefined
  /** Of a client that named a method. */
  #exchange: EnhancedAuth | undefined
  #session: Session | undefined
  #droppedBefore = 0
  #publisher: Inbound | undefined
  /** What aedes is deciding over. */
  #asked: Subscribe | Unsubscribe | undefined
  /** What MQTT 5 is told in place of the reason of the end. */
  #fault: ReasonCode | undefined
  #saidGoodbye = false
  #willStays = false
  #will: LastWill | undefined
  readonly #rate: RateLimit | undefined
  #pause: NodeJS.Timeout | undefined

  constructor(connection: Connection, control: ChannelDeps) {
    this.connection = connection
    this.#control = control
    this.#metrics = control.dispatcher.metrics
    const rate = control.options.maxPublishRate
    // One less: with each message it is asked how long the next has to wait.
    if (rate !== undefined) this.#rate = new RateLimit({ ...rate, burst: rate.burst - 1 })
  }

  start(): void {
    this.connection.start(this)
  }

  // ── what the data plane asks of it ─────────────────────────────────────────

  get out() {
    return this.connection.out
  }

  /** How it is written to. */
  get version(): 4 | 5 {
    return this.#connect?.version === 5 ? 5 : 4
  }

  receiveMaximum = 65_535
  maximumPacketSize = Number.POSITIVE_INFINITY
  topicAliasMaximum = 0
  aliases: OutgoingAliases | undefined = undefined
  mountpoint = ''

  get maxAwaitingRel(): number {
    return this.#control.options.receiveMaximum
  }

  get maxTopicLevels(): number {
    return this.#control.options.maxTopicLevels
  }

  get checkPayloadFormat(): boolean {
    return this.#control.options.checkPayloadFormat
  }

  get filter() {
    return this.#control.filter
  }

  mayPublish(topic: string): boolean | Promise<boolean> {
    return this.#control.authorize(this.#identity!, 'publish', topic)
  }

  denied(): boolean {
    return this.#control.denyDisconnects
  }

  // ── what the rest of the control plane asks of it ──────────────────────────

  get identity(): Identity | undefined {
    return this.#identity
  }

  get session(): Session | undefined {
    return this.#session
  }

  get clientId(): string {
    return this.#clientId
  }

  /** Who came in by enhanced authentication: aedes need not ask for a password. */
  get proved(): Identity | undefined {
    return this.#exchange?.proved
  }

  /** Messages that its session has dropped during this connection. */
  get dropped(): number {
    return (this.#session?.dropped ?? 0) - this.#droppedBefore
  }

  /** Who it is, or says that it is, for those who look for somebody. */
  get ref(): ClientRef {
    const { peer, certificateName } = this.connection.origin
    const username = this.#identity?.client.username ?? certificateName ?? this.#connect?.username
    return { clientId: this.#clientId, username, address: peer.address }
  }

  get peername(): string {
    const { peer } = this.connection.origin
    return `${peer.address}:${peer.port}`
  }

  topicOfAlias(alias: number, isSent: boolean): string | undefined {
    return isSent ? this.aliases?.topicOf(alias) : this.#publisher?.topicOf(alias)
  }

  /** What more there is to say of the end of its connection. */
  why: string | undefined
  /** Where that is written down, once it is in. */
  record: ConnectionRecord | undefined

  /** Of MQTT; 0 while it has not said. */
  get spoken(): number {
    return this.#connect?.version ?? 0
  }

  /** Whatever it says, also where that was not accepted. */
  get claimedId(): string {
    return this.#clientId === '' ? (this.#connect?.clientId ?? '') : this.#clientId
  }

  /** The operator wants it out. */
  ban(why: string): void {
    this.why = why
    if (this.#publisher !== undefined || this.#connect === undefined) return this.connection.hangUp('banned')
    this.#refuseConnect(new PacketError(Reason.BANNED, why), this.#connect.version)
  }

  /** What CONNECT says of the client, for those who judge it. */
  info(username: string | undefined): ClientInfo {
    const { peer, local, listener, certificateName } = this.connection.origin
    const { cleanStart, version } = this.#connect!
    return {
      clientId: this.#clientId,
      username: certificateName ?? username,
      peer,
      local,
      listener,
      cleanSession: cleanStart,
      keepAlive: this.#keepAlive,
      protocolVersion: version,
      connectedAt: new Date()
    }
  }

  /** aedes asks for the filter by its place in the packet, which is the name that it was given for it. */
  maySubscribe(place: string): boolean | Promise<boolean> {
    const request = (this.#asked as Subscribe).requests[Number(place)]!
    return this.#control.authorize(this.#identity!, 'subscribe', request.filter)
  }

  admitted(admission: Admission): void {
    if (typeof admission !== 'string') this.#identity = admission
  }

  // ── packets ────────────────────────────────────────────────────────────────

  packet(bytes: Buffer, start: number, at: number, end: number): boolean {
    try {
      const type = bytes[start]! >> 4
      if (this.#publisher === undefined) return this.#first(bytes, start, at, end)
      if (type === PacketType.PUBLISH) {
        const wait = this.#publisher.publish(bytes, start, at, end)
        const pause = this.#rate === undefined ? 0 : this.#rate.take(1)
        if (wait === undefined && pause === 0) return true
        this.#after(pause === 0 ? wait! : this.#paused(pause, wait))
        return false
      }
      return this.#other(bytes, start, at, end)
    } catch (err) {
      return this.#wrong(err)
    }
  }

  /** Over mqtt.client.max_publish_rate nothing more of this connection is read for a while. */
  async #paused(ms: number, wait: undefined | Promise<void>): Promise<void> {
    await wait
    await new Promise<void>(resolve => {
      this.#pause = setTimeout(resolve, ms)
    })
  }

  #wrong(err: unknown): false {
    if (!(err instanceof PacketError)) throw err
    const { reason, message } = err
    this.why = message
    this.#control.log.warning('bad packet', { ...this.who(), why: message })
    this.#fault = reason
    this.connection.hangUp(reason === Reason.NOT_AUTHORIZED ? 'not_authorized' : 'protocol_error')
    return false
  }

  #after(wait: Promise<void>): void {
    wait.then(
      () => this.connection.resume(),
      (err: unknown) => {
        if (!this.connection.closed) this.#wrong(err)
      }
    )
  }

  /** The first packet must be CONNECT [MQTT-3.1.0-1]; nothing else is looked at until it is accepted. */
  #first(bytes: Buffer, start: number, at: number, end: number): boolean {
    const type = bytes[start]! >> 4
    if (this.#exchange !== undefined) return this.#beforeConnack(this.#exchange, type, bytes, at, end)
    if (type !== PacketType.CONNECT) throw protocolError('the first packet is not CONNECT')
    this.#metrics.connectReceived++
    try {
      this.#connect = readConnect(bytes, at, end)
    } catch (err) {
      if (!(err instanceof PacketError)) throw err
      return this.#refuseConnect(err, versionSpoken(bytes, at, end))
    }
    const { clientId, version, properties } = this.#connect
    this.maximumPacketSize = properties.maximumPacketSize ?? Number.POSITIVE_INFINITY
    const wrong = faultOf(this.#connect, bytes[start]!, this.#control.options)
    if (wrong !== undefined) return this.#refuseConnect(wrong, version)
    this.#clientId = clientId === '' ? `auto-${randomUUID()}` : clientId // [MQTT-3.1.3-6]
    const ban = this.#control.banned(this.ref)
    if (ban !== undefined) return this.#refuseConnect(new PacketError(Reason.BANNED, ban), version)
    this.receiveMaximum = properties.receiveMaximum ?? 65_535
    this.topicAliasMaximum = this.#control.options.topicAliasMaximum
    const aliases = Math.min(properties.topicAliasMaximum ?? 0, this.topicAliasMaximum)
    if (aliases > 0) this.aliases = new OutgoingAliases(aliases)
    if (properties.authenticationMethod !== undefined) return this.#exchanges(properties.authenticationMethod)
    this.#comesIn()
    return false
  }

  #comesIn(): void {
    this.#stream = new AedesStream(this)
    this.#control.handle(this.#stream)
    this.#stream.push(connectOf(this.#clientId, this.#connect!))
  }

  /** CONNECT waits for what an exchange comes to; its packets are taken meanwhile. */
  #exchanges(method: string): boolean {
    const { username, properties } = this.#connect!
    this.#exchange = new EnhancedAuth(method, this.#control.authority, {
      maximumPacketSize: this.maximumPacketSize,
      certificateName: this.connection.origin.certificateName,
      gone: () => this.connection.closed,
      write: bytes => {
        this.#metrics.authSent++
        this.out.write(bytes)
      },
      admitted: identity => {
        if (this.#publisher === undefined) {
          const { username } = identity.client // which nobody knew before
          const ban = this.#control.banned({ ...this.ref, username })
          if (ban === undefined) return this.#comesIn()
          return void this.#refuseConnect(new PacketError(Reason.BANNED, ban), 5)
        }
        this.#identity = identity
        this.#control.log.info('client authenticated anew', this.who())
      },
      refused: err => {
        if (this.#publisher === undefined) return void this.#refuseConnect(err, 5)
        this.why = err.message
        this.#control.log.warning('re-authentication failed', { ...this.who(), why: err.message })
        this.#fault = err.reason
        this.connection.hangUp('not_authorized')
      }
    })
    try {
      this.#exchange.connect(this.info(username), properties.authenticationData)
      return true
    } catch (err) {
      if (!(err instanceof PacketError)) throw err
      return this.#refuseConnect(err, 5)
    }
  }

  /** A client with a method sends nothing but AUTH and DISCONNECT before it has CONNACK [MQTT-3.1.2-30]. */
  #beforeConnack(exchange: EnhancedAuth, type: number, bytes: Buffer, at: number, end: number): boolean {
    try {
      if (type === PacketType.AUTH) {
        this.#metrics.authReceived++
        exchange.auth(readAuth(bytes, at, end), undefined)
      } else if (type !== PacketType.DISCONNECT) throw protocolError(`packet type ${type} before CONNACK`)
      else {
        readDisconnect(bytes, at, end, 5)
        this.#metrics.disconnectReceived++
        this.connection.hangUp('normal')
      }
      return true
    } catch (err) {
      if (!(err instanceof PacketError)) throw err
      return this.#refuseConnect(err, 5)
    }
  }

  #refuseConnect({ reason, message }: PacketError, version: number | undefined): false {
    this.why = message
    const id = this.#connect?.clientId.slice(0, 64) ?? '' // not accepted, and as long as it likes
    const claimed = id === '' ? {} : { clientId: id }
    this.#control.log.warning('CONNECT refused', { ...this.who(), ...claimed, why: message })
    const code = refusalCode(reason, version)
    if (version !== undefined && code !== undefined) {
      this.#sendConnack(connack(version === 5 ? 5 : 4, false, code))
    }
    this.connection.hangUp(code === undefined ? 'protocol_error' : 'refused')
    return false
  }

  #other(bytes: Buffer, start: number, at: number, end: number): boolean {
    const version = this.#connect!.version
    const type = bytes[start]! >> 4
    if (version !== 3 && strayFlags(bytes[start]!)) throw malformed('flags of a packet') // [MQTT-2.1.3-1]
    switch (type) {
      case PacketType.PUBACK:
      case PacketType.PUBREC:
      case PacketType.PUBREL:
      case PacketType.PUBCOMP:
        this.#acknowledged(type, bytes, at, end)
        return true
      case PacketType.SUBSCRIBE:
        this.#asked = readSubscribe(bytes, at, end, version)
        this.#metrics.subscribeReceived++
        checkAnswer(this.#asked.requests.length, this.maximumPacketSize)
        this.#stream!.push(subscribeOf(this.#asked))
        return false
      case PacketType.UNSUBSCRIBE:
        this.#asked = readUnsubscribe(bytes, at, end, version)
        this.#metrics.unsubscribeReceived++
        checkAnswer(this.#asked.filters.length, this.maximumPacketSize)
        this.#stream!.push(unsubscribePlaceholder)
        return false
      case PacketType.PINGREQ:
        if (at !== end) throw malformed('PINGREQ')
        this.#metrics.pingreqReceived++
        this.#stream!.push(pingreq)
        return true
      case PacketType.DISCONNECT:
        this.#disconnect(bytes, at, end)
        return false
      case PacketType.AUTH:
        if (this.#exchange === undefined) throw protocolError('AUTH without a method in CONNECT') // [MQTT-4.12.0-7]
        this.#metrics.authReceived++
        this.#exchange.auth(readAuth(bytes, at, end), this.#identity)
        return true
      default: // a second CONNECT [MQTT-3.1.0-2]
        throw protocolError(`packet type ${type} where it must not be`)
    }
  }

  #acknowledged(type: number, bytes: Buffer, at: number, end: number): void {
    let packetId: number
    let reason = 0
    if (end - at === 2) {
      packetId = (bytes[at]! << 8) | bytes[at + 1]!
      if (packetId === 0) throw protocolError('packet identifier 0')
    } else {
      ;({ packetId, reason } = readAck(type, bytes, at, end, this.#connect!.version))
    }
    const session = this.#session!
    const metrics = this.#metrics
    if (type === PacketType.PUBACK) {
      metrics.pubackReceived++
      if (!session.acknowledged(packetId)) metrics.pubackMissed++
    } else if (type === PacketType.PUBCOMP) {
      metrics.pubcompReceived++
      if (!session.completed(packetId)) metrics.pubcompMissed++
    } else if (type === PacketType.PUBREC) {
      metrics.pubrecReceived++
      if (session.received(packetId, reason >= 0x80)) return
      metrics.pubrecMissed++
      if (reason >= 0x80) return
      metrics.pubrelSent++
      this.#answer(0x62, packetId)
    } else {
      metrics.pubrelReceived++
      const { persistence } = this.#control.dispatcher
      persistence?.gather()
      const known = this.#publisher!.release(packetId)
      const durability = persistence?.gathered()
      if (!known) {
        metrics.pubrelMissed++
        this.#when(durability, () => {
          metrics.pubcompSent++
          this.#answer(0x70, packetId)
        })
      } else if (durability === undefined) this.#complete(packetId)
      else this.#when(durability, () => this.#complete(packetId))
    }
  }

  #complete(packetId: number): void {
    this.#metrics.pubcompSent++
    this.out.acknowledge(0x70, packetId)
  }

  /** PUBREL or PUBCOMP for an id that nobody knows: MQTT 5 says so, MQTT 3 goes on as if it did [MQTT-4.3.3-11]. */
  #answer(header: number, packetId: number): void {
    if (this.version !== 5) return this.out.acknowledge(header, packetId)
    const bytes = ackWithReason(header, packetId, Reason.PACKET_IDENTIFIER_NOT_FOUND)
    this.out.write(bytes)
  }

  #disconnect(bytes: Buffer, at: number, end: number): void {
    const { reason, properties } = readDisconnect(bytes, at, end, this.#connect!.version)
    this.#metrics.disconnectReceived++
    const { sessionExpiryInterval } = properties
    if (sessionExpiryInterval !== undefined) {
      if (sessionExpiryInterval > 0 && (this.#connect!.properties.sessionExpiryInterval ?? 0) === 0) {
        throw protocolError('a session expiry where CONNECT had none') // [MQTT-3.14.2-2]
      }
      this.#control.sessions.setExpiry(this.#clientId, this.#capped(sessionExpiryInterval))
    }
    this.#saidGoodbye = true
    this.#willStays = reason !== 0 // [MQTT-3.14.4-3]
    this.connection.hangUp('normal') // before aedes does, with another reason
    this.#stream!.push(disconnectPlain)
  }

  #capped(seconds: number): number {
    return Math.min(seconds, this.#control.options.sessionExpiry)
  }

  // ── aedes' answers ─────────────────────────────────────────────────────────

  ended(): void {
    this.connection.hangUp('closed')
  }

  answered(packet: Buffer): void {
    if (this.connection.closed) return
    switch (packet[0]! >> 4) {
      case PacketType.CONNACK:
        return this.#connackFromAedes(packet[3]!)
      case PacketType.SUBACK:
        return this.#subackFromAedes(packet)
      case PacketType.UNSUBACK:
        return this.#unsubackFromAedes()
      case PacketType.PINGRESP:
        this.#metrics.pingrespSent++
        return this.out.write(packet)
    }
  }

  /** Not over what the client takes [MQTT-3.1.2-24]. */
  #sendConnack(answer: Buffer): void {
    if (answer.length > this.maximumPacketSize) return
    this.#metrics.connackSent++
    this.out.write(answer)
  }

  #connackFromAedes(code: number): void {
    const connect = this.#connect!
    const { version, cleanStart, will } = connect
    if (code !== 0 || this.#identity === undefined) {
      this.#sendConnack(connack(version, false, version === 5 ? reasonOfCode(code) : code))
      this.connection.hangUp('refused')
      return
    }
    const asked = expiryAsked(connect, this.#control.options)
    const expiry = this.#capped(asked)
    this.mountpoint = mountpointOf(this.connection.origin.mountpoint, this.#identity.client)
    const promises = this.#promises(asked, expiry)
    const size = connack(version, false, 0, promises).length
    if (size > this.maximumPacketSize) {
      // Of its properties none may be left out; without its CONNACK a client is not in [MQTT-3.2.0-1].
      this.why = `CONNACK has ${size} bytes, the client takes ${this.maximumPacketSize}`
      this.#control.log.warning('CONNECT refused', { ...this.who(), why: `CONNACK has ${size} bytes` })
      this.connection.hangUp('refused')
      return
    }
    if (will !== undefined) this.#will = new LastWill(will, this.#identity, this.mountpoint, this.#control)
    const opened = this.#control.sessions.open(this.#clientId, cleanStart, expiry, this.#will)
    this.#session = opened.session
    this.#when(opened.durability, () => this.#enter(opened, promises))
  }

  /** @param done when what was asked for is on disk; not at all when the connection is gone by then. */
  #when(durability: Durability | undefined, done: () => void): void {
    if (durability?.isOpen !== true) return done()
    durability.settled = {
      durabilitySettled: () => {
        if (!this.connection.closed) done()
      }
    }
  }

  #enter({ session, present }: Opened, promises: Properties): void {
    const { version } = this.#connect!
    this.#droppedBefore = session.dropped
    this.#sendConnack(connack(version, present && version !== 3, 0, promises))
    this.#publisher = new Inbound(this.#control.dispatcher, session, this.out, this, version === 5)
    this.connection.established(this.#keepAlive * 1000 * this.#control.options.keepaliveBackoff * 2)
    this.#control.connected(this)
    session.attach(this)
    this.connection.resume()
  }

  /** Seconds. */
  get #keepAlive(): number {
    return keepAliveOf(this.#connect!, this.#control.options)
  }

  #promises(askedExpiry: number, expiry: number): Properties {
    const connect = this.#connect!
    if (connect.version !== 5) return {}
    const promises = promisesOf(connect, this.#control.options, this.#clientId, askedExpiry, expiry)
    return { ...promises, ...this.#exchange?.lastWords } // [MQTT-4.12.0-5], [MQTT-4.12.0-6]
  }

  #subackFromAedes(packet: Buffer): void {
    const asked = this.#asked as Subscribe
    const granted = packet.subarray(packet.length - asked.requests.length)
    this.#settle(subscribe(this, this.#session!, this.#connect!.version, asked, granted, this.#control))
  }

  #unsubackFromAedes(): void {
    const asked = this.#asked as Unsubscribe
    this.#settle(unsubscribe(this, this.#session!, this.#connect!.version, asked, this.#control))
  }

  /** What the client asked for is done; it is told so once that is on disk. */
  #settle({ durability, answer, after }: Settled): void {
    this.#when(durability, () => {
      this.out.write(answer())
      this.#asked = undefined
      after?.()
      this.connection.resume()
    })
  }

  // ── the connection ─────────────────────────────────────────────────────────

  fault(fault: FrameFault, why: string): void {
    this.why = why
    this.#control.log.warning('bad packet', { ...this.who(), why })
    this.#fault = reasonOfFault[fault]
  }

  drained(): void {
    this.#session?.pump()
  }

  lastWords(reason: EndReason): Buffer | undefined {
    if (this.#publisher === undefined || this.version !== 5) return undefined
    const code = this.#fault ?? reasonOfEnd[reason]
    if (code === undefined) return undefined
    this.#metrics.disconnectSent++
    return disconnect(code)
  }

  closed(): void {
    this.#stream?.destroy()
    this.#exchange?.end()
    clearTimeout(this.#pause)
    const session = this.#session
    if (session !== undefined) {
      this.#control.sessions.leave(session, this.#saidGoodbye && !this.#willStays ? undefined : this.#will)
    }
    this.#control.closed(this)
  }

  who(): object {
    const { peer, listener } = this.connection.origin
    const id = this.#clientId === '' ? {} : { clientId: this.#clientId }
    return { peer: `${peer.address}:${peer.port}`, listener, ...id }
  }
}
