/**
 * `broker-ctl top`: what the broker is busy with, on this terminal, until `q`. Whatever ends
 * it, the terminal is as it was. When the broker goes away that is said, and it is
 * asked again each second.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import chalk, { Chalk, type ChalkInstance } from 'chalk'
import { AdminClient } from '../admin/client.js'
import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import type { Sample } from '../ops/samples.js'
import { Exit, type Io } from './io.js'
import { extent, frame, type Pane, panes, type Size, type View } from './top-frame.js'

export interface TopOptions {
  readonly pane: string
  /** One picture, plain, and no keys. */
  readonly once: boolean
  /** Plain data, a line each second. */
  readonly json: boolean
}

const againMs = 1000

export async function top(home: Home, io: Io, { pane, once, json }: TopOptions): Promise<number> {
  const at = panes.find(name => name === pane)
  if (at === undefined) throw new BrokerError('BAD_REQUEST', `no such pane: ${pane}; there are ${panes.join(', ')}`)
  const admin = new AdminClient(home.adminSocket)
  if (once || json) return await printed(admin, io, { pane: at, once, json })
  const { stdin, stdout } = process
  if (!stdout.isTTY || !stdin.isTTY || io.secret === undefined) {
    throw new BrokerError('BAD_REQUEST', 'top needs a terminal of its own; --once prints it one time, --json its data')
  }
  return await new Screen(admin, at, stdin, stdout, chalk).run()
}

async function printed(
  admin: AdminClient,
  io: Io,
  { pane, once, json }: { pane: Pane; once: boolean; json: boolean }
): Promise<number> {
  const over = new AbortController()
  let told = 0
  await admin.followTop(over.signal, sample => {
    if (once && told > 0) return
    told++
    if (json) io.out(JSON.stringify(sample))
    else {
      const view = { ...atFirst, pane }
      const lines = frame(sample, view, sizeOf(process.stdout), new Chalk({ level: 0 })).slice(0, -1) // without the keys
      io.out(
        lines
          .map(line => line.trimEnd())
          .join('\n')
          .trimEnd()
      )
    }
    if (once) over.abort()
  })
  if (told === 0) throw new BrokerError('UNREACHABLE', 'the broker has stopped')
  return Exit.ok
}

const atFirst = { order: 0, skip: 0, isPaused: false, isHelp: false, trouble: undefined } as const

const sizeOf = ({ columns, rows }: { columns?: number; rows?: number }): Size => ({
  columns: columns || 80,
  rows: rows || 24
})

// Another screen beside the shell's, no cursor, no new line behind the last column.
const enter = '\u001b[?1049h\u001b[?25l\u001b[?7l'
const leave = '\u001b[?7h\u001b[?25h\u001b[?1049l'

const signals = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1, SIGQUIT: 3 } as const

class Screen {
  readonly #admin: AdminClient
  readonly #stdin: NodeJS.ReadStream
  readonly #stdout: NodeJS.WriteStream
  readonly #paint: ChalkInstance
  readonly #over = new AbortController()
  #view: View
  #sample: Sample | undefined
  #isThere = false

  constructor(
    admin: AdminClient,
    pane: Pane,
    stdin: NodeJS.ReadStream,
    stdout: NodeJS.WriteStream,
    paint: ChalkInstance
  ) {
    this.#admin = admin
    this.#stdin = stdin
    this.#stdout = stdout
    this.#paint = paint
    this.#view = { ...atFirst, pane }
  }

  async run(): Promise<number> {
    const restore = (): void => this.#leave()
    const resized = (): void => this.#draw()
    const resumed = (): void => this.#enter()
    const pressed = (keys: string): void => this.#press(keys)
    const ended = (): void => this.#over.abort()
    let status: number = Exit.ok
    const ends = Object.entries(signals).map(([name, number]) => {
      const end = (): void => {
        status = 128 + number
        this.#over.abort()
      }
      return [name as keyof typeof signals, end] as const
    })
    process.on('exit', restore) // also of what nobody caught
    for (const [name, end] of ends) process.on(name, end)
    process.on('SIGCONT', resumed)
    this.#stdout.on('resize', resized).on('error', ended)
    this.#stdin.setEncoding('utf8').on('data', pressed).on('end', ended).on('error', ended)
    try {
      await this.#follow()
    } finally {
      this.#leave()
      this.#stdin.off('data', pressed).off('end', ended).off('error', ended).pause()
      this.#stdout.off('resize', resized)
      for (const [name, end] of ends) process.off(name, end)
      process.off('SIGCONT', resumed).off('exit', restore)
    }
    return status
  }

  /** When no broker answers the first time, that is an error as with any other command. */
  async #follow(): Promise<void> {
    const { signal } = this.#over
    while (!signal.aborted) {
      let trouble = 'the broker has stopped'
      try {
        await this.#admin.followTop(signal, sample => this.#take(sample))
      } catch (err) {
        if (this.#sample === undefined || !(err instanceof BrokerError)) throw err
        trouble = err.message
      }
      if (signal.aborted) return
      if (this.#sample === undefined) throw new BrokerError('UNREACHABLE', trouble)
      this.#change({ trouble: `no broker, asking again each second: ${trouble}` })
      await sleep(againMs, undefined, { signal }).catch(() => {})
    }
  }

  #take(sample: Sample): void {
    if (this.#over.signal.aborted) return
    if (!this.#isThere) this.#enter()
    if (this.#view.isPaused && this.#view.trouble === undefined) return
    this.#sample = sample
    this.#change({ trouble: undefined })
  }

  #enter(): void {
    if (this.#over.signal.aborted) return
    this.#isThere = true
    this.#stdin.setRawMode(true)
    this.#stdout.write(enter)
    this.#draw()
  }

  #leave(): void {
    if (!this.#isThere) return
    this.#isThere = false
    try {
      this.#stdin.setRawMode(false)
      this.#stdout.write(leave)
    } catch {
      // The terminal is gone.
    }
  }

  #change(change: Partial<View>): void {
    this.#view = { ...this.#view, ...change }
    this.#draw()
  }

  /** A terminal that is slow gets the next picture instead. */
  #draw(): void {
    if (!this.#isThere || this.#sample === undefined || this.#stdout.writableLength > 0) return
    const lines = frame(this.#sample, this.#view, sizeOf(this.#stdout), this.#paint)
    // What was there goes before the line comes: behind one of full width its last character would go.
    this.#stdout.write(`\u001b[H${lines.map(line => `\u001b[K${line}`).join('\r\n')}`)
  }

  #press(keys: string): void {
    for (const [key] of keys.matchAll(/\u001b(?:\[[\d;]*[~A-Za-z]|O[A-Za-z])?|./gsu)) this.#key(key)
  }

  #key(key: string): void {
    const { order, isHelp, isPaused } = this.#view
    switch (key) {
      case 'q':
      case '\u0003':
      case '\u0004':
        return this.#over.abort()
      case '\u001a': // Ctrl-Z: the shell's, until it lets us go on
        this.#leave()
        process.kill(process.pid, 'SIGTSTP')
        return
      case 'c':
        return this.#pane('clients')
      case 't':
        return this.#pane('topics')
      case 's':
        return this.#pane('slow')
      case 'p':
      case ' ':
        return this.#change({ isPaused: !isPaused })
      case '?':
      case 'h':
        return this.#change({ isHelp: !isHelp })
      case '\u001b':
        return this.#change({ isHelp: false })
      case '\u001b[C':
      case '\u001bOC':
        return this.#change({ order: (order + 1) % orders, skip: 0 })
      case '\u001b[D':
      case '\u001bOD':
        return this.#change({ order: (order + orders - 1) % orders, skip: 0 })
      case '\u001b[A':
      case '\u001bOA':
        return this.#scroll(-1)
      case '\u001b[B':
      case '\u001bOB':
        return this.#scroll(1)
      case '\u001b[5~':
        return this.#scroll('back')
      case '\u001b[6~':
        return this.#scroll('on')
      case '\u001b[H':
      case '\u001b[1~':
        return this.#change({ skip: 0 })
    }
  }

  #pane(pane: Pane): void {
    this.#change({ pane, skip: 0, order: 0, isHelp: false })
  }

  #scroll(by: number | 'on' | 'back'): void {
    if (this.#sample === undefined) return
    const { all, fit } = extent(this.#sample, this.#view.pane, sizeOf(this.#stdout))
    const rows = by === 'on' ? fit : by === 'back' ? -fit : by
    this.#change({ skip: Math.max(0, Math.min(all - fit, this.#view.skip + rows)) })
  }
}

/** Every pane has as many. */
const orders = 3
