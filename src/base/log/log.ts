/**
 * The log: pino makes a JSON line of each event, and every sink takes it as JSON
 * or as text. Sinks come and go at run time (`broker attach` is one).
 */
import { pino } from 'pino'
import { Repeats } from './repeats.js'

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
  /** Under which name its level can be set at run time; one without is not offered. */
  readonly target?: string
  readonly level: Level
  readonly format: 'json' | 'text'
  /** Takes one line, its newline included. */
  write(line: string): void
  /** Resolves when everything written is where it belongs. */
  close?(): Promise<void>
}

export interface LogRoot extends Log {
  /** Adds a sink; returns what removes and closes it. */
  add(sink: Sink): () => void
  /** The logs whose level can be set, as they are now. */
  targets(): LogTarget[]
  /** Sets the level of a target, or of all but `error`; returns what was set, nothing when there is no such one. */
  setLevel(level: Level, target?: string): LogTarget[]
  /** How many equal lines about one client a second are written; 0 is all. */
  limitRepeats(perSecond: number): void
  /** Puts others in place of the sinks that it was made with, and closes those; levels that were set are forgotten. */
  replaceSinks(sinks: readonly Sink[]): Promise<void>
  /** Closes every sink. */
  close(): Promise<void>
}

export interface LogTarget {
  readonly target: string
  readonly level: Level
  /** What the configuration says. */
  readonly configured: Level
  readonly format: Sink['format']
}

/** Unless told: what no sound broker says of one client in a second. */
const usualRepeats = 100

const customLevels = { debug: 10, info: 20, warning: 30, error: 40, critical: 50 } as const

export function createLog(...given: Sink[]): LogRoot {
  const sinks = new Set<Sink>(given)
  const repeats = new Repeats(usualRepeats)
  /** By target, where it was set. */
  const chosen = new Map<string, Level>()
  const levelOf = ({ target, level }: Sink): Level => (target === undefined ? level : (chosen.get(target) ?? level))
  let own: readonly Sink[] = given
  const destination = {
    write(line: string): void {
      let text: string | undefined
      const event = JSON.parse(line) as LogEvent
      for (const sink of sinks) {
        if (customLevels[event.level] < customLevels[levelOf(sink)]) continue
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
      formatters: { level: label => ({ level: label }) },
      serializers: { err: told }
    },
    destination
  )
  // pino formats what no sink will take; tell it the lowest level anybody wants.
  const settle = (): void => {
    root.level = levels.find(l => [...sinks].some(s => levelOf(s) === l)) ?? 'silent'
  }
  settle()
  const targets = (): LogTarget[] => {
    const named = [...sinks].flatMap(s =>
      s.target === undefined
        ? []
        : [[s.target, { target: s.target, level: levelOf(s), configured: s.level, format: s.format }] as const]
    )
    return [...new Map(named).values()]
  }
  return {
    ...logOf(root, () => root.level as Level | 'silent', repeats),
    targets,
    setLevel(level, target) {
      const meant = targets().filter(t => (target === undefined ? t.target !== 'error' : t.target === target))
      for (const each of meant) chosen.set(each.target, level)
      settle()
      return targets().filter(t => meant.some(each => each.target === t.target))
    },
    limitRepeats(perSecond) {
      repeats.perSecond = perSecond
    },
    add(sink) {
      sinks.add(sink)
      settle()
      return () => {
        if (!sinks.delete(sink)) return
        settle()
        void sink.close?.()
      }
    },
    async replaceSinks(next) {
      const old = own
      own = next
      chosen.clear()
      for (const sink of old) sinks.delete(sink)
      for (const sink of next) sinks.add(sink)
      settle()
      await Promise.all(old.filter(sink => !next.includes(sink)).map(sink => sink.close?.()))
    },
    async close() {
      repeats.flush()
      const closing = [...sinks]
      sinks.clear() // what is said from now on, nobody hears
      settle()
      await Promise.all(closing.map(sink => sink.close?.()))
    }
  }
}

type Pino = pino.Logger<Level, true>

/** Children follow the root's level, which sinks may change after a child was made. */
function logOf(logger: Pino, level: () => Level | 'silent', repeats: Repeats): Log {
  const at =
    (l: Level) =>
    (message: string, fields: Fields = {}): void => {
      const lowest = level()
      if (lowest === 'silent' || customLevels[l] < customLevels[lowest]) return
      if (logger.level !== lowest) logger.level = lowest // setting it makes pino's methods anew
      const { clientId = '', listener = '' } = fields
      const key = `${message.slice(0, 200)}\0${clientId}\0${listener}`
      if (l === 'critical' || repeats.admit(key)) return logger[l](fields, message)
      repeats.fold(key, suffix => {
        logger.level = level()
        logger[l]({ listener: fields.listener, clientId: fields.clientId }, `${message} ${suffix}`)
      })
    }
  return {
    debug: at('debug'),
    info: at('info'),
    warning: at('warning'),
    error: at('error'),
    critical: at('critical'),
    child: name => logOf(logger.child({ name }) as Pino, level, repeats)
  }
}

/** By which lines are told apart; others are as free as ever. */
interface Fields {
  readonly clientId?: string
  readonly listener?: string
}

/**
 * What a reader needs of an error. It may carry more, which is left out: Node's HTTP errors have the bytes that
 * came, others a connection with its password.
 */
function told(err: unknown): unknown {
  if (!(err instanceof Error)) return err
  const { type, message, stack, code } = pino.stdSerializers.err(err) as { [field: string]: unknown }
  return { type, message, stack, ...(code === undefined ? {} : { code }) }
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
