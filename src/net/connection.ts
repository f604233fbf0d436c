/**
 * One client's connection, as a Duplex: frames in, bytes out. It stands between
 * the transport (TCP, TLS, WebSocket) and the control plane, and sees to all that
 * needs no MQTT session: whole frames only, the size limit, the rate limit, a peer
 * that says nothing or reads nothing, and why the connection ended.
 */
import { Duplex } from 'node:stream'
import type { EndReason, Peer } from '../hooks.js'
import { type FrameFault, FrameReader, PacketType } from '../wire/frame.js'
import { type DeadlineWheel, now, type Watched } from './keepalive.js'

/** Where a connection comes from, and what its listener allows it. */
export interface Origin {
  readonly peer: Peer
  readonly local: boolean
  /** `tcp:external`. */
  readonly listener: string
  /** From the peer's certificate, where the listener takes user names from there. */
  readonly certificateName: string | undefined
  readonly sendTimeout: number
  readonly sendTimeoutClose: boolean
  readonly rateLimit: { readonly burst: number; readonly bytesPerSecond: number } | undefined
}

export interface ConnectionOptions {
  /** Bytes. */
  readonly maxPacketSize: number
  /** Milliseconds until CONNECT must have been accepted. */
  readonly idleTimeout: number
  /** Judges the first frame, a CONNECT; false when it has refused and ended the connection. */
  readonly admit: (connection: Connection, frame: Buffer) => boolean
}

/** How long a closing connection may take to send what it still has to say. */
const lingerMs = 2000

export class Connection extends Duplex implements Watched {
  readonly origin: Origin
  readonly #transport: Duplex
  readonly #options: ConnectionOptions
  readonly #wheel: DeadlineWheel
  readonly #frames: FrameReader
  readonly #openedAt = now()
  #heardAt = this.#openedAt
  #keepAliveMs: number | undefined
  #reason: EndReason | undefined
  #admitted = false
  #tokens: number
  #filledAt = this.#openedAt
  #holdBack: NodeJS.Timeout | undefined
  #full = false

  constructor(transport: Duplex, origin: Origin, wheel: DeadlineWheel, options: ConnectionOptions) {
    super({ allowHalfOpen: false, decodeStrings: true })
    this.origin = origin
    this.#transport = transport
    this.#options = options
    this.#wheel = wheel
    this.#frames = new FrameReader(options.maxPacketSize)
    this.#tokens = origin.rateLimit?.burst ?? 0
    transport.on('data', chunk => this.#received(chunk as Buffer))
    transport.once('end', () => this.push(null))
    transport.once('close', () => this.hangUp('closed'))
    transport.on('error', err => {
      this.#reason ??= (err as NodeJS.ErrnoException).code === 'ECONNRESET' ? 'closed' : 'error'
      this.destroy()
    })
    wheel.watch(this)
  }

  /** Why it ended or is about to; undefined while nothing has gone wrong. */
  get reason(): EndReason | undefined {
    return this.#reason
  }

  /** Written, but not yet with the system. */
  get pendingBytes(): number {
    return this.writableLength + this.#transport.writableLength
  }

  /** CONNECT was accepted: from now on the client's keep alive counts. 0 is none [MQTT-3.1.2-24]. */
  established(keepAliveMs: number): void {
    this.#keepAliveMs = keepAliveMs
    this.#wheel.watch(this)
    this.emit('established')
  }

  /** Notes why the connection is about to be ended by someone else. */
  because(reason: EndReason): void {
    this.#reason ??= reason
  }

  /** Ends the connection; the first reason given is the one that stays. What was written is still sent. */
  hangUp(reason: EndReason): void {
    this.#reason ??= reason
    this.destroy()
  }

  deadline(): number {
    if (this.#keepAliveMs === undefined) return this.#openedAt + this.#options.idleTimeout
    return this.#keepAliveMs === 0 ? Number.POSITIVE_INFINITY : this.#heardAt + this.#keepAliveMs
  }

  expire(): void {
    this.hangUp(this.#keepAliveMs === undefined ? 'idle_timeout' : 'keepalive_timeout')
  }

  #received(chunk: Buffer): void {
    if (this.destroyed) return
    this.#heardAt = now()
    const fault = this.#frames.read(chunk, frame => this.#frame(frame))
    if (fault !== undefined) return this.#faulty(fault, chunk)
    this.#limitRate(chunk.length)
    this.#settleReading()
  }

  #frame(frame: Buffer): boolean {
    if (!this.#admitted) {
      this.#admitted = true
      if (!this.#options.admit(this, frame)) return false
    } else if (frame[0]! >> 4 === PacketType.DISCONNECT) {
      this.#reason ??= 'normal'
    }
    if (!this.push(frame)) this.#full = true
    return !this.destroyed
  }

  #faulty(fault: FrameFault, chunk: Buffer): void {
    const reason = fault === 'too_large' ? 'packet_too_large' : 'protocol_error'
    this.emit('fault', this.#admitted ? reason : (guess(chunk) ?? reason))
    this.hangUp(reason)
  }

  /** A token bucket over the bytes read; an empty one pauses the transport, which slows the client down. */
  #limitRate(bytes: number): void {
    const limit = this.origin.rateLimit
    if (limit === undefined) return
    const at = now()
    this.#tokens = Math.min(limit.burst, this.#tokens + ((at - this.#filledAt) / 1000) * limit.bytesPerSecond) - bytes
    this.#filledAt = at
    if (this.#tokens >= 0 || this.#holdBack !== undefined) return
    this.#holdBack = setTimeout(
      () => {
        this.#holdBack = undefined
        this.#settleReading()
      },
      (-this.#tokens / limit.bytesPerSecond) * 1000
    )
  }

  #settleReading(): void {
    if (this.#full || this.#holdBack !== undefined) this.#transport.pause()
    else this.#transport.resume()
  }

  override _read(): void {
    if (!this.#full) return
    this.#full = false
    this.#settleReading()
  }

  override _write(chunk: Buffer, _encoding: string, done: (err?: Error | null) => void): void {
    this.#send(chunk, done)
  }

  /** One system call for the many small chunks that the packet writer makes. */
  override _writev(chunks: { chunk: Buffer }[], done: (err?: Error | null) => void): void {
    this.#send(Buffer.concat(chunks.map(({ chunk }) => chunk)), done)
  }

  #send(bytes: Buffer, done: (err?: Error | null) => void): void {
    if (this.#transport.write(bytes)) return done()
    const { sendTimeout, sendTimeoutClose } = this.origin
    const stalled = sendTimeoutClose
      ? setTimeout(() => {
          this.hangUp('send_timeout')
          this.#transport.destroy() // it does not read: there is nothing to wait for
        }, sendTimeout)
      : undefined
    const settle = (): void => {
      clearTimeout(stalled)
      this.#transport.off('drain', settle)
      this.#transport.off('close', settle)
      done()
    }
    this.#transport.on('drain', settle)
    this.#transport.on('close', settle)
  }

  override _final(done: () => void): void {
    this.#transport.end()
    done()
  }

  override _destroy(err: Error | null, done: (err?: Error | null) => void): void {
    this.#reason ??= err === null ? 'closed' : 'protocol_error'
    this.#wheel.forget(this)
    clearTimeout(this.#holdBack)
    const transport = this.#transport
    if (!transport.destroyed) {
      // Close after what was written is out (a refusing CONNACK, above all over TLS), but not later than that.
      const late = setTimeout(() => transport.destroy(), lingerMs)
      transport.once('close', () => clearTimeout(late))
      transport.end(() => transport.destroy())
      transport.resume()
    }
    done(err)
  }
}

/** What someone who is no MQTT client may have meant to reach. */
function guess(chunk: Buffer): string | undefined {
  if (chunk[0] === 0x16 && chunk[1] === 3) return 'this looks like TLS; connect to the ssl listener'
  if (/^(GET|HEAD|POST|PUT|OPTIONS|CONNECT) /.test(chunk.toString('latin1', 0, 8))) {
    return 'this looks like HTTP; connect to the ws listener'
  }
  return undefined
}
