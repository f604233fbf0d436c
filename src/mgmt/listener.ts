/**
 * A listener of the management API: HTTP or HTTPS. What answers is loaded at the first
 * request: fastify takes a fifth of a second and 25 MB, which most starts can do without.
 */
import { readFileSync } from 'node:fs'
import { createServer, type Server as HttpServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer, type Server as HttpsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import type { SecureContextOptions } from 'node:tls'
import { isDeepStrictEqual } from 'node:util'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import type { ApiOptions } from '../config/broker-keys.js'
import { showAddress } from '../config/values.js'
import { watchFiles } from '../net/certificates.js'
import type { ListenerInfo, ManagedListener } from '../net/listener-info.js'
import { accessOf, isLoopback, unmapIPv4 } from '../net/peer.js'
import { portOwner } from '../net/port-owner.js'

export interface ApiContext {
  readonly path: (relative: string) => string
  readonly log: Log
  readonly load: (options: ApiOptions) => Promise<RequestListener>
  /** The listener is open, whoever asked for that. */
  readonly opened: () => void
}

/** Other options of the listener, ready to be put in force. */
export interface PreparedApiListener {
  /** Opens the port, where it is another. */
  open(): Promise<void>
  apply(): Promise<void>
  abandon(): Promise<void>
  /** The certificates are others under the same names. */
  readonly renews: boolean
}

/** For headers and body. */
const requestTimeout = 30_000
/** For answers under way when it closes. */
const closingMs = 100

export class ApiListener implements ManagedListener {
  readonly name: string
  #options: ApiOptions
  readonly #context: ApiContext
  #server: HttpServer | HttpsServer
  #certificates: SecureContextOptions | undefined
  readonly #sockets = new Set<Socket>()
  #handler: Promise<RequestListener> | undefined
  #unwatch = (): void => {}

  constructor(options: ApiOptions, context: ApiContext) {
    this.name = `api:${options.name}`
    this.#options = options
    this.#context = context
    this.#server = this.#serverFor(options)
  }

  #serverFor(options: ApiOptions): HttpServer | HttpsServer {
    const limits = { requestTimeout, headersTimeout: requestTimeout, maxHeaderSize: 128 * 1024 } // a topic is of 64 KB at most
    const server =
      options.certfile === undefined
        ? createServer(limits, this.#answer)
        : createTlsServer({ ...limits, handshakeTimeout: requestTimeout }, this.#answer)
    server.on('connection', (socket: Socket) => {
      if (!accessOf(this.#options.access.values())(unmapIPv4(socket.remoteAddress ?? ''))) return void socket.destroy()
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    server.on('error', err => {
      if (server.listening) this.#context.log.error('listener failed', { listener: this.name, err })
    })
    server.on('clientError', (_err, socket) => void socket.destroy()) // Node's error has the bytes that came
    return server
  }

  readonly #answer: RequestListener = (request, response) => {
    this.#handler ??= this.#context.load(this.#options)
    this.#handler.then(
      handle => handle(request, response),
      (err: unknown) => {
        this.#handler = undefined
        this.#context.log.error('management API cannot be loaded', { err })
        response.writeHead(500).end()
      }
    )
  }

  get listening(): boolean {
    return this.#server.listening
  }

  get port(): number {
    return (this.#server.address() as AddressInfo | null)?.port ?? this.#options.bind.port
  }

  answersTo(where: string): boolean {
    return where === showAddress(this.#options.bind) || where === this.info().bind
  }

  info(): ListenerInfo {
    const { bind, maxClients } = this.#options
    return {
      name: this.name,
      transport: 'api',
      bind: showAddress({ ...bind, port: this.port }),
      port: this.port,
      maxClients,
      currentClients: this.#sockets.size,
      shutdownCount: {}
    }
  }

  /** Throws a BrokerError: CONFIG_INVALID for its certificates, UNAVAILABLE for its port. */
  async open(): Promise<void> {
    const certificates = this.#readCertificates(this.#options)
    await this.#listen(this.#server, this.#options)
    this.#inForce(certificates)
  }

  /**
   * Prepares other options; nothing is changed before apply(), and requests under way are answered under the old ones.
   * Throws a BrokerError. @param what `opens`: the listener is a new one.
   */
  prepare(options: ApiOptions, { opens = false } = {}): PreparedApiListener {
    const certificates = this.#readCertificates(options)
    const was = this.#options
    const isSame = isDeepStrictEqual(options, was)
    const renews = !isDeepStrictEqual(certificates, this.#certificates)
    const isElsewhere =
      !isDeepStrictEqual(options.bind, was.bind) || (options.certfile === undefined) !== (was.certfile === undefined)
    const opened = opens || (this.listening && isElsewhere)
    const next = opened || isElsewhere ? this.#serverFor(options) : this.#server
    let isSuspended = false
    return {
      renews: renews && isSame && !opens,
      open: async () => {
        if (!opened) return
        isSuspended = this.listening && options.bind.port === this.port && options.bind.port !== 0
        if (isSuspended) this.#server.close()
        await this.#listen(next, options)
      },
      apply: async () => {
        const old = this.#server
        this.#options = options
        this.#server = next
        if (!isSame) this.#handler = undefined // what may be asked without a login is other
        if (this.listening) this.#inForce(certificates)
        if (old !== next) await closed(old)
      },
      abandon: async () => {
        if (next !== this.#server) await closed(next)
        if (!isSuspended) return
        await this.#listen(this.#server, was).catch((cause: unknown) =>
          this.#context.log.error('listener lost', { cause })
        )
      }
    }
  }

  async close(): Promise<void> {
    this.#unwatch()
    await closed(this.#server)
  }

  async #listen(server: HttpServer | HttpsServer, { name, bind, maxClients }: ApiOptions): Promise<void> {
    const { host, port } = bind
    server.maxConnections = maxClients
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen({ port, ...(host === undefined ? {} : { host }) }, () => {
          server.off('error', reject)
          resolve()
        })
      })
    } catch (cause) {
      const isTaken = (cause as NodeJS.ErrnoException).code === 'EADDRINUSE'
      const why = isTaken ? await takenBy(port) : messageOf(cause)
      const what = `listener.api.${name}: cannot listen on ${showAddress(bind)}`
      throw new BrokerError('UNAVAILABLE', `${what}: ${why}`, { cause })
    }
  }

  /** The server listens with these certificates. */
  #inForce(certificates: SecureContextOptions | undefined): void {
    const { bind, maxClients } = this.#options
    this.#server.maxConnections = maxClients
    this.#certificates = certificates
    if (certificates !== undefined) (this.#server as HttpsServer).setSecureContext(certificates)
    this.#watch()
    this.#context.opened()
    const isOpen = bind.host === undefined || !(bind.host === 'localhost' || isLoopback(bind.host))
    if (isOpen && certificates === undefined) {
      this.#context.log.warning('management API: other hosts reach it without TLS, passwords and all', {
        listener: this.name
      })
    }
  }

  #readCertificates({ name, certfile, keyfile }: ApiOptions): SecureContextOptions | undefined {
    if (certfile === undefined || keyfile === undefined) return undefined
    const { path } = this.#context
    try {
      return { cert: readFileSync(path(certfile)), key: readFileSync(path(keyfile)) }
    } catch (cause) {
      throw new BrokerError('CONFIG_INVALID', `listener.api.${name}.certfile: ${messageOf(cause)}`, { cause })
    }
  }

  #watch(): void {
    this.#unwatch()
    const { certfile, keyfile } = this.#options
    if (certfile === undefined || keyfile === undefined) return
    const { path, log } = this.#context
    this.#unwatch = watchFiles([certfile, keyfile].map(path), () => {
      try {
        const certificates = this.#readCertificates(this.#options)!
        ;(this.#server as HttpsServer).setSecureContext(certificates)
        this.#certificates = certificates
        log.info('certificates read again', { listener: this.name })
      } catch (err) {
        log.error('certificates changed and are not usable; those in force stay', { listener: this.name, err })
      }
    })
  }
}

/** Answers under way get a moment. */
async function closed(server: HttpServer | HttpsServer): Promise<void> {
  if (!server.listening) return
  await new Promise(resolve => {
    server.close(resolve)
    server.closeIdleConnections()
    setTimeout(() => server.closeAllConnections(), closingMs).unref()
  })
}

async function takenBy(port: number): Promise<string> {
  const owner = await portOwner(port)
  return `the port is taken${owner === undefined ? ' by another program' : ` by ${owner}`}`
}
