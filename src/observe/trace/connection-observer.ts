/**
 * What one connection's packets are shown to while a trace may mean it: the observer finds out which traces do, and
 * gives each the packets that it wants.
 *
 * A connection without a CONNECT has no client id yet, so its observer stays until the CONNECT is seen, and shows that
 * packet too.
 */
import type { ClientRef } from '../../base/client-ref.js'
import type { PacketObserver } from '../../net/packet-observer.js'
import { type Described, describe } from '../../wire/describe.js'
import { PacketType } from '../../wire/frame.js'
import { readConnect } from '../../wire/packets.js'
import { PacketError } from '../../wire/reason-codes.js'
import { matches } from '../../wire/topic.js'
import type { Trace } from './trace-file.js'

/** A connection, as a trace sees it. */
export interface TracedConnection {
  readonly card: {
    readonly ref: ClientRef
    /** `127.0.0.1:36380` */
    readonly peername: string
  }
  readonly link: {
    readonly version: 4 | 5
    readonly mountpoint: string
    readonly out: { observer: PacketObserver | undefined }
  }
  /** The topic that an alias stands for. */
  topicOfAlias(alias: number, isSent: boolean): string | undefined
}

/** The traces that mean one connection. */
export class ConnectionObserver implements PacketObserver {
  readonly subject: TracedConnection
  readonly #all: () => Trace[]
  readonly #over: () => void
  /** Its CONNECT was seen, or came before any trace. */
  isKnown = false
  /** In its CONNECT, which is not accepted yet. */
  #said: ClientRef | undefined
  #whole: Trace[] = []
  #topics: Trace[] = []

  constructor(subject: TracedConnection, all: () => Trace[], over: () => void) {
    this.subject = subject
    this.#all = all
    this.#over = over
  }

  get #who(): ClientRef {
    const { ref } = this.subject.card
    return ref.clientId === '' ? (this.#said ?? ref) : ref
  }

  judge(who: ClientRef): void {
    const all = this.#all()
    this.#whole = all.filter(trace => trace.kind !== 'topic' && trace.isMeant(who))
    this.#topics = all.filter(trace => trace.kind === 'topic')
  }

  get isWanted(): boolean {
    return this.#whole.length > 0 || this.#topics.length > 0 || (!this.isKnown && this.#all().length > 0)
  }

  received(bytes: Buffer, start: number, at: number, end: number): void {
    if (!this.isKnown && bytes[start]! >> 4 === PacketType.CONNECT) this.#meet(bytes, at, end)
    this.#show('recv', bytes, start, at, end)
  }

  sent(bytes: Buffer): void {
    for (let start = 0; start < bytes.length; ) {
      let at = start + 1
      let rest = 0
      for (let shift = 0; ; shift += 7) {
        const byte = bytes[at++]!
        rest |= (byte & 127) << shift
        if (byte < 128) break
      }
      this.#show('send', bytes, start, at, at + rest)
      start = at + rest
    }
  }

  closed(reason: string): void {
    for (const trace of this.#whole) trace.write(this.#who, this.subject.card.peername, { direction: 'closed', reason })
    this.subject.link.out.observer = undefined
    this.#over()
  }

  #meet(bytes: Buffer, at: number, end: number): void {
    const { ref } = this.subject.card
    try {
      const { clientId, username } = readConnect(bytes, at, end)
      this.#said = { clientId, username: ref.username ?? username, address: ref.address }
      this.judge(this.#said)
    } catch (err) {
      if (!(err instanceof PacketError)) throw err
    }
  }

  #show(direction: 'recv' | 'send', bytes: Buffer, start: number, at: number, end: number): void {
    const isPublish = bytes[start]! >> 4 === PacketType.PUBLISH
    const alias = isPublish ? this.#aliased(bytes, start, at, end, direction === 'send') : undefined
    for (const trace of this.#whole) this.#write(trace, direction, bytes, start, at, end, alias)
    if (!isPublish || this.#topics.length === 0) return
    const length = (bytes[at]! << 8) | bytes[at + 1]!
    const topic = alias ?? bytes.toString('utf8', at + 2, Math.min(at + 2 + length, end))
    for (const trace of this.#topics) {
      if (matches(trace.value, this.subject.link.mountpoint + topic))
        this.#write(trace, direction, bytes, start, at, end, alias)
    }
  }

  #write(
    trace: Trace,
    direction: 'recv' | 'send',
    bytes: Buffer,
    start: number,
    at: number,
    end: number,
    alias: string | undefined
  ): void {
    const { type, ...fields } = describe(bytes, start, at, end, this.subject.link.version, trace.preview)
    const named = alias === undefined ? fields : { ...fields, topic: alias }
    trace.write(this.#who, this.subject.card.peername, { direction, type, size: end - start, ...named })
  }

  /** The topic of a PUBLISH that has only an alias for it. */
  #aliased(bytes: Buffer, start: number, at: number, end: number, isSent: boolean): string | undefined {
    if (this.subject.link.version !== 5 || bytes[at] !== 0 || bytes[at + 1] !== 0) return undefined
    const { properties } = describe(bytes, start, at, end, 5, 0) as Described & { properties?: { topicAlias?: number } }
    return properties?.topicAlias === undefined ? undefined : this.subject.topicOfAlias(properties.topicAlias, isSent)
  }
}
