/**
 * Traces: every packet of a client, a user or an address, or every PUBLISH under a topic
 * filter, in both directions, written to a file until the time or the file is full. Here
 * is which traces there are, and which connections they mean.
 *
 * A connection that no trace means has no observer, and costs nothing: each trace looks at
 * the connections once when it begins, and while there is one, at those that come.
 */
import type { ClientRef } from '../../base/client-ref.js'
import { BrokerError } from '../../base/errors.js'
import type { Log } from '../../base/log/log.js'
import { duration, integer, type Key, oneOf, parseNetwork, size, within } from '../../config/values.js'
import { isTopicFilter, splitShared } from '../../wire/topic.js'
import { ConnectionObserver, type TracedConnection } from './connection-observer.js'
import { Trace, type TraceInfo, type TraceKind, traceFileName, tracePath } from './trace-file.js'

/** As the operator wrote them. */
export interface TraceTerms {
  readonly file?: string | undefined
  readonly for?: string | undefined
  readonly format?: string | undefined
  readonly payload?: string | undefined
  readonly size?: string | undefined
}

const mostTraces = 30

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
    const path = tracePath(home, terms.file ?? traceFileName(kind, value))
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

  /** A connection that is new, or whose client is known by now. */
  look(subject: TracedConnection, isKnown: boolean): void {
    const { out } = subject.link
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
    observer.judge(observer.subject.card.ref)
    if (observer.isWanted) return
    this.#observers.delete(observer)
    if (observer.subject.link.out.observer === observer) observer.subject.link.out.observer = undefined
  }
}

function testOf(kind: TraceKind, value: string): (who: ClientRef) => boolean {
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
