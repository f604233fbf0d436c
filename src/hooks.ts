/**
 * The points where plugins take part in the life of a client or a message.
 *
 * There are three kinds, one runner each:
 *   ask   a question; the first handler that does not say 'ignore' decides  (client.authenticate)
 *   pass  a value; each handler may replace or drop it                       (message.publish)
 *   tell  a fact; every handler hears it                                     (client.connected)
 *
 * Handlers belong to an owner (the plugin's name) and leave with it. A question
 * that throws or is late is answered 'failed', which lets nobody in.
 */
import type { Log } from './log.js'

export interface Peer {
  /** IP address, without IPv4-in-IPv6 dressing. */
  readonly address: string
  readonly port: number
}

export interface ClientInfo {
  readonly clientId: string
  readonly username: string | undefined
  readonly peer: Peer
  /** Whether the peer is this host; a web page of another site in a browser here is not. */
  readonly local: boolean
  /** Which listener it came through: `tcp:external`. */
  readonly listener: string
  readonly cleanSession: boolean
  /** Seconds; 0 is none. */
  readonly keepAlive: number
  /** 3 is MQTT 3.1, 4 is MQTT 3.1.1. */
  readonly protocolVersion: number
  readonly connectedAt: Date
}

export interface Message {
  topic: string
  payload: Buffer
  qos: 0 | 1 | 2
  retain: boolean
  /** Client id of the publisher; undefined when the broker itself publishes. */
  readonly from: string | undefined
}

export type Action = 'publish' | 'subscribe'

/** Why a connection ended, in the words of the log, `listeners` and the `client.disconnected` hook. */
export type EndReason =
  | 'normal' // the client sent DISCONNECT
  | 'closed' // the peer closed the connection
  | 'keepalive_timeout'
  | 'idle_timeout' // no CONNECT within mqtt.client.idle_timeout
  | 'send_timeout' // the peer does not read
  | 'takeover' // another connection with the same client id
  | 'kicked'
  | 'protocol_error'
  | 'packet_too_large'
  | 'not_authorized' // by the ACL, where mqtt.acl_deny_action = disconnect
  | 'refused' // CONNECT was answered with a code other than 0
  | 'shutdown'
  | 'error'

/** `[arguments, answers]` of each question. */
export interface Questions {
  /** 'superuser' is allowed and stands above the ACL. */
  'client.authenticate': [[client: ClientInfo, password: Buffer | undefined], 'allow' | 'superuser' | 'deny' | 'ignore']
  'client.authorize': [[client: ClientInfo, action: Action, topic: string], 'allow' | 'deny' | 'ignore']
}
export interface Values {
  'message.publish': Message
}
export interface Facts {
  'client.connected': [client: ClientInfo]
  'client.disconnected': [client: ClientInfo, reason: EndReason]
  'session.subscribed': [client: ClientInfo, filter: string, qos: number]
  'session.unsubscribed': [client: ClientInfo, filter: string]
}

export type HookName = keyof Questions | keyof Values | keyof Facts
type Awaitable<T> = T | Promise<T>
export type Handler<N extends HookName> = N extends keyof Questions
  ? (...args: Questions[N][0]) => Awaitable<Questions[N][1]>
  : N extends keyof Values
    ? (value: Values[N]) => Awaitable<Values[N] | null>
    : N extends keyof Facts
      ? (...args: Facts[N]) => Awaitable<void>
      : never

export interface HookScope {
  /** Adds a handler. Higher priority runs first; equal priorities run in order of registration. */
  on<N extends HookName>(name: N, handler: Handler<N>, options?: { priority?: number }): void
}

interface Entry {
  readonly owner: string
  readonly priority: number
  readonly handler: (...args: any[]) => any
}

const none: readonly Entry[] = []

/** How long a failure that was logged is not logged again. */
const quietMs = 10_000

export class Hooks {
  readonly #entries = new Map<HookName, readonly Entry[]>()
  readonly #failures = new Map<string, { at: number; unsaid: number }>()
  readonly #log: Log
  readonly #timeoutMs: number

  constructor(log: Log, { timeoutMs = 5000 } = {}) {
    this.#log = log
    this.#timeoutMs = timeoutMs
  }

  /** The view given to one plugin: it can add handlers, all under its own name. */
  scope(owner: string): HookScope {
    return {
      on: (name, handler, { priority = 0 } = {}) => {
        const list = [...this.#list(name), { owner, priority, handler }]
        this.#entries.set(
          name,
          list.sort((a, b) => b.priority - a.priority)
        )
      }
    }
  }

  /** Removes every handler of `owner`. */
  release(owner: string): void {
    for (const [name, list] of this.#entries)
      this.#entries.set(
        name,
        list.filter(e => e.owner !== owner)
      )
  }

  /** Whether anyone listens. The message path asks first, and costs nothing when nobody does. */
  has(name: HookName): boolean {
    return this.#list(name).length > 0
  }

  async ask<N extends keyof Questions>(name: N, ...args: Questions[N][0]): Promise<Questions[N][1] | 'failed'> {
    for (const { owner, handler } of this.#list(name)) {
      try {
        const answer: Questions[N][1] = await this.#inTime(handler(...args))
        if (answer !== 'ignore') return answer
      } catch (err) {
        this.#failed(owner, name, err)
        return 'failed'
      }
    }
    return 'ignore'
  }

  /** A handler that throws is skipped: a broken filter must not lose messages. */
  async pass<N extends keyof Values>(name: N, value: Values[N]): Promise<Values[N] | null> {
    let current = value
    for (const { owner, handler } of this.#list(name)) {
      try {
        const next: Values[N] | null | undefined = await this.#inTime(handler(current))
        if (next === null) return null
        if (next !== undefined) current = next // a handler in JavaScript that only looks returns nothing
      } catch (err) {
        this.#failed(owner, name, err)
      }
    }
    return current
  }

  tell<N extends keyof Facts>(name: N, ...args: Facts[N]): void {
    for (const { owner, handler } of this.#list(name)) {
      void (async () => handler(...args))().catch((err: unknown) => {
        this.#failed(owner, name, err)
      })
    }
  }

  /** A backend that is away fails every question: one line in a while tells as much as a thousand. */
  #failed(owner: string, name: HookName, err: unknown): void {
    const key = `${owner} ${name}`
    const last = this.#failures.get(key)
    if (last !== undefined && performance.now() - last.at < quietMs) {
      last.unsaid++
      return
    }
    this.#failures.set(key, { at: performance.now(), unsaid: 0 })
    const unsaid = last === undefined || last.unsaid === 0 ? {} : { unsaid: last.unsaid }
    this.#log.error(`${owner} failed in ${name}`, { ...unsaid, err })
  }

  #list(name: HookName): readonly Entry[] {
    return this.#entries.get(name) ?? none
  }

  async #inTime<T>(work: Awaitable<T>): Promise<T> {
    if (!(work instanceof Promise)) return work
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        reject(new Error(`no answer within ${this.#timeoutMs} ms`))
      }, this.#timeoutMs)
    })
    try {
      return await Promise.race([work, late])
    } finally {
      clearTimeout(timer)
    }
  }
}
