/**
 * One trace and the file it writes: what a line looks like, when the file is full or its time is over, and where a file
 * may be.
 *
 * A trace never waits for the disk: packets that come faster than they can be written are left out, and counted. It
 * appends to a file of its own kind and to no other, and what a client chose cannot forge a line.
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
import type { ClientRef } from '../../base/client-ref.js'
import { BrokerError, messageOf } from '../../base/errors.js'

export type TraceKind = 'client' | 'topic' | 'user' | 'ip'

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

/** Bytes that may wait to be written. */
const mostPending = 4 * 1024 * 1024

export interface TraceOptions {
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

export class Trace {
  readonly isMeant: (who: ClientRef) => boolean
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

  constructor(options: TraceOptions, isMeant: (who: ClientRef) => boolean, ended: (why: string) => void) {
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

  write({ clientId, username }: ClientRef, peername: string, event: Record<string, unknown>): void {
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
export function tracePath(home: string, file: string): string {
  const dir = join(home, 'log')
  const path = isAbsolute(file) ? file : join(file.startsWith('log/') ? home : dir, file)
  const inside = relative(dir, path)
  if (inside === '' || inside.startsWith('..') || file.endsWith('/') || file.includes('\0')) {
    throw new BrokerError('BAD_REQUEST', `expected a file under log/, got "${file}"`)
  }
  return path
}

/** One that no other trace has, by its second. */
export function traceFileName(kind: TraceKind, value: string): string {
  const name = value
    .replace(/[^\w.-]/g, '_')
    .replace(/^\.+/, '')
    .slice(0, 60)
  const time = new Date().toISOString().replace(/[-:]/g, '').replace('T', '-').slice(0, 15)
  return `trace_${kind}_${name}_${time}.log`
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
