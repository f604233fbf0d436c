/**
 * The log: pino makes a JSON line of each event, and every sink takes it as JSON
 * or as text. Sinks come and go at run time (`broker attach` is one).
 */
import { pino } from 'pino'

/** emqttd's names, most talkative first. */
export type Level = 'debug' | 'info' | 'warning' | 'error' | 'critical'
export const levels: readonly Level[] = ['debug', 'info', 'warning', 'error', 'critical']

export interface Log {
  debug(message: string, fields?: object): void
  info(message: string, fields?: object): void
  warning(message: string, fields?: object): void
  error(message: string, fields?: object): void
  /** What ends the process. */
  critical(message: string, fields?: object): void
  /** A logger whose lines carry `name`. */
  child(name: string): Log
}

export interface Sink {
  readonly level: Level
  readonly format: 'json' | 'text'
  /** Takes one line, its newline included. */
  write(line: string): void
  /** Resolves when everything written is where it belongs. */
  close?(): Promise<void>
}

export interface LogRoot extends Log {
  /** Adds a sink; returns what removes it. */
  add(sink: Sink): () => void
  /** Closes every sink. */
  close(): Promise<void>
}

const customLevels = { debug: 10, info: 20, warning: 30, error: 40, critical: 50 } as const

export function createLog(...given: Sink[]): LogRoot {
  const sinks = new Set<Sink>(given)
  const destination = {
    write(line: string): void {
      let text: string | undefined
      const event = JSON.parse(line) as LogEvent
      for (const sink of sinks) {
        if (customLevels[event.level] < customLevels[sink.level]) continue
        if (sink.format === 'text') text ??= toText(event)
        sink.write(sink.format === 'text' ? text! : line)
      }
    }
  }
  const root = pino(
    {
      customLevels,
      useOnlyCustomLevels: true,
      level: 'debug',
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }) }
    },
    destination
  )
  // pino formats what no sink will take; tell it the lowest level anybody wants.
  const settle = (): void => {
    root.level = levels.find(l => [...sinks].some(s => s.level === l)) ?? 'silent'
  }
  settle()
  return {
    ...logOf(root, () => root.level),
    add(sink) {
      sinks.add(sink)
      settle()
      return () => {
        sinks.delete(sink)
        settle()
      }
    },
    async close() {
      const closing = [...sinks]
      sinks.clear() // what is said from now on, nobody hears
      settle()
      await Promise.all(closing.map(sink => sink.close?.()))
    }
  }
}

type Pino = pino.Logger<Level, true>

/** Children follow the root's level, which sinks may change after a child was made. */
function logOf(logger: Pino, level: () => string): Log {
  const at =
    (l: Level) =>
    (message: string, fields: object = {}): void => {
      logger.level = level()
      logger[l](fields, message)
    }
  return {
    debug: at('debug'),
    info: at('info'),
    warning: at('warning'),
    error: at('error'),
    critical: at('critical'),
    child: name => logOf(logger.child({ name }) as Pino, level)
  }
}

interface LogEvent {
  readonly level: Level
  readonly time: string
  readonly name?: string
  readonly msg: string
  /** Anything may be thrown; pino takes an Error apart. */
  readonly err?: { type: string; message: string; stack?: string } | string | number | boolean | null
  readonly [field: string]: unknown
}

/** `2026-11-22 21:15:49.123 [info] auth_pgsql: lost an idle connection host=db`. A stack follows for bugs only. */
export function toText({ level, time, name, msg, err, ...fields }: LogEvent): string {
  const tail = Object.entries(fields).map(([k, v]) => ` ${k}=${quoted(v)}`)
  const cause = err === undefined ? '' : `: ${reason(err)}`
  const head = `${time.replace('T', ' ').replace('Z', '')} [${level}] ${name === undefined ? '' : `${name}: `}`
  return `${oneEvent(head + msg + tail.join('') + cause)}\n`
}

function reason(err: NonNullable<LogEvent['err']> | null): string {
  if (typeof err !== 'object' || err === null) return String(err)
  return err.message === undefined ? JSON.stringify(err) : isBug(err) ? (err.stack ?? err.message) : err.message
}

const isBug = ({ type }: { type: string }): boolean => /^(Type|Reference|Range|Assertion)Error$/.test(type)

/** Lines after the first are set in, so that no text from outside can pass for an event; nor does it ring a bell. */
const oneEvent = (text: string): string =>
  text.replace(/\r?\n/g, '\n    ').replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g, '·')

/** A value that a shell or a person can tell from its neighbours; what a client chose cannot forge a line. */
function quoted(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  return /^[\w.:@/[\]+#$*-]+$/.test(text) ? text : JSON.stringify(text)
}
