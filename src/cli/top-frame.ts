/**
 * One picture of `broker-ctl top`: lines of at most so many columns. Names are the clients'
 * choice: what would command the terminal, or look like something else, is shown by its number.
 */
import type { ChalkInstance } from 'chalk'
import { visible } from '../commands/command.js'
import type { ClientLoad, Sample, TopicLoad } from '../ops/samples.js'

export const panes = ['clients', 'topics', 'slow'] as const
export type Pane = (typeof panes)[number]

export interface View {
  readonly pane: Pane
  /** Which of the pane's orders; it goes round. */
  readonly order: number
  /** Rows that are scrolled past. */
  readonly skip: number
  readonly isPaused: boolean
  readonly isHelp: boolean
  /** Why nothing new comes. */
  readonly trouble: string | undefined
}

export interface Size {
  readonly columns: number
  readonly rows: number
}

interface Column<T> {
  readonly title: string
  readonly of: (row: T) => string
}

interface Table<T> {
  readonly name: string
  readonly nameOf: (row: T) => string
  readonly columns: readonly Column<T>[]
  readonly orders: readonly { readonly by: string; readonly of: (row: T) => number }[]
  readonly rows: (sample: Sample) => readonly T[]
  readonly none: string
}

const clients: Table<ClientLoad> = {
  name: 'CLIENT',
  nameOf: row => row.client_id,
  columns: [
    { title: 'IN/s', of: row => count(row.messages_in) },
    { title: 'OUT/s', of: row => count(row.messages_out) },
    { title: 'IN B/s', of: row => bytes(row.bytes_in) },
    { title: 'OUT B/s', of: row => bytes(row.bytes_out) },
    { title: 'QUEUE', of: row => count(row.queue) },
    { title: 'UNACKED', of: row => count(row.inflight) }
  ],
  orders: [
    { by: 'rate', of: row => row.messages_in + row.messages_out },
    { by: 'bytes', of: row => row.bytes_in + row.bytes_out },
    { by: 'queue', of: row => row.queue }
  ],
  rows: sample => sample.top_clients,
  none: 'no client sends or gets anything'
}

const topics: Table<TopicLoad> = {
  name: 'TOPIC',
  nameOf: row => row.topic,
  columns: [
    { title: 'IN/s', of: row => count(row.messages) },
    { title: 'IN B/s', of: row => bytes(row.bytes) },
    { title: 'GET IT', of: row => count(row.receivers) }
  ],
  orders: [
    { by: 'rate', of: row => row.messages },
    { by: 'bytes', of: row => row.bytes },
    { by: 'receivers', of: row => row.receivers }
  ],
  rows: sample => sample.top_topics,
  none: 'nothing is published'
}

const slow: Table<ClientLoad> = {
  name: 'SUBSCRIBER',
  nameOf: row => row.client_id,
  columns: [
    { title: 'QUEUE', of: row => count(row.queue) },
    { title: 'UNACKED', of: row => count(row.inflight) },
    { title: 'UNSENT B', of: row => bytes(row.unsent) },
    { title: 'LOST/s', of: row => count(row.dropped_rate) },
    { title: 'LOST', of: row => count(row.dropped) },
    { title: 'OUT/s', of: row => count(row.messages_out) }
  ],
  orders: [
    { by: 'queue', of: row => row.queue },
    { by: 'losses', of: row => row.dropped_rate },
    { by: 'unsent', of: row => row.unsent }
  ],
  rows: sample => sample.slow,
  none: 'every client keeps up'
}

const tables: Readonly<Record<Pane, Table<any>>> = { clients, topics, slow }
const columnWidth = 9
const headLines = 8

/** How many rows of the pane there are, and how many fit. */
export const extent = (sample: Sample, pane: Pane, { rows }: Size): { all: number; fit: number } => ({
  all: tables[pane].rows(sample).length,
  fit: Math.max(1, rows - headLines - 1)
})

/** `rows` lines. @param paint chalk, or one of level 0. */
export function frame(sample: Sample, view: View, size: Size, paint: ChalkInstance): string[] {
  const { columns, rows } = size
  const head = [...summary(sample, columns), '', tabs(sample, view, size, paint)]
  const body = view.isHelp ? help.map(line => clipped(line, columns)) : table(sample, view, size, paint)
  const lines = [...head, ...body].slice(0, rows - 1)
  while (lines.length < rows - 1) lines.push('')
  return [...lines, foot(view, columns, paint)].slice(-rows)
}

function summary({ rates, latency, event_loop, memory, ...sample }: Sample, columns: number): string[] {
  const who = `${sample.node}  ${sample.version}  up ${duration(sample.uptime)}`
  const there = `${several(sample.clients, 'client')}, ${several(sample.sessions, 'session')}`
  const known = `${count(sample.subscriptions)} subscriptions, ${count(sample.retained)} retained`
  const within = (ms: number | null): string => (ms === null ? '-' : `${ms} ms`)
  const percent = (part: number): string => `${Math.round(part * 100)} %`
  return [
    apart(who, there, columns),
    apart(
      `messages  in ${count(rates.messages_in).padStart(7)}/s   out ${count(rates.messages_out).padStart(7)}/s   lost ${count(rates.dropped)}/s`,
      `p99 ${within(latency.p99)}`,
      columns
    ),
    apart(
      `bytes     in ${bytes(rates.bytes_in).padStart(7)}/s   out ${bytes(rates.bytes_out).padStart(7)}/s`,
      known,
      columns
    ),
    clipped(
      `process   cpu ${percent(sample.cpu)}   event loop ${percent(event_loop.busy)} busy, late by ${event_loop.late_p99} ms (p99), ${event_loop.late_max} ms (most)`,
      columns
    ),
    clipped(
      `memory    ${bytes(memory.rss)} in all   heap ${bytes(memory.heap_used)} of ${bytes(memory.heap_total)}   outside of it ${bytes(memory.external)}`,
      columns
    )
  ]
}

function tabs(sample: Sample, view: View, size: Size, paint: ChalkInstance): string {
  const names = panes.map(pane => {
    const name = pane === 'slow' && sample.slow_count > 0 ? `slow (${count(sample.slow_count)})` : pane
    return view.pane === pane && !view.isHelp ? `[${name}]` : ` ${name} `
  })
  const { orders } = tables[view.pane]
  const { all, fit } = extent(sample, view.pane, size)
  const skip = Math.min(view.skip, Math.max(0, all - fit))
  const shown = all > fit ? `${skip + 1} to ${Math.min(all, skip + fit)} of ${all}   ` : ''
  const sampled = view.pane === 'topics' && sample.sampled > 1 ? `1 message of ${sample.sampled} looked at   ` : ''
  const right = view.isHelp ? '' : `${sampled}${shown}by ${orders[view.order % orders.length]!.by}`
  const line = apart(names.join(' '), right, size.columns)
  return names.reduce((text, name) => (name.startsWith('[') ? text.replace(name, () => paint.bold(name)) : text), line)
}

function table(sample: Sample, { pane, order, skip }: View, size: Size, paint: ChalkInstance): string[] {
  const { name, nameOf, columns, orders, rows, none } = tables[pane]
  const shownColumns = columns.slice(0, Math.max(1, Math.floor((size.columns - 12) / columnWidth)))
  const nameWidth = Math.max(1, size.columns - shownColumns.length * columnWidth)
  const line = (first: string, cells: readonly string[]): string =>
    `${fitted(first, nameWidth)}${cells.map(cell => cell.padStart(columnWidth)).join('')}`
  const head = line(
    name,
    shownColumns.map(({ title }) => title)
  )
  const { of } = orders[order % orders.length]!
  const { all, fit } = extent(sample, pane, size)
  const from = Math.min(skip, Math.max(0, all - fit))
  const sorted = [...rows(sample)].sort((a, b) => of(b) - of(a)).slice(from, from + fit)
  const shown = sorted.map(row =>
    line(
      nameOf(row),
      shownColumns.map(column => column.of(row))
    )
  )
  return [paint.inverse(head), ...(shown.length > 0 ? shown : [paint.dim(clipped(none, size.columns))])]
}

export const help = [
  'c  t  s      the clients, the topics, the clients that are slow',
  'left right   put in order by another column',
  'up down      scroll; also PgUp, PgDn, Home',
  'p  space     pause, and go on',
  '?            this, and back',
  'q            quit',
  '',
  'A second each. UNACKED: sent, and not acknowledged yet. QUEUE: waits behind',
  'those. UNSENT B: bytes that the client has not read. LOST: dropped for it.',
  'Topics are counted from a sample when there is much; no count is too high.'
]

function foot({ trouble, isPaused }: View, columns: number, paint: ChalkInstance): string {
  if (trouble !== undefined) return paint.red(clipped(trouble, columns))
  const keys = 'q quit   c t s pane   \u2190\u2192 order   \u2191\u2193 scroll   p pause   ? help'
  return isPaused ? paint.yellow(apart(keys, 'paused', columns)) : paint.dim(clipped(keys, columns))
}

// ── text in columns ──────────────────────────────────────────────────────────

/** One at each end; on a narrow screen the right one is left out. */
function apart(left: string, right: string, columns: number): string {
  const gap = columns - left.length - right.length
  return right === '' || gap < 2 ? clipped(left, columns) : `${left}${' '.repeat(gap)}${right}`
}

/** Such as turn the direction of writing, or cannot be seen. */
const odd = /[\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu
const wide =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]|\p{Emoji_Presentation}/u
const combining = /\p{M}/u

/** What a terminal needs for it. */
const cellsOf = (char: string): number => (combining.test(char) ? 0 : wide.test(char) ? 2 : 1)

/** Longer names are not looked at to their end. */
const longest = 1024

/** A name in so many cells, the last one free: cut out of the middle, since names often differ at their end. */
export function fitted(text: string, width: number): string {
  const chars = [...harmless(text)]
  const room = Math.max(1, width - 1)
  const whole = take(chars, room)
  if (whole.text.length === chars.length) return whole.text.join('') + ' '.repeat(width - whole.cells)
  const front = take(chars, Math.ceil((room - 1) / 2))
  const back = take(chars.reverse(), room - 1 - front.cells)
  const cut = `${front.text.join('')}\u2026${back.text.reverse().join('')}`
  return cut + ' '.repeat(width - 1 - front.cells - back.cells)
}

/** The beginning of what is longer. */
function clipped(text: string, width: number): string {
  const chars = [...harmless(text)]
  const whole = take(chars, width)
  return whole.text.length === chars.length ? whole.text.join('') : `${take(chars, width - 1).text.join('')}\u2026`
}

const harmless = (text: string): string =>
  visible(text.slice(0, longest)).replace(odd, c => `\\u${c.codePointAt(0)!.toString(16).padStart(4, '0')}`)

function take(chars: readonly string[], most: number): { text: string[]; cells: number } {
  const text: string[] = []
  let cells = 0
  for (const char of chars) {
    const more = cellsOf(char)
    if (cells + more > most) break
    cells += more
    text.push(char)
  }
  return { text, cells }
}

/** `0.25`, `7`, `12345`, `1.2M`: at most six characters. */
export function count(n: number): string {
  if (n < 10 && !Number.isInteger(n)) return n < 1 ? n.toFixed(2) : n.toFixed(1)
  return n < 99_999.5 ? String(Math.round(n)) : scaled(n, 1000, ['', 'k', 'M', 'G', 'T'])
}

export const bytes = (n: number): string =>
  n < 1000 ? String(Math.round(n)) : scaled(n, 1024, ['', 'K', 'M', 'G', 'T'])

function scaled(n: number, by: number, units: readonly string[]): string {
  let unit = 0
  let value = n
  while (unit < units.length - 1 && (unit === 0 || value >= 999.5)) {
    value /= by
    unit++
  }
  return `${value < 99.95 ? value.toFixed(1) : Math.round(value)}${units[unit]}`
}

const several = (n: number, one: string): string => `${count(n)} ${one}${n === 1 ? '' : 's'}`

/** `1:25:24`, with days before it. */
function duration(seconds: number): string {
  const two = (n: number): string => String(Math.floor(n)).padStart(2, '0')
  const days = Math.floor(seconds / 86_400)
  const time = `${days > 0 ? two((seconds / 3600) % 24) : Math.floor(seconds / 3600)}:${two((seconds / 60) % 60)}:${two(seconds % 60)}`
  return days > 0 ? `${days} d ${time}` : time
}
