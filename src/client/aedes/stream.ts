/**
 * What aedes takes for the client's connection: it reads the control packets that we
 * hand it, and each whole packet that it writes is the answer to one. Of a stream it is what
 * aedes asks for and no more: a Duplex costs every client a kilobyte and its CONNECT
 * a fifth of its time.
 */
import { EventEmitter } from 'node:events'

/** The client that aedes decides over. */
export interface StreamOwner {
  /** aedes has ended the connection, or we have. */
  ended(): void
}

const none = Buffer.alloc(0)

export class AedesStream<C extends StreamOwner = StreamOwner> extends EventEmitter {
  /** Not `client`: aedes puts its own there. */
  readonly owner: C
  destroyed = false
  /** What the client has asked to subscribe to, while that is judged. */
  filters: readonly string[] = []
  #answered: ((packet: Buffer | undefined) => void) | undefined
  #unread: Buffer | null = null
  #rest: Buffer = none

  constructor(owner: C) {
    super()
    this.owner = owner
  }

  /** Hands aedes a packet, and resolves with its answer; undefined when the connection ends instead. */
  ask(packet: Buffer): Promise<Buffer | undefined> {
    if (this.destroyed) return Promise.resolve(undefined)
    return new Promise(resolve => {
      this.#answered = resolve
      this.push(packet)
    })
  }

  /** What was asked for is decided. */
  settle(answer: Buffer | undefined): void {
    const answered = this.#answered
    this.#answered = undefined
    answered?.(answer)
  }

  /** Hands aedes a packet; it reads it at once, or when it is done with the one before. */
  push(packet: Buffer): void {
    if (this.destroyed) return
    this.#unread = this.#unread === null ? packet : Buffer.concat([this.#unread, packet])
    this.emit('readable')
  }

  // ── what aedes calls ───────────────────────────────────────────────────────

  read(): Buffer | null {
    const packet = this.#unread
    this.#unread = null
    return packet
  }

  /** aedes writes packets in pieces. It may be in the middle of something, so that it hears of the answer's outcome later. */
  write(chunk: Buffer): boolean {
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    for (let end = endOf(this.#rest); end > 0; end = endOf(this.#rest)) {
      const packet = this.#rest.subarray(0, end)
      this.#rest = end === this.#rest.length ? none : this.#rest.subarray(end)
      process.nextTick(answer, this, packet)
    }
    return true
  }

  destroy(): this {
    if (this.destroyed) return this
    this.destroyed = true
    this.settle(undefined)
    this.owner.ended()
    process.nextTick(tellClosed, this)
    return this
  }
}

const answer = (stream: AedesStream, packet: Buffer): void => stream.settle(packet)
const tellClosed = (stream: AedesStream): boolean => stream.emit('close')

/** Where the first packet ends; 0 while it is not whole. */
function endOf(bytes: Buffer): number {
  let at = 1
  let remaining = 0
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++]
    if (byte === undefined) return 0
    remaining |= (byte & 127) << shift
    if (byte < 128) break
  }
  return bytes.length < at + remaining ? 0 : at + remaining
}
