/**
 * A port that is open. Until a listener takes its connections they wait, so that all
 * that is to change together can be opened before any of it is in force.
 */
import net from 'node:net'
import { BrokerError } from '../base/errors.js'
import type { ListenerOptions } from '../config/broker-keys.js'
import { showAddress } from '../config/values.js'
import { portOwner } from './port-owner.js'

export type BoundPortOptions = Pick<
  ListenerOptions,
  'transport' | 'name' | 'bind' | 'backlog' | 'nodelay' | 'proxyProtocol'
>

export class BoundPort {
  readonly #options: BoundPortOptions
  readonly #server: net.Server
  readonly #waiting: net.Socket[] = []
  #take: ((socket: net.Socket) => void) | undefined

  constructor(options: BoundPortOptions) {
    this.#options = options
    const { nodelay, proxyProtocol } = options
    this.#server = net.createServer({ noDelay: nodelay, pauseOnConnect: proxyProtocol }, socket => {
      if (this.#take !== undefined) return this.#take(socket)
      this.#waiting.push(socket.on('error', () => {}))
    })
  }

  /** Throws a BrokerError that says who has the port where that can be known. */
  async open(): Promise<void> {
    const { bind, backlog } = this.#options
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once('error', reject)
        this.#server.listen(
          { port: bind.port, backlog, ...(bind.host === undefined ? {} : { host: bind.host }) },
          () => {
            this.#server.off('error', reject)
            resolve()
          }
        )
      })
    } catch (cause) {
      throw new BrokerError('UNAVAILABLE', await this.#cannotListen(cause as NodeJS.ErrnoException), { cause })
    }
  }

  async #cannotListen({ code, message }: NodeJS.ErrnoException): Promise<string> {
    const { transport, name, bind } = this.#options
    const what = `listener.${transport}.${name}: cannot listen on ${showAddress(bind)}`
    if (code === 'EADDRINUSE') {
      const holder = await portOwner(bind.port)
      return `${what}: the port is taken${holder === undefined ? ' by another program' : ` by ${holder}`}`
    }
    if (code === 'EACCES') return `${what}: ports below 1024 need a privilege that this user has not`
    if (code === 'EADDRNOTAVAIL') return `${what}: this host has no such address`
    if (code === 'ENOTFOUND') return `${what}: no such host name`
    return `${what}: ${message}`
  }

  /** 0: any. */
  get wantedPort(): number {
    return this.#options.bind.port
  }

  get listening(): boolean {
    return this.#server.listening
  }

  /** Undefined while it is closed. */
  get port(): number | undefined {
    return (this.#server.address() as net.AddressInfo | null)?.port
  }

  /** From now on; the connections that wait are handed on first. */
  takenBy(take: (socket: net.Socket) => void, failed: (err: Error) => void): void {
    this.#take = take
    this.#server.on('error', failed)
    for (const socket of this.#waiting.splice(0)) if (!socket.destroyed) take(socket)
  }

  /** No connection comes in any more; those that were handed on stay. */
  close(): void {
    for (const socket of this.#waiting.splice(0)) socket.destroy()
    if (this.#server.listening) this.#server.close()
  }
}
