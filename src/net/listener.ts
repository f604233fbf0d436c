/**
 * A network boundPort: it accepts sockets, sees to all that comes before MQTT (access
 * rules, PROXY protocol, TLS, WebSocket) and hands each on to `establish`, which
 * knows nothing of all that.
 *
 * Every transport begins with one net.Server, since a PROXY header and the access
 * rules come before the TLS handshake; tls.Server and http.Server never listen
 * themselves but are given sockets.
 */
import { constants, type X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import type net from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import tls from 'node:tls'
import { isDeepStrictEqual } from 'node:util'
import { createWebSocketStream, type WebSocket, WebSocketServer } from 'ws'
import type { EndReason, Peer } from '../base/client-info.js'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import type { ListenerOptions, TlsOptions, WebSocketOptions } from '../config/broker-keys.js'
import { showAddress, within } from '../config/values.js'
import { BoundPort } from './bound-port.js'
import { certificateDaysLeft, watchFiles } from './certificates.js'
import type { Connection, Origin } from './connection.js'
import type { ListenerInfo, ManagedListener } from './listener-info.js'
import { accessOf, addressIn, isLoopback, unmapIPv4 } from './peer.js'
import { readProxyHeader } from './proxy-protocol.js'

export type Establish = (transport: Duplex, origin: Origin) => Connection

export interface ListenerContext {
  readonly establish: Establish
  /** Whether nobody is to come in from an address. */
  readonly banned?: (address: string) => boolean
  /** Told of those who do not get as far as MQTT. */
  readonly turnedAway?: (listener: string, peer: Peer, why: string) => void
  /** Resolves a path of the configuration against the broker's home. */
  readonly path: (relative: string) => string
  readonly log: Log
  /** mqtt.websocket_protocol_header: whether a WebSocket must name an MQTT sub-protocol. */
  readonly needsSubprotocol: boolean
  readonly maxPacketSize: number
  /** Milliseconds until a peer must have asked for its WebSocket. */
  readonly upgradeTimeout?: number
}

/** What is known of a socket before MQTT speaks. */
interface Arrival {
  /** As accepted, whatever TLS and WebSocket make of it. */
  readonly socket: net.Socket
  readonly peer: Peer
  /** False where a proxy does not say for whom it connects: its address is not the client's. */
  readonly isKnown: boolean
  readonly certificateName: string | undefined
}

const nothing = (): void => {}
/** Other options of a listener, ready to be put in force. */
export interface PreparedListener {
  /** To be opened first, where the port must be. */
  readonly boundPort: BoundPort | undefined
  /** The certificates are others under the same names. */
  readonly renews: boolean
  apply(): void
  abandon(): void
}

/** What serves handshakes, and is watched. */
interface Certificates {
  context: tls.SecureContextOptions
  readonly unwatch: () => void
}

/** How long a peer may take to close its side when the broker stops. */
const closingMs = 500

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
  /** By the socket's ends, which the TLS socket made of it has as well. */
  readonly #arrivals = new Map<string, Arrival>()
  readonly #shutdowns = new Map<EndReason, number>()
  /** The timers of those who have not come to MQTT yet. */
  readonly #patience = new WeakMap<net.Socket, NodeJS.Timeout>()
  #certificates: Certificates | undefined
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
      certificates?.unwatch()
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
   * changed before apply(), and then nobody who is connected is touched. Throws a BrokerError.
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
        certificates?.unwatch()
        boundPort?.close()
      },
      apply: () => {
        if (isSame) return certificates?.unwatch()
        this.#options = options
        this.#allowed = accessOf(options.access.values())
        this.#http = options.webSocket === undefined ? undefined : this.#webSocketServer(options.webSocket)
        // Another server has other keys for session tickets: who was let in under the old options must show itself.
        this.#tls = options.tls === undefined ? undefined : this.#tlsServer(options.tls)
        const { listening } = this
        this.#useCertificates(certificates)
        if (boundPort === undefined) return listening ? undefined : this.#unwatch()
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

  /** Accepts nobody any more; those who are in stay. */
  stopAccepting(): void {
    this.#unwatch()
    this.#boundPort?.close()
  }

  /**
   * Accepts nobody any more; sockets that are being closed get a moment for that, the others end at once. After
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
    const isPlain = this.#tls === undefined && this.#http === undefined
    const ends = isPlain ? '' : endsOf(socket)
    socket.on('close', () => {
      this.#sockets.delete(socket)
      if (!isPlain) this.#arrivals.delete(ends)
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
    if (this.#tls !== undefined || this.#http !== undefined) this.#arrivals.set(endsOf(socket), arrival)
    if (this.#tls !== undefined) {
      this.#expect(arrival, 'TLS handshake', this.#options.tls!.handshakeTimeout)
      this.#tls.emit('connection', socket)
    } else {
      if (this.#http === undefined) this.#hand(socket, arrival, true)
      else this.#speakHttp(socket, arrival)
      socket.resume()
    }
  }

  /**
   * Ends a connection that does not get further in time. Node's own limits would not: that of TLS starts anew
   * with every byte, and http.Server keeps its only while it listens itself.
   */
  #expect({ socket, peer }: Arrival, what: string, withinMs: number): void {
    clearTimeout(this.#patience.get(socket))
    const late = setTimeout(() => this.#turnAway(socket, peer, `no ${what} within ${withinMs} ms`), withinMs)
    if (!this.#patience.has(socket)) socket.once('close', () => clearTimeout(this.#patience.get(socket)))
    this.#patience.set(socket, late)
  }

  #turnAway(socket: net.Socket, peer: Peer, why: string): void {
    this.#context.log.warning('turned away', { listener: this.name, peer: `${peer.address}:${peer.port}`, why })
    this.#context.turnedAway?.(this.name, peer, why)
    socket.destroy()
  }

  /** @param ownOrigin false for a web page of another site in a browser, which is not "this host" whatever its address. */
  #hand(transport: Duplex, { socket, peer, isKnown, certificateName }: Arrival, ownOrigin: boolean): Connection {
    clearTimeout(this.#patience.get(socket))
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
    const server = tls.createServer({
      handshakeTimeout: options.handshakeTimeout,
      requestCert: options.verify === 'verify_peer',
      rejectUnauthorized: options.failIfNoPeerCert
    })
    server.on('secureConnection', socket => {
      const arrival = this.#arrivals.get(endsOf(socket))
      if (arrival === undefined) return void socket.destroy()
      const certificate = options.verify === 'verify_peer' ? socket.getPeerX509Certificate() : undefined
      if (certificate !== undefined && !socket.authorized) {
        this.#turnAway(socket, arrival.peer, `client certificate: ${String(socket.authorizationError)}`)
        return
      }
      const { peerCertAsUsername: part } = this.#options
      const name = certificate === undefined || part === undefined ? undefined : nameOf(certificate, part)
      if (certificate !== undefined && part !== undefined && name === undefined) {
        // Taking the name that CONNECT claims instead would let this certificate stand for anybody.
        this.#turnAway(socket, arrival.peer, `client certificate: it has no ${part.toUpperCase()}`)
        return
      }
      const secure = { ...arrival, certificateName: name ?? arrival.certificateName }
      if (this.#http === undefined) return void this.#hand(socket, secure, true)
      this.#arrivals.set(endsOf(socket), secure)
      this.#speakHttp(socket, secure)
    })
    server.on('tlsClientError', (err, socket) => {
      const plain =
        (err as NodeJS.ErrnoException).code === 'ERR_SSL_HTTP_REQUEST' || /wrong version number/.test(err.message)
      const peer = this.#arrivals.get(endsOf(socket))?.peer
      const why = plain ? 'the peer does not speak TLS' : err.message
      this.#context.log.info('TLS handshake failed', { listener: this.name, peer: peer?.address, why })
      if (peer !== undefined) this.#context.turnedAway?.(this.name, peer, `TLS handshake failed: ${why}`)
    })
    return server
  }

  #secureContext(options: TlsOptions): tls.SecureContextOptions {
    const { path } = this.#context
    const read = (file: string, setting: string): Buffer => {
      try {
        return readFileSync(path(file))
      } catch (cause) {
        const why = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : messageOf(cause)
        throw new BrokerError('CONFIG_INVALID', `${this.#setting(setting)}: cannot read ${path(file)}: ${why}`, {
          cause
        })
      }
    }
    const versions = options.tlsVersions.map(v => tlsNames[v]).sort()
    const context: tls.SecureContextOptions = {
      cert: read(options.certfile, 'certfile'),
      key: read(options.keyfile, 'keyfile'),
      minVersion: versions[0]!,
      maxVersion: versions.at(-1)!,
      secureOptions: options.reuseSessions ? 0 : constants.SSL_OP_NO_TICKET,
      honorCipherOrder: options.honorCipherOrder,
      ...(options.cacertfile === undefined ? {} : { ca: read(options.cacertfile, 'cacertfile') }),
      ...(options.dhfile === undefined ? {} : { dhparam: read(options.dhfile, 'dhfile') }),
      ...(options.ciphers === undefined ? {} : { ciphers: options.ciphers })
    }
    try {
      tls.createSecureContext(context)
    } catch (cause) {
      const files = `${path(options.certfile)}, ${path(options.keyfile)}`
      const why = /key values mismatch/.test(messageOf(cause))
        ? 'the key does not belong to the certificate'
        : messageOf(cause)
      throw new BrokerError('CONFIG_INVALID', `${this.#setting('certfile')}: ${why} (${files})`, { cause })
    }
    return context
  }

  #setting(name: string): string {
    return `listener.${this.name.replace(':', '.')}.${name}`
  }

  /** New files serve the next handshakes; who is connected stays. Bad ones change nothing. */
  #readCertificates({ tls: options }: ListenerOptions): Certificates | undefined {
    if (options === undefined) return undefined
    const { log, path } = this.#context
    const files = [options.certfile, options.keyfile, options.cacertfile].filter(f => f !== undefined).map(path)
    const unwatch = watchFiles(files, () => {
      if (this.#certificates !== certificates) return
      try {
        certificates.context = this.#secureContext(options)
        this.#tls!.setSecureContext(certificates.context)
        log.info('certificates read again', { listener: this.name })
      } catch (err) {
        log.error('certificates changed and are not usable; those in force stay', { listener: this.name, err })
      }
    })
    let certificates: Certificates
    try {
      certificates = { context: this.#secureContext(options), unwatch }
    } catch (err) {
      unwatch()
      throw err
    }
    return certificates
  }

  #useCertificates(certificates: Certificates | undefined): void {
    this.#unwatch()
    this.#certificates = certificates
    if (certificates === undefined) return
    const { context } = certificates
    this.#tls!.setSecureContext(context)
    const days = certificateDaysLeft(context.cert as Buffer)
    const file = this.#options.tls!.certfile
    if (days < 30) this.#context.log.warning('certificate expires soon', { listener: this.name, file, days })
  }

  #unwatch(): void {
    this.#certificates?.unwatch()
  }

  // ── WebSocket ──────────────────────────────────────────────────────────────

  #speakHttp(socket: net.Socket, arrival: Arrival): void {
    this.#expect(arrival, 'WebSocket', this.#context.upgradeTimeout ?? 15_000)
    this.#http!.emit('connection', socket)
  }

  #webSocketServer(options: WebSocketOptions): http.Server {
    const { needsSubprotocol, maxPacketSize, log } = this.#context
    const sockets = new WebSocketServer({
      noServer: true,
      perMessageDeflate: false,
      maxPayload: maxPacketSize + 64 * 1024, // a message may hold many packets, but not end in the middle of memory
      handleProtocols: offered => ['mqtt', 'mqttv3.1'].find(p => offered.has(p)) ?? false
    })
    const server = http.createServer((_request, response) => {
      response.writeHead(426, { connection: 'close', 'content-type': 'text/plain' })
      response.end(`This is an MQTT listener: connect with a WebSocket to ${options.path}\n`)
    })
    server.on('upgrade', (request, socket, head) => {
      const [path] = (request.url ?? '/').split('?')
      const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map(p => p.trim())
      const arrival = this.#arrivals.get(endsOf(socket as net.Socket))
      socket.on('error', () => {}) // http.Server does not listen for it any more
      if (arrival === undefined) return socket.destroy()
      if (path !== options.path) return refuse(socket, '404 Not Found', `no MQTT at ${path}; it is at ${options.path}`)
      if (needsSubprotocol && !offered.includes('mqtt') && !offered.includes('mqttv3.1')) {
        return refuse(socket, '400 Bad Request', 'Sec-WebSocket-Protocol must be mqtt or mqttv3.1')
      }
      const peer = announcedPeer(request, arrival.peer, options)
      if (!this.#allowed(peer.address)) return refuse(socket, '403 Forbidden', 'denied by an access rule')
      sockets.handleUpgrade(request, socket, head, ws => {
        ws.on('error', () => {}) // the stream hears the first, and there may be more
        // Before the stream hears of the frame, which takes text for bytes.
        ws.on('message', (_data, isBinary) => {
          if (isBinary) return
          ws.close(1003, 'binary frames only') // [MQTT-6.0.0-1]
          connection.fault('a WebSocket text frame')
        })
        const connection = this.#hand(streamOf(ws), { ...arrival, peer }, hasOwnOrigin(request))
      })
    })
    server.on('clientError', (err, socket) => {
      log.debug('bad HTTP request', { listener: this.name, err })
      socket.destroy()
    })
    return server
  }
}

/** Whether the port can stay open as it is. */
const isSamePort = (a: ListenerOptions, b: ListenerOptions): boolean =>
  isDeepStrictEqual(a.bind, b.bind) &&
  a.backlog === b.backlog &&
  a.nodelay === b.nodelay &&
  a.proxyProtocol === b.proxyProtocol

const tlsNames = { tlsv1: 'TLSv1', 'tlsv1.1': 'TLSv1.1', 'tlsv1.2': 'TLSv1.2', 'tlsv1.3': 'TLSv1.3' } as const

const endsOf = ({ remoteAddress, remotePort, localAddress, localPort }: net.Socket): string =>
  `${remoteAddress}|${remotePort}|${localAddress}|${localPort}`

/** `CN` alone, or the whole subject as `C=DE,O=Home,CN=lamp`. */
function nameOf(certificate: X509Certificate, part: 'cn' | 'dn'): string | undefined {
  if (part === 'dn') return certificate.subject?.split('\n').join(',')
  // Not from `subject`, which escapes, and joins what stands in one RDN. Of several the first counts.
  const { CN } = certificate.toLegacyObject().subject as { CN?: string | string[] }
  return typeof CN === 'object' ? CN[0] : CN
}

/**
 * The client behind trusted proxies: each adds at the end whom it heard, so the last address that is not
 * itself a trusted proxy counts, and all before it is hearsay. So is what stands before something that is no
 * address. From anyone else the header counts for nothing.
 */
function announcedPeer(request: http.IncomingMessage, peer: Peer, options: WebSocketOptions): Peer {
  const { proxyAddressHeader, proxyPortHeader, trustedProxies } = options
  if (proxyAddressHeader === undefined) return peer
  const trusted = within(trustedProxies)
  const hops = String(request.headers[proxyAddressHeader.toLowerCase()] ?? '').split(',')
  let { address } = peer
  while (trusted(address)) {
    const before = addressIn(hops.pop()?.trim() ?? '')
    if (before === undefined) break
    address = before
  }
  if (address === peer.address) return peer
  const port = proxyPortHeader === undefined ? 0 : Number(request.headers[proxyPortHeader.toLowerCase()])
  return { address, port: Number.isInteger(port) && port >= 0 && port < 65536 ? port : 0 }
}

/**
 * Whether the request comes from a program, or from a page that this host serves. A page of any site can
 * open a WebSocket to 127.0.0.1, and must not be taken for this host's own user. That its origin is the host
 * it asks for says nothing: a site's name can be made to resolve to 127.0.0.1 once its page is there.
 */
function hasOwnOrigin({ headers: { origin } }: http.IncomingMessage): boolean {
  if (origin === undefined) return true
  try {
    const { hostname } = new URL(origin)
    return hostname === 'localhost' || isLoopback(hostname.replace(/^\[(.*)\]$/, '$1'))
  } catch {
    return false // `null`, of a sandboxed page or a file
  }
}

function streamOf(ws: WebSocket): Duplex {
  return createWebSocketStream(ws, { decodeStrings: true })
}

function refuse(socket: Duplex, status: string, why: string): void {
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n${why}\n`)
}
