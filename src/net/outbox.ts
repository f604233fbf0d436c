/**
 * What a connection has to say, collected in one buffer and written with one system
 * call when the event loop has done what it was at: a `send` costs as much as
 * encoding dozens of messages. All connections with something to say are flushed by
 * one setImmediate.
 */
import type { Writable } from 'node:stream'
import type { Metrics } from '../observe/metrics.js'
import { copyBytes } from '../wire/encode.js'
import type { PacketObserver } from './packet-observer.js'

const first = 1024

/** What is collected for one connection before it is offered to the system says nothing of its peer, but has an end. */
const mostAtOnce = 16 * 1024 * 1024

let dirty: Outbox[] = []
let scheduled = false
let scheduledAt = 0

function flushAll(): void {
  scheduled = false
  const from = scheduledAt
  const batch = dirty
  dirty = []
  let { metrics } = batch[0]!
  for (const outbox of batch) {
    if (outbox.metrics !== metrics) {
      metrics.flushed(performance.now() - from) // another broker in this process
      metrics = outbox.metrics
    }
    outbox.flush()
  }
  metrics.flushed(performance.now() - from)
}

export class Outbox {
  /** Where to write, from `length` on, after room() was asked for. */
  bytes: Buffer = none
  length = 0
  /** Sees the packets of both directions go by; mostly undefined. */
  observer: PacketObserver | undefined = undefined
  /** Bytes in all that the transport was given. */
  sent = 0
  readonly metrics: Metrics
  readonly #transport: Writable
  readonly #limit: number
  readonly #stalled: () => void
  readonly #roomy: () => void
  #wanted = false
  #dirty = false
  #congested = false
  #closed = false

  /**
   * @param limit bytes that may wait, here and in the transport, before the peer counts as slow.
   * @param stalled called when the transport takes no more for now.
   * @param roomy called after callWhenRoomy().
   */
  constructor(transport: Writable, limit: number, stalled: () => void, roomy: () => void, metrics: Metrics) {
    this.metrics = metrics
    this.#transport = transport
    this.#limit = limit
    this.#stalled = stalled
    this.#roomy = roomy
  }

  /** Whether what can wait elsewhere should: there is enough for one write. Ask callWhenRoomy() when it is not. */
  get full(): boolean {
    return this.#congested || this.length > this.#limit
  }

  /** Has `roomy` called once there is room again. */
  callWhenRoomy(): void {
    this.#wanted = true
  }

  /** Whether the peer reads too slowly for what waits already; `drained` of the connection tells of its end. */
  get congested(): boolean {
    return this.#congested || this.length > mostAtOnce
  }

  /** Bytes not yet with the system. */
  get pending(): number {
    return this.length + this.#transport.writableLength
  }

  /** Makes sure that `n` bytes fit behind `length`, and that they will be sent. */
  room(n: number): void {
    const need = this.length + n
    if (need > this.bytes.length) this.#grow(need)
    if (this.#dirty) return
    this.#dirty = true
    dirty.push(this)
    if (!scheduled) {
      scheduled = true
      scheduledAt = performance.now()
      setImmediate(flushAll)
    }
  }

  #grow(need: number): void {
    const size = Math.max(this.bytes.length * 4, need, first)
    const next = Buffer.allocUnsafe(size)
    if (this.length > 0) this.bytes.copy(next, 0, 0, this.length)
    this.bytes = next
  }

  /** A copy of source[start..end). */
  append(source: Buffer, start: number, end: number): void {
    this.room(end - start)
    this.length = copyBytes(source, start, end, this.bytes, this.length)
  }

  /** All of the bytes. */
  write(bytes: Buffer): void {
    this.append(bytes, 0, bytes.length)
  }

  /** A packet of four bytes: PUBACK, PUBREC, PUBREL, PUBCOMP without more to say. */
  acknowledge(header: number, packetId: number): void {
    this.room(4)
    const { bytes } = this
    const at = this.length
    bytes[at] = header
    bytes[at + 1] = 2
    bytes[at + 2] = packetId >> 8
    bytes[at + 3] = packetId & 255
    this.length = at + 4
  }

  flush(): void {
    this.#dirty = false
    if (this.length === 0 || this.#closed) return
    const bytes = this.bytes.subarray(0, this.length)
    this.metrics.bytesSent += bytes.length
    this.sent += bytes.length
    this.bytes = none
    this.length = 0
    if (this.observer !== undefined) this.observer.sent(bytes)
    if (!this.#transport.write(bytes)) this.#stalled()
    this.#congested = this.#transport.writableLength > this.#limit
    if (!this.#congested) this.#tell()
  }

  #tell(): void {
    if (!this.#wanted) return
    this.#wanted = false
    this.#roomy()
  }

  /** The transport has sent what it had. */
  drained(): void {
    this.#congested = false
    this.#wanted = true
    this.#tell()
  }

  /** Nothing is sent any more. */
  close(): void {
    this.#closed = true
    this.bytes = none
    this.length = 0
  }
}

const none = Buffer.alloc(0)
