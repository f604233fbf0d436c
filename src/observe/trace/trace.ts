/**
 * Traces: every packet of a client, a user or an address, or every PUBLISH under a topic
 * filter, in both directions, written to a file until the time or the file is full.
 *
 * A connection that no trace means has no observer, and costs nothing: each trace looks at
 * the connections once when it begins, and while there is one, at those that come.
 */
import {
  closeSync,
  constants,
  createWriteStream,
  fchmodSync,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  type WriteStream
} from 'node:fs'
import { dirname, isAbsolute, join, relative } from 'node:path'
import { BrokerError, messageOf } from '../../base/errors.js'
import type { Log } from '../../base/log/log.js'
import { duration, integer, type Key, oneOf, parseNetwork, size, within } from '../../config/values.js'
import { type Described, describe } from '../../wire/describe.js'
import { PacketType } from '../../wire/frame.js'
import { readConnect } from '../../wire/packets.js'
import { PacketError } from '../../wire/reason-codes.js'
import { isTopicFilter, matches, splitShared } from '../../wire/topic.js'

export const traceKinds = ['client', 'topic', 'user', 'ip'] as const
export type TraceKind = (typeof traceKinds)[number]

/** What a connection's packets are shown to, while a trace may mean it. */
export interface PacketObserver {
  received(bytes: Buffer, start: number, at: number, end: number): void
  /** Whole packets. */
  sent(bytes: Buffer): void
  closed(reason: string): void
}

interface Who {
  readonly clientId: string
  readonly username: string | undefined
  readonly address: string
}

/** A connection, as a trace sees it. */
export interface TracedConnection {
  readonly ref: Who
  /** `127.0.0.1:36380` */
  readonly peername: string
  readonly version: 4 | 5
  readonly mountpoint: string
  /** The topic that an alias stands for. */
  topicOfAlias(alias: number, isSent: boolean): string | undefined
  readonly out: { observer: PacketObserver | undefined }
}

/** As the operator wrote them. */
export interface TraceTerms {
  readonly file?: string | undefined
  readonly for?: string | undefined
  readonly format?: string | undefined
  readonly payload?: string | undefined
  readonly size?: string | undefined
}

export interface TraceInfo {
  readonly kind: TraceKind
  readonly value: string
  /** As the operator would write it: `log/lamp.log`. */
  readonly file: string
  readonly format: 'text' | 'json'
  readonly startedAt: Date
  readonly until: Date
  readonly packets: number
  /** Of the file. */
  readonly bytes: number
  /** Packets that came faster than they could be written. */
  readonly leftOut: number
}

const mostTraces = 30
/** Bytes that may wait to be written. */
const mostPending = 4 * 1024 * 1024

export class Tracer {
  readonly #log: Log
  readonly #traces = new Map<string, Trace>()
  readonly #observers = new Set<ConnectionObserver>()

  constructor(log: Log) {
    this.#log = log
  }

  /** Whether connections are to be looked at. */
  get active(): boolean {
    return this.#traces.size > 0
  }

  list(): TraceInfo[] {
    return [...this.#traces.values()].map(trace => trace.info())
  }

  /** One of the same kind and value gives way. Connections that are there are the caller's to look at. */
  start(kind: TraceKind, value: string, home: string, terms: TraceTerms): TraceInfo {
    const key = `${kind} ${value}`
    const before = this.#traces.get(key)
    if (before === undefined && this.#traces.size >= mostTraces) {
      throw new BrokerError('CONFLICT', `there are ${mostTraces} traces already`)
    }
    const isMeant = testOf(kind, value)
    const most = read(size('16MB', { min: 1024 }), terms.size, '--size')
    const forMs = read(duration('1h'), terms.for, '--for')
    const format = read(oneOf(['text', 'json'], 'text'), terms.format, '--format')
    const preview = read(integer(64, { max: 65_536 }), terms.payload, '--payload')
    if (forMs === 0) throw new BrokerError('BAD_REQUEST', '--for: expected more than 0')
    const path = pathOf(home, terms.file ?? fileName(kind, value))
    const trace = new Trace(
      { kind, value, home, path, format, most, preview, until: Date.now() + forMs },
      isMeant,
      why => this.#ended(key, trace, why)
    )
    this.#traces.set(key, trace)
    before?.close('it is begun anew')
    const info = trace.info()
    this.#log.info('trace begins', { [kind]: value, file: info.file, until: info.until.toISOString() })
    return info
  }

  stop(kind: TraceKind, value: string): TraceInfo {
    const trace = this.#traces.get(`${kind} ${value}`)
    if (trace === undefined) throw new BrokerError('NOT_FOUND', `stop tracing ${kind} ${value} error: not_found.`)
    trace.close('asked to')
    return trace.info()
  }

  close(): void {
    for (const trace of [...this.#traces.values()]) trace.close('the broker stops')
  }

  #ended(key: string, trace: Trace, why: string): void {
    if (this.#traces.get(key) === trace) this.#traces.delete(key)
    this.#log.info('trace ends', { [trace.kind]: trace.value, file: trace.info().file, why })
    for (const observer of [...this.#observers]) this.#settle(observer)
  }

  /** A connection that is new, or of which it is now known who it is. */
  look(subject: TracedConnection, isKnown: boolean): void {
    const { out } = subject
    const there = out.observer instanceof ConnectionObserver ? out.observer : undefined
    const observer =
      there ??
      new ConnectionObserver(
        subject,
        () => [...this.#traces.values()],
        () => void this.#observers.delete(observer)
      )
    this.#observers.add(observer)
    out.observer = observer
    if (isKnown) observer.isKnown = true
    this.#settle(observer)
  }

  #settle(observer: ConnectionObserver): void {
    observer.judge(observer.subject.ref)
    if (observer.isWanted) return
    this.#observers.delete(observer)
    if (observer.subject.out.observer === observer) observer.subject.out.observer = undefined
  }
}

/** The traces that mean one connection. */
class ConnectionObserver implements PacketObserver {
  readonly subject: TracedConnection
  readonly #all: () => Trace[]
  readonly #over: () => void
  /** Its CONNECT was seen, or came before any trace. */
  isKnown = false
  /** In its CONNECT, which is not accepted yet. */
  #said: Who | undefined
  #whole: Trace[] = []
  #topics: Trace[] = []

  constructor(subject: TracedConnection, all: () => Trace[], over: () => void) {
    this.subject = subject
    this.#all = all
    this.#over = over
  }

  get #who(): Who {
    const { ref } = this.subject
    return ref.clientId === '' ? (this.#said ?? ref) : ref
  }

  judge(who: Who): void {
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
    for (const trace of this.#whole) trace.write(this.#who, this.subject.peername, { direction: 'closed', reason })
    this.subject.out.observer = undefined
    this.#over()
  }

  #meet(bytes: Buffer, at: number, end: number): void {
    const { ref } = this.subject
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
      if (matches(trace.value, this.subject.mountpoint + topic))
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
    const { type, ...fields } = describe(bytes, start, at, end, this.subject.version, trace.preview)
    const named = alias === undefined ? fields : { ...fields, topic: alias }
    trace.write(this.#who, this.subject.peername, { direction, type, size: end - start, ...named })
  }

  /** The topic of a PUBLISH that has only an alias for it. */
  #aliased(bytes: Buffer, start: number, at: number, end: number, isSent: boolean): string | undefined {
    if (this.subject.version !== 5 || bytes[at] !== 0 || bytes[at + 1] !== 0) return undefined
    const { properties } = describe(bytes, start, at, end, 5, 0) as Described & { properties?: { topicAlias?: number } }
    return properties?.topicAlias === undefined ? undefined : this.subject.topicOfAlias(properties.topicAlias, isSent)
  }
}

interface TraceOptions {
  readonly kind: TraceKind
  readonly value: string
  readonly home: string
  readonly path: string
  readonly format: 'text' | 'json'
  /** Bytes of the file. */
  readonly most: number
  /** Bytes of a payload. */
  readonly preview: number
  readonly until: number
}

class Trace {
  readonly isMeant: (who: Who) => boolean
  readonly #options: TraceOptions
  readonly #file: WriteStream
  readonly #startedAt = new Date()
  readonly #ended: (why: string) => void
  readonly #timer: NodeJS.Timeout
  #bytes: number
  #packets = 0
  #leftOut = 0
  /** Of those, not yet told. */
  #missing = 0
  #closed = false

  constructor(options: TraceOptions, isMeant: (who: Who) => boolean, ended: (why: string) => void) {
    this.#options = options
    this.isMeant = isMeant
    this.#ended = ended
    const { fd, length } = openFile(options.path, options.most)
    this.#bytes = length
    this.#file = createWriteStream(options.path, { fd })
    this.#file.on('error', err => this.close(messageOf(err)))
    this.#timer = setTimeout(() => this.close('its time is over'), options.until - Date.now()).unref()
    const { kind, value } = options
    this.#put(
      options.format === 'json'
        ? JSON.stringify({ trace: kind, value, time: this.#startedAt, until: new Date(options.until) })
        : `${mark}${kind} ${plain(value)}, ${clock(this.#startedAt)} until ${clock(new Date(options.until))}`
    )
  }

  get kind(): TraceKind {
    return this.#options.kind
  }

  get value(): string {
    return this.#options.value
  }

  get preview(): number {
    return this.#options.preview
  }

  info(): TraceInfo {
    const { kind, value, format, home, path, until } = this.#options
    return {
      kind,
      value,
      file: relative(home, path),
      format,
      startedAt: this.#startedAt,
      until: new Date(until),
      packets: this.#packets,
      bytes: this.#bytes,
      leftOut: this.#leftOut
    }
  }

  write({ clientId, username }: Who, peername: string, event: Record<string, unknown>): void {
    if (this.#closed) return
    if (this.#file.writableLength > mostPending) {
      this.#leftOut++
      this.#missing++
      return
    }
    if (this.#missing > 0) {
      const missing = this.#missing
      this.#missing = 0
      this.#line(this.#options.format === 'json' ? JSON.stringify({ left_out: missing }) : `# ${missing} left out`)
    }
    if (event['type'] !== undefined) this.#packets++
    const time = new Date()
    if (this.#options.format === 'json') {
      this.#line(JSON.stringify({ time, client_id: clientId, username: username ?? null, peername, ...event }))
    } else {
      const { direction, type, ...fields } = event
      const pairs = Object.entries(fields).map(([k, v]) => ` ${k}=${plain(v)}`)
      const words = `${String(direction).toUpperCase()}${type === undefined ? '' : ` ${String(type)}`}`
      this.#line(`${clock(time)} ${clientId === '' ? '-' : plain(clientId)}@${peername} ${words}${pairs.join('')}`)
    }
  }

  #line(text: string): void {
    if (this.#bytes + Buffer.byteLength(text) >= this.#options.most) this.close('the file is full')
    else this.#put(text)
  }

  #put(text: string): void {
    this.#bytes += Buffer.byteLength(text) + 1
    this.#file.write(`${text}\n`)
  }

  close(why: string): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#timer)
    const end = `trace ends: ${why}`
    const last =
      this.#options.format === 'json' ? JSON.stringify({ time: new Date(), end: why }) : `# ${clock(new Date())} ${end}`
    this.#file.end(`${last}\n`)
    this.#ended(why)
  }
}

/** How a file of ours begins: nothing is written to any other. */
const mark = '# trace of '
const jsonMark = '{"trace":'

function openFile(path: string, most: number): { fd: number; length: number } {
  const { O_RDWR, O_APPEND, O_CREAT, O_NOFOLLOW } = constants
  let fd: number | undefined
  try {
    mkdirSync(dirname(path), { recursive: true })
    fd = openSync(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600)
    const length = fstatSync(fd).size
    const head = Buffer.alloc(mark.length)
    readSync(fd, head, 0, head.length, 0)
    const begins = head.toString('latin1')
    if (length > 0 && begins !== mark && !begins.startsWith(jsonMark)) {
      throw new BrokerError('CONFLICT', `${path} is there already, and no trace`)
    }
    if (length + head.length > most) throw new BrokerError('CONFLICT', `${path} is full`)
    fchmodSync(fd, 0o600)
    return { fd, length }
  } catch (cause) {
    if (fd !== undefined) closeSync(fd)
    if (cause instanceof BrokerError) throw cause
    throw new BrokerError('UNAVAILABLE', `cannot write ${path}: ${messageOf(cause)}`, { cause })
  }
}

/** `lamp.log` and `log/lamp.log` are the same; it must be under the home's log/. */
function pathOf(home: string, file: string): string {
  const dir = join(home, 'log')
  const path = isAbsolute(file) ? file : join(file.startsWith('log/') ? home : dir, file)
  const inside = relative(dir, path)
  if (inside === '' || inside.startsWith('..') || file.endsWith('/') || file.includes('\0')) {
    throw new BrokerError('BAD_REQUEST', `expected a file under log/, got "${file}"`)
  }
  return path
}

/** One that no other trace has, by its second. */
function fileName(kind: TraceKind, value: string): string {
  const name = value
    .replace(/[^\w.-]/g, '_')
    .replace(/^\.+/, '')
    .slice(0, 60)
  const time = new Date().toISOString().replace(/[-:]/g, '').replace('T', '-').slice(0, 15)
  return `trace_${kind}_${name}_${time}.log`
}

function testOf(kind: TraceKind, value: string): (who: Who) => boolean {
  if (value === '') throw new BrokerError('BAD_REQUEST', `a ${kind} must not be empty`)
  if (kind === 'client') return ({ clientId }) => clientId === value
  if (kind === 'user') return ({ username }) => username === value
  if (kind === 'topic') {
    if (!isTopicFilter(value) || splitShared(value).filter !== value) {
      throw new BrokerError(
        'BAD_REQUEST',
        `expected a topic filter (+ and # fill a whole level, # the last), got "${value}"`
      )
    }
    return () => false
  }
  try {
    const has = within([parseNetwork(value)])
    return ({ address }) => has(address)
  } catch (err) {
    if (!(err instanceof SyntaxError)) throw err
    throw new BrokerError('BAD_REQUEST', err.message)
  }
}

function read<T>(key: Key<T>, text: string | undefined, option: string): T {
  try {
    return text === undefined ? key.fallback!.value : key.parse(text)
  } catch (err) {
    if (!(err instanceof SyntaxError)) throw err
    throw new BrokerError('BAD_REQUEST', `${option}: ${err.message}`)
  }
}

const clock = (at: Date): string => at.toISOString().replace('T', ' ').replace('Z', '')

/** What a client chose can neither forge a line nor pass for two values. */
function plain(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  const isSimple = /^[\w.:@/[\]+#$*-]+$/.test(text)
  return isSimple
    ? text
    : JSON.stringify(value).replace(/[\u007f-\u009f]/g, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
}
