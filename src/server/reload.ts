/**
 * The configuration while the broker runs: read again (`reload`), changed by a key
 * (`set`), and shown. All or nothing: every part prepares the other settings, then what
 * can still fail is done, with the new ports open and the plugins at work; then everything is
 * put in force without a wait. What is in force is a set of texts by key, as one file
 * would have them, so that it is checked as a file is.
 */
import { isDeepStrictEqual } from 'node:util'
import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import type { Log } from '../base/log/log.js'
import { nearest } from '../base/suggest.js'
import { effectOf } from '../config/broker-keys.js'
import { isSecret, type Value, type Values } from '../config/schema.js'
import type { Effect } from '../config/values.js'
import type { Change, ConfigOperations, Phase, Report, Shown } from '../ops/operations.js'
import type { Part, Prepared } from './part.js'
import { trying, tryingLater } from './problems.js'
import { type Settings, settingsOf } from './settings.js'

export interface ReloadDeps {
  readonly home: Home
  readonly settings: Settings
  readonly log: Log
  readonly parts: Iterable<Part>
  phase(): Phase
  /** Of the loaded plugins, as their files said when they were loaded. */
  pluginValues(): Values
}

const masked = '******'

export class Reload implements ConfigOperations {
  readonly #deps: ReloadDeps
  #settings: Settings
  #inForce: Values
  #turn: Promise<unknown> = Promise.resolve()

  constructor(deps: ReloadDeps) {
    this.#deps = deps
    this.#settings = deps.settings
    this.#inForce = deps.settings.files!.values
  }

  /** Reads everything under etc/ again. Throws a BrokerError with every problem, and then nothing has changed. */
  async reload(): Promise<Report> {
    return await this.#inTurn(async () => {
      const { home, log } = this.#deps
      try {
        const values = await this.#read()
        const changes = changesBetween(this.#inForce, values)
        const report = await this.#apply(settingsOf(home, this.#withoutRestarts(values)), true)
        const all = [...changes, ...report.changes]
        const keys = all.map(({ key, effect }) => (effect === 'restart' ? `${key} (needs a restart)` : key))
        log.info('configuration is read again', { changed: keys.join(', ') || 'nothing' })
        return { ...report, changes: all }
      } catch (err) {
        if (!(err instanceof BrokerError)) throw err
        throw new BrokerError(err.code, `${err.message}\nnothing was changed`, { cause: err })
      }
    })
  }

  /** Sets a key until a restart or a reload. */
  async set(key: string, text: string): Promise<Change> {
    return await this.#inTurn(async () => {
      if (/[\r\n]/.test(text)) throw new BrokerError('BAD_REQUEST', `${key}: a value is one line`)
      const given = { value: undefined, text: text.trim(), from: 'set', fallback: undefined }
      const next = settingsOf(this.#deps.home, new Map([...this.#inForce, [key, given]]))
      const effect = effectOf(key)
      if (typeof effect === 'object') throw new BrokerError('BAD_REQUEST', `${key} needs a restart: ${effect.restart}`)
      const change = changeOf(key, this.#inForce.get(key), next.values.get(key), effect)
      await this.#apply(next, false)
      const { from, to } = change
      this.#deps.log.info('key is set', { key, from, to })
      return change
    })
  }

  /** Resolves when nothing is being changed. */
  async idle(): Promise<void> {
    await this.#turn
  }

  /** The keys that are `prefix` or below it; all without one. */
  show(prefix = ''): Shown[] {
    const file = trying([], () => this.#deps.settings.files!.again())?.files?.values
    const ofPlugins = this.#deps.pluginValues()
    const all = new Map([...(file ?? []), ...this.#inForce, ...ofPlugins])
    const at = prefix.replace(/\.$/, '')
    const keys = [...all.keys()].filter(key => at === '' || key === at || key.startsWith(`${at}.`))
    if (keys.length === 0) {
      const meant = nearest(at, all.keys())
      throw new BrokerError('NOT_FOUND', `no such key: ${at}${meant === undefined ? '' : `; did you mean ${meant}?`}`)
    }
    return keys.map(key => {
      const inForce = ofPlugins.get(key) ?? this.#inForce.get(key)
      const stated = ofPlugins.has(key) ? inForce : file?.get(key)
      return {
        key,
        value: shown(key, inForce),
        file: stated?.from === undefined ? null : shown(key, stated),
        default: all.get(key)!.fallback ?? null,
        effect: nameOf(ofPlugins.has(key) ? 'now' : effectOf(key))
      }
    })
  }

  /** What the file says now; throws with its problems and those of every other file that is read again. */
  async #read(): Promise<Values> {
    const problems: string[] = []
    const read = trying(problems, () => this.#deps.settings.files!.again())
    if (read !== undefined) return read.files!.values
    const same = { next: this.#settings, was: this.#settings, rereads: true }
    for (const part of this.#deps.parts) {
      await (await tryingLater(problems, () => part.prepare?.(same)))?.abandon()
    }
    throw new BrokerError('CONFIG_INVALID', [...new Set(problems)].join('\n'))
  }

  /** What was read, but for what needs a restart, which is as it was. */
  #withoutRestarts(read: Values): Map<string, Value> {
    const isCold = ([key]: [string, Value]): boolean => typeof effectOf(key) === 'object'
    return new Map([...[...read].filter(each => !isCold(each)), ...[...this.#inForce].filter(isCold)])
  }

  /** Prepares every part; then opens what may fail; then puts all in force, or nothing. */
  async #apply(next: Settings & { readonly values: Values }, rereads: boolean): Promise<Report> {
    const { parts, phase } = this.#deps
    const change = { next, was: this.#settings, rereads }
    const problems: string[] = []
    const prepared: Prepared[] = []
    try {
      for (const part of parts) {
        const ready = await tryingLater(problems, () => part.prepare?.(change))
        if (ready !== undefined) prepared.push(ready)
      }
      if (problems.length > 0) throw new BrokerError('CONFIG_INVALID', problems.join('\n'))
      for (const ready of prepared.toReversed()) await ready.open?.() // ports first, then what they let in
      if (phase() !== 'running') throw new BrokerError('CONFLICT', `the broker is ${phase()}`)
    } catch (err) {
      for (const ready of prepared) await ready.abandon()
      throw err
    }
    this.#settings = next
    this.#inForce = next.values
    await Promise.all(prepared.map(ready => ready.apply()))
    const reports = prepared.flatMap(({ report }) => report ?? [])
    return {
      ...Object.assign({}, ...reports),
      changes: reports.flatMap(({ changes }) => changes ?? []),
      certificates: reports.flatMap(({ certificates }) => certificates ?? []),
      plugins: reports.flatMap(({ plugins }) => plugins ?? [])
    }
  }

  /** One at a time, and only while the broker runs. */
  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(async () => {
      const phase = this.#deps.phase()
      if (phase !== 'running') throw new BrokerError('CONFLICT', `the broker is ${phase}`)
      return await work()
    })
    this.#turn = done.catch(() => {})
    return await done
  }
}

/** Keys that have another value; in `next`, those that are not set have their default. */
export function changesBetween(was: Values, next: Values, effect: (key: string) => Effect = effectOf): Change[] {
  return [...new Set([...next.keys(), ...was.keys()])]
    .filter(key => was.has(key) === next.has(key) || (was.get(key) ?? next.get(key))!.from !== undefined) // not: its listener's defaults
    .filter(key => !isDeepStrictEqual(was.get(key)?.value, next.get(key)?.value))
    .map(key => changeOf(key, was.get(key), next.get(key), effect(key)))
}

function changeOf(key: string, was: Value | undefined, next: Value | undefined, effect: Effect): Change {
  const why = typeof effect === 'object' ? { why: effect.restart } : {}
  return { key, from: shown(key, was), to: shown(key, next), effect: nameOf(effect), ...why }
}

const nameOf = (effect: Effect): Change['effect'] => (typeof effect === 'object' ? 'restart' : effect)

function shown(key: string, value: Value | undefined): string | null {
  const text = value?.text
  if (text === undefined || text === '') return null
  return isSecret(key) ? masked : text
}
