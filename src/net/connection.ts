/**
 * One client's connection: packets in, bytes out. It sees to all that needs no MQTT
 * session: whole packets only, the size limit, the rate limit, a peer that says
 * nothing or reads nothing, and why the connection ended. What the packets mean is
 * its handler's.
 */
import type { Duplex } from 'node:stream'
import type { EndReason, Peer } from '../base/client-info.js'
import { type Rate, RateLimit } from '../base/rate-limit.js'
import { now, type TimerWheel, type WheelItem } from '../base/timer-wheel.js'
import type { Metrics } from '../observe/metrics.js'
import { type FrameFault, FrameReader, PacketType, type Take } from '../wire/frame.js'
import { Outbox } from './outbox.js'

/** Where a connection comes from, and what its listener allows it. */
export interface Origin {
  readonly peer: Peer
  readonly local: boolean
  /** `tcp:external`. */
  readonly listener: string
  /** From the peer's certificate, where the listener takes user names from there. */
  readonly certificateName: string | undefined
  /** What is put before its clients' topics; `%c` and `%u` stand for the client id and the user name. */
  readonly mountpoint: string
  readonly sendTimeout: number
  readonly sendTimeoutClose: boolean
  readonly rateLimit: Rate | undefined
  /** Told once, when the connection is over and everything that its end brings is done. */
  ended(reason: EndReason): void
}

export interface ConnectionOptions {
  /** Bytes. */
  readonly maxPacketSize: number
  /** Milliseconds until CONNECT must have been accepted. */
  readonly idleTimeout: number
  /** Bytes that may wait for a peer that reads slowly. */
  readonly maxPending: number
  readonly metrics: Metrics
}

/** Who knows what the packets mean. */
export interface Handler {
  /** A whole packet; false: no more of them until resume(). */
  packet(bytes: Buffer, start: number, at: number, end: number): boolean
  /** The stream of bytes is wrong; the connection is about to end. */
  fault(fault: FrameFault, why: string): void
  /** There is room for what had to wait. */
  drained(): void
  /** What is still to be said to a peer whose connection ends for this reason. */
  lastWords(reason: EndReason): Buffer | undefined
  /** Once, when the connection is over. */
  closed(): void
}

/** How long a closing connection may take to send what it still has to say. */
const lingerMs = 2000

const faultWords: Record<FrameFault, string> = {
  malformed: 'malformed packet',
  unexpected: 'a packet that only a server sends',
  too_large: 'over mqtt.max_packet_size'
}

const nothing = Buffer.alloc(0)

/** Whether a packet that begins so may be CONNECT: MQTT 3.1 leaves its flags open, but no QoS is 3, and TLS begins so. */
const isConnect = (first: number): boolean => first >> 4 === PacketType.CONNECT && (first & 6) !== 6

export class Connection implements WheelItem {
  readonly origin: Origin
  readonly out: Outbox
  /** Bytes in all. */
  received = 0
  readonly #transport: Duplex
  readonly #options: ConnectionOptions
  readonly #wheel: TimerWheel
  readonly #frames: FrameReader
  readonly #openedAt = now()
  readonly #began = Date.now()
  #handler: Handler | undefined
  #heardAt = this.#openedAt
  #hasSpoken = false
  #keepAliveMs: number | undefined
  #reason: EndReason | undefined
  #closed = false
  /** How the peer went while the handler was at something. */
  #left: EndReason | undefined
  /** The handler is at something, and takes no packets. */
  #busy = false
  readonly #rateLimit: RateLimit | undefined
  #holdBack: NodeJS.Timeout | undefined
  #stalled: NodeJS.Timeout | undefined
  /** Most connections never stall. */
  #hearsDrain = false

  constructor(transport: Duplex, origin: Origin, wheel: TimerWheel, options: ConnectionOptions) {
    this.origin = origin
    this.out = new Outbox(
      transport,
      options.maxPending,
      () => this.#stall(),
      () => this.#roomy(),
      options.metrics
    )
    this.#transport = transport
    this.#options = options
    this.#wheel = wheel
    this.#frames = new FrameReader(options.maxPacketSize)
    if (origin.rateLimit !== undefined) this.#rateLimit = new RateLimit(origin.rateLimit)
  }

  /** Begins to read; everything that arrives goes to the handler. */
  start(handler: Handler): void {
    this.#handler = handler
    const transport = this.#transport
    const gone = (): void => this.#gone('closed')
    transport.on('data', chunk => this.#received(chunk as Buffer))
    transport.on('end', gone)
    transport.on('close', gone)
    transport.on('error', err => this.#gone(reasonOf(err)))
    this.#wheel.watch(this)
  }

  get closed(): boolean {
    return this.#closed
  }

  get began(): Date {
    return new Date(this.#began)
  }

  get handler(): Handler | undefined {
    return this.#handler
  }

  /** Why it ended; undefined while it has not. */
  get reason(): EndReason | undefined {
    return this.#reason
  }

  /** Written, but not yet with the system. */
  get pendingBytes(): number {
    return this.#transport.destroyed ? 0 : this.out.pending
  }

  /** CONNECT was accepted: from now on the client's keep alive counts. 0 is none [MQTT-3.1.2-24]. */
  established(keepAliveMs: number): void {
    this.#keepAliveMs = keepAliveMs
    this.#wheel.watch(this)
  }

  /** Ends the connection over something that the peer must not send. */
  fault(why: string, fault: FrameFault = 'malformed'): void {
    if (this.#closed) return
    this.#handler?.fault(fault, why)
    this.hangUp(fault === 'too_large' ? 'packet_too_large' : 'protocol_error')
  }

  /** Ends the connection; the first reason given is the one that stays. What was written is still sent. */
  hangUp(reason: EndReason): void {
    if (this.#closed) return
    this.#closed = true
    this.#reason = reason
    const words = this.#handler?.lastWords(reason)
    if (words !== undefined) this.out.write(words)
    this.out.flush()
    this.out.observer?.closed(reason)
    this.out.close()
    this.#wheel.forget(this)
    clearTimeout(this.#holdBack)
    clearTimeout(this.#stalled)
    this.#closeTransport(reason)
    process.nextTick(tellClosed, this)
  }

  /**
   * Says that no more comes and lets the peer close: closing while it still sends would take back what it has
   * not read yet, such as the reason why. What it sends is thrown away, and it gets a moment only.
   */
  #closeTransport(reason: EndReason): void {
    const transport = this.#transport
    if (transport.destroyed) return
    if (reason === 'send_timeout') {
      transport.destroy() // it does not read: there is nothing to wait for
      return
    }
    const late = setTimeout(() => transport.destroy(), lingerMs)
    transport.once('close', () => clearTimeout(late))
    transport.end()
    transport.resume()
  }

  /** The handler takes packets again, those that arrived meanwhile first. */
  resume(): void {
    if (!this.#busy) return
    this.#busy = false
    this.#heardAt = now()
    this.#read(nothing)
    this.#settleReading()
    if (!this.#busy && this.#left !== undefined) this.hangUp(this.#left)
  }

  /**
   * The peer is gone. What it sent before still counts when its turn comes: messages, and above all a
   * DISCONNECT among them, which keeps the will back [MQTT-3.14.4-3].
   */
  #gone(reason: EndReason): void {
    if (this.#busy && !this.#closed) this.#left ??= reason
    else this.hangUp(reason)
  }

  /** The end of hangUp(), in the next tick: whoever hung up is not called back meanwhile. */
  over(): void {
    this.#handler?.closed()
    this.origin.ended(this.#reason!)
  }

  deadline(): number {
    if (this.#keepAliveMs === undefined) return this.#openedAt + this.#options.idleTimeout
    if (this.#keepAliveMs === 0) return Number.POSITIVE_INFINITY
    // While the connection is not read, it is not the peer that is silent.
    return (this.#busy || this.#holdBack !== undefined ? now() : this.#heardAt) + this.#keepAliveMs
  }

  expire(): void {
    this.hangUp(this.#keepAliveMs === undefined ? 'idle_timeout' : 'keepalive_timeout')
  }

  #received(chunk: Buffer): void {
    if (this.#closed) return
    this.#heardAt = now()
    this.out.metrics.bytesReceived += chunk.length
    this.received += chunk.length
    if (this.#rateLimit !== undefined) this.#limitRate(this.#rateLimit, chunk.length)
    this.#read(chunk)
    this.#settleReading()
  }

  #read(chunk: Buffer): void {
    if (this.#busy) return this.#frames.hold(chunk)
    if (!this.#hasSpoken && !isConnect(chunk[0]!)) {
      return this.fault(guess(chunk) ?? 'the first packet is not CONNECT') // [MQTT-3.1.0-1]
    }
    this.#hasSpoken = true
    const fault = this.#frames.read(chunk, this.#take)
    if (fault !== undefined) this.fault(faultWords[fault], fault)
  }

  readonly #take: Take = (bytes, start, at, end) => {
    if (this.#closed) return false
    if (this.out.observer !== undefined) this.out.observer.received(bytes, start, at, end)
    if (this.#handler!.packet(bytes, start, at, end)) return true
    this.#busy = true
    return false
  }

  /** Over the limit the transport is paused, which slows the client down. */
  #limitRate(limit: RateLimit, bytes: number): void {
    const pause = limit.take(bytes)
    if (pause === 0 || this.#holdBack !== undefined) return
    this.#holdBack = setTimeout(() => {
      this.#holdBack = undefined
      this.#settleReading()
    }, pause)
  }

  #settleReading(): void {
    if (this.#closed) return
    if (this.#busy || this.#holdBack !== undefined) this.#transport.pause()
    else if (this.#transport.isPaused()) this.#transport.resume()
  }

  /** The peer leaves what is sent to it unread. */
  #stall(): void {
    if (!this.#hearsDrain) {
      this.#hearsDrain = true
      this.#transport.on('drain', () => this.#drained())
    }
    const { sendTimeout, sendTimeoutClose } = this.origin
    if (!sendTimeoutClose || this.#closed) return
    this.#stalled ??= setTimeout(() => this.hangUp('send_timeout'), sendTimeout)
  }

  #drained(): void {
    clearTimeout(this.#stalled)
    this.#stalled = undefined
    this.out.drained()
  }

  #roomy(): void {
    if (!this.#closed) this.#handler?.drained()
  }
}

const tellClosed = (connection: Connection): void => connection.over()

function reasonOf({ code = '' }: NodeJS.ErrnoException): EndReason {
  if (code === 'ECONNRESET' || code === 'EPIPE') return 'closed'
  if (code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH') return 'packet_too_large'
  return code.startsWith('WS_ERR_') ? 'protocol_error' : 'error'
}

/** What a peer that speaks no MQTT may have meant to reach. */
function guess(chunk: Buffer): string | undefined {
  if (chunk[0] === 0x16 && chunk[1] === 3) return 'this looks like TLS; connect to the ssl listener'
  if (/^(GET|HEAD|POST|PUT|OPTIONS|CONNECT) /.test(chunk.toString('latin1', 0, 8))) {
    return 'this looks like HTTP; connect to the ws listener'
  }
  return undefined
}
