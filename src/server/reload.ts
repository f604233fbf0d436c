/**
 * The configuration while the broker runs: read again (`reload`), changed by a key
 * (`set`), and shown. All or nothing: whatever can go wrong is done first, with the
 * new ports open, the certificates read and the plugins at work; then everything is
 * put in force without a wait. What is in force is a set of texts by key, as one file
 * would have them, so that it is checked as a file is.
 */
import { isDeepStrictEqual } from 'node:util'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Home } from '../base/home.js'
import type { Sink } from '../base/log/log.js'
import { nearest } from '../base/suggest.js'
import { type BrokerOptions, type ListenerOptions, listenersOf } from '../config/broker-keys.js'
import { type Effect, effectOf, isSecret } from '../config/effect.js'
import type { Value, Values } from '../config/schema.js'
import type { Listener, Swap } from '../net/listener.js'
import type { PluginChange } from '../plugins/host.js'
import type { Server } from './server.js'
import { type Settings, settingsOf } from './settings.js'

/** A key that has another value than what is in force. */
export interface Change {
  readonly key: string
  /** Null: not set. Secrets are not shown. */
  readonly from: string | null
  readonly to: string | null
  /** `connect`: for connections made from now on. */
  readonly effect: 'now' | 'connect' | 'restart'
  /** Why it takes a restart. */
  readonly why?: string
}

export interface Report {
  readonly changes: readonly Change[]
  /** Rules of acl.conf, where they are others than before. */
  readonly rules?: number
  /** Listeners with other certificates under the same names. */
  readonly certificates: readonly string[]
  /** Plugins that were loaded anew. */
  readonly plugins: readonly string[]
}

export interface Shown {
  readonly key: string
  /** In force; null: not set. */
  readonly value: string | null
  /** What a reload would find: in the file or the environment. */
  readonly file: string | null
  readonly default: string | null
  readonly effect: Change['effect']
}

/** What the server does for it. */
export interface ReloadDeps {
  readonly home: Home
  readonly settings: Settings
  listener(options: ListenerOptions): Listener
  /** Makes those that are missing. */
  certificates(options: BrokerOptions): Promise<void>
  /** What the log goes to; undefined where that is not the configuration's. */
  readonly sinks: ((options: BrokerOptions['log']) => Sink[]) | undefined
}

const masked = '******'

export class Reload {
  readonly #server: Server
  readonly #deps: ReloadDeps
  #inForce: Values
  #turn: Promise<unknown> = Promise.resolve()

  constructor(server: Server, deps: ReloadDeps) {
    this.#server = server
    this.#deps = deps
    this.#inForce = deps.settings.files!.values
  }

  /** Reads everything under etc/ again. Throws a BrokerError with every problem, and then nothing has changed. */
  async reload(): Promise<Report> {
    return await this.#inTurn(async () => {
      const { plugins, log } = this.#server
      try {
        const problems: string[] = []
        const read = trying(problems, () => this.#deps.settings.files!.again())
        const exchanged = trying(problems, () => plugins.changes()) ?? []
        if (read === undefined || problems.length > 0) throw failed(problems)
        const { values } = read.files!
        const changes = [
          ...changesBetween(this.#inForce, values),
          ...exchanged.flatMap(({ was, next }) => changesBetween(was.values!, next.values!, () => 'now'))
        ]
        const next = settingsOf(this.#deps.home, this.#withoutRestarts(values))
        const done = await this.#apply(next, exchanged, true)
        const keys = changes.map(({ key, effect }) => (effect === 'restart' ? `${key} (needs a restart)` : key))
        log.info('configuration is read again', { changed: keys.join(', ') || 'nothing' })
        return { changes, ...done, plugins: exchanged.map(({ name }) => name.replaceAll('-', '_')) }
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
      await this.#apply(next, [], false)
      const { from, to } = change
      this.#server.log.info('key is set', { key, from, to })
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
    const ofPlugins = this.#server.plugins.values()
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

  /** What was read, but for what needs a restart, which is as it was. */
  #withoutRestarts(read: Values): Map<string, Value> {
    const isCold = ([key]: [string, Value]): boolean => typeof effectOf(key) === 'object'
    return new Map([...[...read].filter(each => !isCold(each)), ...[...this.#inForce].filter(isCold)])
  }

  async #apply(
    next: Settings & { readonly values: Values },
    plugins: readonly PluginChange[],
    readsAcl: boolean
  ): Promise<Pick<Report, 'rules' | 'certificates'>> {
    const server = this.#server
    const { options: was, access, clients, log } = server
    const { options } = next
    const problems: string[] = []
    const { sinks: sinksOf } = this.#deps
    const hasOtherRules = readsAcl || options.mqtt.aclFile !== was.mqtt.aclFile
    const acl = hasOtherRules ? trying(problems, next.loadAcl) : access.acl
    const hasOtherLog = sinksOf !== undefined && !isDeepStrictEqual(options.log, was.log)
    const sinks = hasOtherLog ? trying(problems, () => sinksOf(options.log)) : undefined
    await this.#deps.certificates(options).catch((err: unknown) => noted(problems, err))
    const plans = this.#plans(options, problems)
    const suspended: (() => Promise<void>)[] = []
    try {
      if (acl === undefined || problems.length > 0) throw failed(problems)
      await openAll(plans, suspended)
      await server.plugins.exchange(plugins)
      if (server.phase !== 'running') throw new BrokerError('CONFLICT', `the broker is ${server.phase}`)
    } catch (err) {
      for (const { swap } of plans) swap?.abandon()
      for (const resume of suspended) await resume().catch((cause: unknown) => log.error('listener lost', { cause }))
      await Promise.all((sinks ?? []).map(sink => sink.close?.()))
      throw err
    }

    const rules = isDeepStrictEqual(acl.rules, access.acl.rules) ? {} : { rules: acl.rules.length }
    server.options = options
    this.#inForce = next.values
    access.reconfigure(options.mqtt, next.loadAcl, acl)
    clients.reconfigure(options.mqtt)
    server.sys.reconfigure(options.mqtt.broker.sysInterval)
    log.limitRepeats(options.log.messagesPerSecond)
    for (const { swap } of plans) swap?.swap()
    server.listeners = plans.filter(({ swap }) => swap !== undefined).map(({ listener }) => listener)
    const leaving = plans.filter(({ swap }) => swap === undefined).map(({ listener }) => listener)
    for (const listener of leaving) {
      listener.stopAccepting()
      clients.hangUpOn(listener.name)
    }
    await Promise.all([
      ...leaving.map(listener => listener.close({ goodbyes: true })),
      sinks === undefined ? undefined : log.replaceSinks(sinks)
    ])
    return { certificates: plans.filter(({ swap }) => swap?.renews).map(({ listener }) => listener.name), ...rules }
  }

  /** What becomes of each listener: those that are to be, in their order, then those that are to go. */
  #plans(options: BrokerOptions, problems: string[]): Plan[] {
    const { listeners, options: was } = this.#server
    const shared =
      was.mqtt.maxPacketSize !== options.mqtt.maxPacketSize ||
      was.mqtt.websocketProtocolHeader !== options.mqtt.websocketProtocolHeader
    const wanted = listenersOf(options).flatMap((each): Plan[] => {
      const there = listeners.find(({ name }) => name === `${each.transport}:${each.name}`)
      const listener = there ?? this.#deps.listener(each)
      const swap = trying(problems, () => listener.prepare(each, { shared, opens: there === undefined }))
      return swap === undefined ? [] : [{ listener, swap }]
    })
    const gone = listeners.filter(listener => !wanted.some(each => each.listener === listener))
    return [...wanted, ...gone.map(listener => ({ listener, swap: undefined }))]
  }

  /** One at a time, and only while the broker runs. */
  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(async () => {
      const { phase } = this.#server
      if (phase !== 'running') throw new BrokerError('CONFLICT', `the broker is ${phase}`)
      return await work()
    })
    this.#turn = done.catch(() => {})
    return await done
  }
}

interface Plan {
  readonly listener: Listener
  /** Undefined: it goes. */
  readonly swap: Swap | undefined
}

/**
 * Opens every new port. Where one of ours that is to go stands in the way, it is closed first; `suspended` then has
 * what opens it again.
 */
async function openAll(plans: readonly Plan[], suspended: (() => Promise<void>)[]): Promise<void> {
  const leaving = plans.filter(
    ({ listener, swap }) => listener.listening && (swap === undefined || swap.boundPort !== undefined)
  )
  const ports = plans.flatMap(({ swap }) => swap?.boundPort ?? [])
  const problems: string[] = []
  for (const { listener } of leaving) {
    if (ports.some(({ wantedPort }) => wantedPort === listener.port)) suspended.push(listener.suspend())
  }
  for (const port of ports) await port.open().catch((err: unknown) => noted(problems, err))
  if (problems.length > 0) throw new BrokerError('UNAVAILABLE', problems.join('\n'))
}

function changesBetween(was: Values, next: Values, effect: (key: string) => Effect = effectOf): Change[] {
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

/** What the work gives; undefined, and one problem more, when an operator must do something about it. */
function trying<T>(problems: string[], work: () => T): T | undefined {
  try {
    return work()
  } catch (err) {
    noted(problems, err)
    return undefined
  }
}

function noted(problems: string[], err: unknown): void {
  const isOperational = err instanceof BrokerError || (err instanceof Error && 'syscall' in err)
  if (!isOperational) throw err
  problems.push(messageOf(err))
}

const failed = (problems: readonly string[]): BrokerError => new BrokerError('CONFIG_INVALID', problems.join('\n'))
