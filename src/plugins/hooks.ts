/**
 * The points where plugins take part in the life of a client or a message.
 *
 * There are three kinds, one runner each:
 *   ask   a question; the first handler that does not say 'ignore' decides  (client.authenticate)
 *   pass  a value; each handler may replace or drop it                       (message.publish)
 *   tell  a fact; every handler hears it                                     (client.connected)
 * Beside them, an authenticator converses with a client over a method of MQTT 5's
 * enhanced authentication (section 4.12); each method has one.
 *
 * Handlers belong to an owner (the plugin's name) and leave with it. A question
 * that throws or is late is answered 'failed', which lets nobody in.
 */
import type { Action, ClientInfo, EndReason } from '../base/client-info.js'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Log } from '../base/log/log.js'

export interface Message {
  topic: string
  payload: Buffer
  qos: 0 | 1 | 2
  retain: boolean
  /** Client id of the publisher; undefined when the broker itself publishes. */
  readonly from: string | undefined
}

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
  /** It may not come in; `code` is that of its CONNACK, in MQTT 3.1.1's numbers. */
  'client.refused': [client: ClientInfo, code: number]
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

/**
 * What an authenticator says to the client's last words. `data` goes to the client as Authentication Data, at
 * most 65535 bytes; its form is the method's.
 */
export type AuthStep =
  /** The client is to say more: AUTH 0x18. */
  | { readonly result: 'continue'; readonly data?: Uint8Array | undefined }
  /** It has shown who it is: CONNACK 0x00, or AUTH 0x00 when it was in already. */
  | {
      readonly result: 'success'
      readonly data?: Uint8Array | undefined
      /** Its user name from now on, whatever CONNECT says. */
      readonly username?: string | undefined
      /** Stands above the ACL. */
      readonly superuser?: boolean | undefined
    }
  /** It has not, and its connection is closed: 0x87. */
  | { readonly result: 'refuse' }

/**
 * One exchange with one client, made anew for each. A step that throws, or takes longer than 5 s, refuses the
 * client, as does a plugin that is unloaded meanwhile.
 */
export interface AuthExchange {
  /**
   * The client has sent CONNECT or, when it is connected and authenticates anew, AUTH 0x19 (`isReauth`).
   * @param client as CONNECT has it: its user name is not proved. With `isReauth`, who it is by now.
   * @param data what it begins with; undefined when it leaves the first word to the server.
   */
  start(client: ClientInfo, data: Buffer | undefined, isReauth: boolean): Awaitable<AuthStep>
  /** Its answer to the last `continue`. */
  next(data: Buffer | undefined): Awaitable<AuthStep>
  /** The exchange is over, however it ended. */
  end?(): void
}

/** What a handler answers to a question, and why, in an operator's words: for `acl explain` and `auth test`. */
export interface Explained<A> {
  readonly answer: A
  readonly why?: string | undefined
  /** The rules it went through, in their order, to the one that decided. */
  readonly rules?: readonly ExplainedRule[] | undefined
}

export interface ExplainedRule {
  readonly text: string
  readonly matched: boolean
  /** Where it did not. */
  readonly why?: string | undefined
}

/** The same question, with an explanation; it must change nothing. */
type Explain<N extends HookName> = N extends keyof Questions
  ? (...args: Questions[N][0]) => Awaitable<Explained<Questions[N][1]>>
  : never

/** What one owner made of a question. */
export interface HookAnswer<A> extends Omit<Explained<A>, 'answer'> {
  readonly owner: string
  readonly answer: A | 'failed'
  readonly ms: number
}

export interface HookScope {
  /**
   * Adds a handler; returns what removes it. Higher priority runs first; equal priorities run in order of registration. Of a question,
   * `explain` says what the handler would answer and why; without it, the handler itself is asked.
   */
  on<N extends HookName>(
    name: N,
    handler: Handler<N>,
    options?: { priority?: number; explain?: Explain<N> }
  ): () => void
  /**
   * Takes on a method of enhanced authentication, such as `SCRAM-SHA-256`: `begin` is called for each CONNECT and
   * each re-authentication that names it. Throws when somebody has the method already.
   */
  authenticator(method: string, begin: () => AuthExchange): void
}

/** The broker's end of a exchange. */
export interface RunningExchange {
  start(...args: Parameters<AuthExchange['start']>): Promise<AuthStep | 'failed'>
  next(data: Buffer | undefined): Promise<AuthStep | 'failed'>
  end(): void
}

interface Method {
  readonly owner: string
  readonly begin: () => AuthExchange
  /** Who is told when it goes. */
  readonly underWay: Set<() => void>
}

interface Entry {
  readonly owner: string
  readonly priority: number
  readonly handler: (...args: any[]) => any
  readonly explain: ((...args: any[]) => any) | undefined
}

const none: readonly Entry[] = []

/** How long a failure that was logged is not logged again. */
const quietMs = 10_000

export class Hooks {
  readonly #entries = new Map<HookName, readonly Entry[]>()
  readonly #methods = new Map<string, Method>()
  #refusing = 0
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
      on: (name, handler, { priority = 0, explain } = {}) => {
        const entry = { owner, priority, handler, explain }
        const list = [...this.#list(name), entry]
        this.#entries.set(
          name,
          list.sort((a, b) => b.priority - a.priority)
        )
        return () => {
          const left = this.#list(name).filter(each => each !== entry)
          this.#entries.set(name, left)
        }
      },
      authenticator: (method, begin) => {
        const holder = this.#methods.get(method)?.owner
        if (holder !== undefined) throw new BrokerError('CONFLICT', `${holder} has the method ${method} already`)
        this.#methods.set(method, { owner, begin, underWay: new Set() })
      }
    }
  }

  /** Removes every handler and authenticator of `owner`; exchanges under way are over. */
  release(owner: string): void {
    for (const [name, list] of this.#entries)
      this.#entries.set(
        name,
        list.filter(e => e.owner !== owner)
      )
    for (const [name, method] of this.#methods) {
      if (method.owner !== owner) continue
      this.#methods.delete(name)
      for (const gone of [...method.underWay]) gone()
    }
  }

  /** Whether anyone listens. The message path asks first, and costs nothing when nobody does. */
  has(name: HookName): boolean {
    return this.#list(name).length > 0
  }

  /** Whether anyone judges who may come in. */
  get hasAuthenticators(): boolean {
    return this.#refusing > 0 || this.has('client.authenticate') || this.#methods.size > 0
  }

  /** Lets nobody in unjudged, if nobody is now, until what it returns is called: while a plugin is exchanged. */
  refuseUnjudged(): () => void {
    if (!this.hasAuthenticators) return () => {}
    this.#refusing++
    return () => void this.#refusing--
  }

  /** Begins a exchange; undefined when nobody has the method. `gone` is called when its plugin goes first. */
  beginExchange(method: string, gone: () => void): RunningExchange | undefined {
    const found = this.#methods.get(method)
    if (found === undefined) return undefined
    const { owner, begin, underWay } = found
    let exchange: AuthExchange | undefined
    const step = async (work: (exchange: AuthExchange) => Awaitable<AuthStep>): Promise<AuthStep | 'failed'> => {
      try {
        exchange ??= begin()
        return checked(await this.#inTime(work(exchange)))
      } catch (err) {
        this.#failed(owner, method, err)
        return 'failed'
      }
    }
    underWay.add(gone)
    return {
      start: (client, data, isReauth) => step(c => c.start(client, data, isReauth)),
      next: data => step(c => c.next(data)),
      end: () => {
        underWay.delete(gone)
        try {
          exchange?.end?.()
        } catch (err) {
          this.#failed(owner, method, err)
        }
      }
    }
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

  /** Asks as ask() does, and tells what each has said, to the one that decided. */
  async explain<N extends keyof Questions>(name: N, ...args: Questions[N][0]): Promise<HookAnswer<Questions[N][1]>[]> {
    type A = Questions[N][1]
    const asked: HookAnswer<A>[] = []
    for (const { owner, handler, explain } of this.#list(name)) {
      const began = performance.now()
      let said: Omit<HookAnswer<A>, 'owner' | 'ms'>
      try {
        said =
          explain === undefined
            ? { answer: await this.#inTime(handler(...args)) }
            : await this.#inTime(explain(...args))
      } catch (err) {
        said = { answer: 'failed', why: messageOf(err) }
      }
      asked.push({ owner, ...said, ms: performance.now() - began })
      if (said.answer !== 'ignore') break
    }
    return asked
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
  #failed(owner: string, name: string, err: unknown): void {
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

/** A plugin may be written in JavaScript: what is none of the three answers is a failure. */
function checked(step: AuthStep): AuthStep {
  const { result, data, username } = step as { result: string; data?: unknown; username?: unknown }
  if (!['continue', 'success', 'refuse'].includes(result)) throw new TypeError(`no result of a step: ${String(result)}`)
  const fits = data === undefined || (data instanceof Uint8Array && data.length <= 65_535)
  if (!fits) throw new TypeError('data is not a Uint8Array of at most 65535 bytes')
  if (username !== undefined && typeof username !== 'string') throw new TypeError('username is not text')
  return step
}
