/**
 * A listener: it accepts sockets, sees to all that comes before MQTT (access rules,
 * PROXY protocol, TLS, WebSocket) and hands each on to `establish`, which knows
 * nothing of all that.
 *
 * Every transport begins with one net.Server, since a PROXY header and the access
 * rules come before the TLS handshake; tls.Server and http.Server never listen
 * themselves but are given sockets.
 */
import type http from 'node:http'
import type net from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type tls from 'node:tls'
import { isDeepStrictEqual } from 'node:util'
import type { EndReason, Peer } from '../base/client-info.js'
import { messageOf } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import type { ListenerOptions, TlsOptions, WebSocketOptions } from '../config/broker-keys.js'
import { showAddress } from '../config/values.js'
import { type Arrival, Arrivals } from './arrivals.js'
import { BoundPort } from './bound-port.js'
import type { Connection, Origin } from './connection.js'
import type { ListenerInfo, ManagedListener } from './listener-info.js'
import { accessOf, isLoopback, unmapIPv4 } from './peer.js'
import { readProxyHeader } from './proxy-protocol.js'
import { CertificateFiles, createTlsServer } from './tls.js'
import { createWebSocketServer, type WebSocketLimits } from './websocket.js'

export type Establish = (transport: Duplex, origin: Origin) => Connection

export interface ListenerContext extends WebSocketLimits {
  readonly establish: Establish
  /** Whether nobody is to come in from an address. */
  readonly banned?: (address: string) => boolean
  /** Told of the peers that do not get as far as MQTT. */
  readonly turnedAway?: (listener: string, peer: Peer, why: string) => void
  /** Resolves a path of the configuration against the broker's home. */
  readonly path: (relative: string) => string
  readonly log: Log
  /** Milliseconds until a peer must have asked for its WebSocket. */
  readonly upgradeTimeout?: number
}

/** Other options of a listener, ready to be put in force. */
export interface PreparedListener {
  /** To be opened first, where the port must be. */
  readonly boundPort: BoundPort | undefined
  /** The certificates are others under the same names. */
  readonly renews: boolean
  apply(): void
  abandon(): void
}

/** How long a peer may take to close its side when the broker stops. */
const closingMs = 500

const nothing = (): void => {}
const quiet: ReadonlySet<EndReason> = new Set(['normal', 'closed', 'shutdown'])

export class Listener implements ManagedListener {
  readonly name: string
  #options: ListenerOptions
  readonly #context: ListenerContext
  #allowed: (address: string) => boolean
  #boundPort: BoundPort | undefined
  #tls: tls.Server | undefined
  #http: http.Server | undefined
  readonly #sockets = new Set<net.Socket>()
  readonly #arrivals = new Arrivals()
  readonly #shutdowns = new Map<EndReason, number>()
  #certificates: CertificateFiles | undefined
  #crowded = false

  constructor(options: ListenerOptions, context: ListenerContext) {
    this.name = `${options.transport}:${options.name}`
    this.#options = options
    this.#context = context
    this.#allowed = accessOf(options.access.values())
    this.#http = options.webSocket === undefined ? undefined : this.#webSocketServer(options.webSocket)
    this.#tls = options.tls === undefined ? undefined : this.#tlsServer(options.tls)
  }

  /** Reads the certificates and binds the port; throws a BrokerError that says who has it where that can be known. */
  async open(): Promise<void> {
    const certificates = this.#readCertificates(this.#options)
    const boundPort = new BoundPort(this.#options)
    try {
      await boundPort.open()
    } catch (err) {
      certificates?.close()
      throw err
    }
    this.#useCertificates(certificates)
    this.#use(boundPort)
  }

  #use(boundPort: BoundPort): void {
    this.#boundPort = boundPort
    boundPort.takenBy(
      socket => this.#accept(socket),
      err => this.#context.log.error('listener failed', { listener: this.name, err })
    )
  }

  get listening(): boolean {
    return this.#boundPort?.listening === true
  }

  get options(): ListenerOptions {
    return this.#options
  }

  /**
   * Prepares other options: reads the certificates and, where the port must be opened anew, can do so. Nothing is
   * changed before apply(), and then no connected client is touched. Throws a BrokerError.
   * @param what `shared`: what all WebSocket listeners have in common has changed as well. `opens`: it is a new one.
   */
  prepare(options: ListenerOptions, { shared = false, opens = false } = {}): PreparedListener {
    const certificates = this.#readCertificates(options)
    const hasNewOptions = !isDeepStrictEqual(options, this.#options)
    const hasNewCertificates =
      certificates !== undefined && !isDeepStrictEqual(certificates.context, this.#certificates?.context)
    const hasNewPort = opens || (this.listening && !isSamePort(options, this.#options))
    const boundPort = hasNewPort ? new BoundPort(options) : undefined
    const isSame = !hasNewOptions && !hasNewCertificates && !hasNewPort && !(shared && this.#http !== undefined)
    return {
      boundPort,
      renews: hasNewCertificates && !hasNewOptions && !opens,
      abandon: () => {
        certificates?.close()
        boundPort?.close()
      },
      apply: () => {
        if (isSame) return certificates?.close()
        this.#options = options
        this.#allowed = accessOf(options.access.values())
        this.#http = options.webSocket === undefined ? undefined : this.#webSocketServer(options.webSocket)
        // Another server has other keys for session tickets: a client that was let in under the old options must show itself.
        this.#tls = options.tls === undefined ? undefined : this.#tlsServer(options.tls)
        const { listening } = this
        this.#useCertificates(certificates)
        if (boundPort === undefined) return listening ? undefined : this.#certificates?.close()
        this.#boundPort?.close()
        this.#use(boundPort)
      }
    }
  }

  /** Frees the port for a moment; what it returns opens it again. */
  suspend(): () => Promise<void> {
    this.#boundPort?.close()
    return async () => {
      const boundPort = new BoundPort(this.#options)
      await boundPort.open()
      this.#use(boundPort)
    }
  }

  /** Whether it is meant by `1883`, `127.0.0.1:1883` or what else info() says of where it listens. */
  answersTo(where: string): boolean {
    const { bind } = this.#options
    return where === showAddress(bind) || where === this.info().bind
  }

  get port(): number {
    return this.#boundPort?.port ?? this.#options.bind.port
  }

  info(): ListenerInfo {
    const { transport, bind, maxClients } = this.#options
    return {
      name: this.name,
      transport,
      bind: showAddress({ ...bind, port: this.port }),
      port: this.port,
      maxClients,
      currentClients: this.#sockets.size,
      shutdownCount: Object.fromEntries(this.#shutdowns)
    }
  }

  /** Accepts no connection any more; those that are open stay. */
  stopAccepting(): void {
    this.#certificates?.close()
    this.#boundPort?.close()
  }

  /**
   * Accepts no connection any more; sockets that are being closed get a moment for that, the others end at once. After
   * `goodbyes` all get it: what is said through TLS and WebSocket is not with the socket yet.
   */
  async close({ goodbyes = false } = {}): Promise<void> {
    this.stopAccepting()
    if (!goodbyes) for (const socket of this.#sockets) if (!socket.writableEnded) socket.destroy()
    const deadline = performance.now() + closingMs
    while (this.#sockets.size > 0 && performance.now() < deadline) await sleep(5)
    for (const socket of this.#sockets) socket.destroy()
  }

  #accept(socket: net.Socket): void {
    const { maxClients, proxyProtocol, proxyProtocolTimeout } = this.#options
    socket.on('error', nothing) // until there is a connection that wants to know
    if (this.#sockets.size >= maxClients) {
      if (!this.#crowded) this.#context.log.warning('max_clients reached', { listener: this.name, maxClients })
      this.#crowded = true
      socket.destroy()
      return
    }
    this.#sockets.add(socket)
    socket.on('close', () => {
      this.#sockets.delete(socket)
      if (this.#sockets.size < maxClients * 0.9) this.#crowded = false
    })
    const peer = { address: unmapIPv4(socket.remoteAddress ?? ''), port: socket.remotePort ?? 0 }
    if (!proxyProtocol) return this.#arrived({ socket, peer, isKnown: true, certificateName: undefined })
    readProxyHeader(socket, proxyProtocolTimeout).then(
      ({ source, certificateName }) => {
        if (socket.destroyed) return
        this.#arrived({ socket, peer: source ?? peer, isKnown: source !== undefined, certificateName })
      },
      (err: unknown) => this.#turnAway(socket, peer, messageOf(err))
    )
  }

  #arrived(arrival: Arrival): void {
    const { socket, peer } = arrival
    if (!this.#allowed(peer.address)) return this.#turnAway(socket, peer, 'denied by an access rule')
    if (this.#context.banned?.(peer.address)) return this.#turnAway(socket, peer, 'banned')
    if (this.#tls !== undefined || this.#http !== undefined) this.#arrivals.add(arrival)
    if (this.#tls !== undefined) {
      this.#expect(arrival, 'TLS handshake', this.#options.tls!.handshakeTimeout)
      this.#tls.emit('connection', socket)
    } else {
      if (this.#http === undefined) this.#hand(socket, arrival, true)
      else this.#speakHttp(socket, arrival)
      socket.resume()
    }
  }

  /** Ends a connection that does not get further in time. */
  #expect(arrival: Arrival, what: string, withinMs: number): void {
    const { socket, peer } = arrival
    this.#arrivals.expect(arrival, withinMs, () => this.#turnAway(socket, peer, `no ${what} within ${withinMs} ms`))
  }

  #turnAway(socket: net.Socket, peer: Peer, why: string): void {
    this.#context.log.warning('turned away', { listener: this.name, peer: `${peer.address}:${peer.port}`, why })
    this.#context.turnedAway?.(this.name, peer, why)
    socket.destroy()
  }

  /** @param ownOrigin false for a web page of another site in a browser, which is not "this host" whatever its address. */
  #hand(transport: Duplex, arrival: Arrival, ownOrigin: boolean): Connection {
    this.#arrivals.done(arrival)
    const { peer, isKnown, certificateName } = arrival
    const { mountpoint, sendTimeout, sendTimeoutClose, rateLimit, peerCertAsUsername } = this.#options
    return this.#context.establish(transport, {
      peer,
      local: ownOrigin && isKnown && isLoopback(peer.address),
      listener: this.name,
      certificateName: peerCertAsUsername === undefined ? undefined : certificateName,
      mountpoint,
      sendTimeout,
      sendTimeoutClose,
      rateLimit,
      ended: this.#ended
    })
  }

  readonly #ended = (reason: EndReason): void => {
    if (!quiet.has(reason)) this.#shutdowns.set(reason, (this.#shutdowns.get(reason) ?? 0) + 1)
  }

  // ── TLS ────────────────────────────────────────────────────────────────────

  #tlsServer(options: TlsOptions): tls.Server {
    return createTlsServer(options, {
      userNamePart: () => this.#options.peerCertAsUsername,
      secured: (socket, certificateName) => {
        const arrival = this.#arrivals.of(socket)
        if (arrival === undefined) return void socket.destroy()
        const secure = { ...arrival, certificateName: certificateName ?? arrival.certificateName }
        if (this.#http === undefined) return void this.#hand(socket, secure, true)
        this.#arrivals.update(socket, secure)
        this.#speakHttp(socket, secure)
      },
      refused: (socket, why) => {
        const arrival = this.#arrivals.of(socket)
        if (arrival === undefined) socket.destroy()
        else this.#turnAway(socket, arrival.peer, why)
      },
      failed: (socket, why) => {
        const peer = this.#arrivals.of(socket)?.peer
        this.#context.log.info('TLS handshake failed', { listener: this.name, peer: peer?.address, why })
        if (peer !== undefined) this.#context.turnedAway?.(this.name, peer, `TLS handshake failed: ${why}`)
      }
    })
  }

  #readCertificates({ tls }: ListenerOptions): CertificateFiles | undefined {
    return tls === undefined
      ? undefined
      : new CertificateFiles(tls, { name: this.name, path: this.#context.path, log: this.#context.log })
  }

  #useCertificates(certificates: CertificateFiles | undefined): void {
    this.#certificates?.close()
    this.#certificates = certificates
    certificates?.serve(this.#tls!)
  }

  // ── WebSocket ──────────────────────────────────────────────────────────────

  #speakHttp(socket: net.Socket, arrival: Arrival): void {
    this.#expect(arrival, 'WebSocket', this.#context.upgradeTimeout ?? 15_000)
    this.#http!.emit('connection', socket)
  }

  #webSocketServer(options: WebSocketOptions): http.Server {
    return createWebSocketServer(options, this.#context, {
      arrivalOf: socket => this.#arrivals.of(socket),
      isAllowed: address => this.#allowed(address),
      establish: (stream, arrival, isOwnOrigin) => this.#hand(stream, arrival, isOwnOrigin),
      failed: err => this.#context.log.debug('bad HTTP request', { listener: this.name, err })
    })
  }
}

/** Whether the port can stay open as it is. */
const isSamePort = (a: ListenerOptions, b: ListenerOptions): boolean =>
  isDeepStrictEqual(a.bind, b.bind) &&
  a.backlog === b.backlog &&
  a.nodelay === b.nodelay &&
  a.proxyProtocol === b.proxyProtocol
