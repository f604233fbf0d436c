/**
 * The door of the management API: HTTP or HTTPS. What answers is loaded at the first
 * request: fastify takes a fifth of a second and 25 MB, which most starts can do without.
 */
import { readFileSync } from 'node:fs'
import { createServer, type Server as HttpServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer, type Server as HttpsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import type { ApiOptions } from '../config/broker-keys.js'
import { showAddress } from '../config/values.js'
import { watchFiles } from '../net/certificates.js'
import type { ListenerInfo } from '../net/listener.js'
import { accessOf, isLoopback, unmapIPv4 } from '../net/peer.js'
import { portOwner } from '../net/port-owner.js'

export interface ApiContext {
  readonly path: (relative: string) => string
  readonly log: Log
  readonly load: () => Promise<RequestListener>
  /** It is open, whoever asked for that. */
  readonly opened: () => void
}

/** For headers and body. */
const requestTimeout = 30_000
/** For answers under way when it closes. */
const closingMs = 100

export class ApiListener {
  readonly name: string
  readonly #options: ApiOptions
  readonly #context: ApiContext
  readonly #server: HttpServer | HttpsServer
  readonly #sockets = new Set<Socket>()
  #handler: Promise<RequestListener> | undefined
  #unwatch = (): void => {}

  constructor(options: ApiOptions, context: ApiContext) {
    this.name = `api:${options.name}`
    this.#options = options
    this.#context = context
    const limits = { requestTimeout, headersTimeout: requestTimeout, maxHeaderSize: 128 * 1024 } // a topic is of 64 KB at most
    this.#server =
      options.certfile === undefined
        ? createServer(limits, this.#answer)
        : createTlsServer({ ...limits, handshakeTimeout: requestTimeout }, this.#answer)
    this.#server.maxConnections = options.maxClients
    const allowed = accessOf(options.access.values())
    this.#server.on('connection', (socket: Socket) => {
      if (!allowed(unmapIPv4(socket.remoteAddress ?? ''))) return void socket.destroy()
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    this.#server.on('error', err => {
      if (this.#server.listening) context.log.error('listener failed', { listener: this.name, err })
    })
    this.#server.on('clientError', (_err, socket) => void socket.destroy()) // Node's error has the bytes that came
  }

  readonly #answer: RequestListener = (request, response) => {
    this.#handler ??= this.#context.load()
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
    const { host, port } = this.#options.bind
    this.#useCertificates()
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once('error', reject)
        this.#server.listen({ port, ...(host === undefined ? {} : { host }) }, () => {
          this.#server.off('error', reject)
          resolve()
        })
      })
    } catch (cause) {
      this.#unwatch()
      const why = (cause as NodeJS.ErrnoException).code === 'EADDRINUSE' ? await this.#taken() : messageOf(cause)
      throw new BrokerError(
        'UNAVAILABLE',
        `${this.#key}: cannot listen on ${showAddress(this.#options.bind)}: ${why}`,
        {
          cause
        }
      )
    }
    this.#context.opened()
    const isOpen = host === undefined || !(host === 'localhost' || isLoopback(host))
    if (isOpen && this.#options.certfile === undefined) {
      this.#context.log.warning('management API: other hosts reach it without TLS, passwords and all', {
        listener: this.name
      })
    }
  }

  async close(): Promise<void> {
    this.#unwatch()
    if (!this.#server.listening) return
    await new Promise(resolve => {
      this.#server.close(resolve)
      this.#server.closeIdleConnections()
      setTimeout(() => this.#server.closeAllConnections(), closingMs).unref()
    })
  }

  get #key(): string {
    return `listener.api.${this.#options.name}`
  }

  async #taken(): Promise<string> {
    const holder = await portOwner(this.#options.bind.port)
    return `the port is taken${holder === undefined ? ' by another program' : ` by ${holder}`}`
  }

  #useCertificates(): void {
    const { certfile, keyfile } = this.#options
    if (certfile === undefined || keyfile === undefined) return
    const { path, log } = this.#context
    const use = (): void => {
      const context = { cert: readFileSync(path(certfile)), key: readFileSync(path(keyfile)) }
      ;(this.#server as HttpsServer).setSecureContext(context)
    }
    try {
      use()
    } catch (cause) {
      throw new BrokerError('CONFIG_INVALID', `${this.#key}.certfile: ${messageOf(cause)}`, { cause })
    }
    this.#unwatch = watchFiles([certfile, keyfile].map(path), () => {
      try {
        use()
        log.info('certificates read again', { listener: this.name })
      } catch (err) {
        log.error('certificates changed and are not usable; those in force stay', { listener: this.name, err })
      }
    })
  }
}
