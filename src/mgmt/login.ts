/**
 * Who is it that asks the management API? A user (Basic) or a token (Bearer). Passwords
 * are tried one at a time for each address, and wrong ones make the next try wait: longer
 * each time, for that user from that address and for the address at all. Nobody can shut
 * out a user of another address, nor one whose password was right before.
 */
import { BrokerError } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import type { Admins } from './admins.js'

export interface Caller {
  /** `admin`, `token prometheus`. */
  readonly name: string
  readonly mayChange: boolean
}

export type Verdict = Caller | 'refused' | { readonly waitSeconds: number }

interface Failures {
  count: number
  at: number
}

/** Failures that cost nothing: a slip of the user, another user of the same address. */
const free = { user: 3, address: 10 }
const longestDelayMs = 30_000
const forgottenAfterMs = 15 * 60_000
/** Of addresses and users; then the oldest are forgotten. */
const most = 10_000
const mostWaiting = 32

export class Login {
  readonly #admins: Admins
  readonly #log: Log
  readonly #now: () => number
  readonly #failures = new Map<string, Failures>()
  /** Whose passwords are being tried, by address. */
  readonly #turns = new Map<string, { last: Promise<unknown>; waiting: number }>()

  constructor(admins: Admins, log: Log, now: () => number = () => performance.now()) {
    this.#admins = admins
    this.#log = log
    this.#now = now
  }

  /** @param authorization the header. */
  async judge(authorization: string | undefined, address: string): Promise<Verdict> {
    const [, scheme = '', credentials = ''] = /^(\w+) +(\S+)$/.exec(authorization ?? '') ?? []
    switch (scheme.toLowerCase()) {
      case 'bearer': {
        const token = this.#admins.token(credentials)
        if (token === undefined) return this.#refused('a token that is none', address)
        return { name: `token ${token.name}`, mayChange: token.access === 'full' }
      }
      case 'basic': {
        const text = Buffer.from(credentials, 'base64').toString('utf8')
        const colon = text.indexOf(':')
        if (colon === -1) return 'refused'
        const username = text.slice(0, colon)
        const verdict = await this.password(username, text.slice(colon + 1), address)
        return verdict === true ? { name: username, mayChange: true } : verdict
      }
      default:
        return 'refused'
    }
  }

  /** Whether it is the user's password. */
  async password(
    username: string,
    password: string,
    address: string
  ): Promise<true | 'refused' | { readonly waitSeconds: number }> {
    if (this.#admins.isKnown(username, password)) return true
    const turn = this.#turns.get(address) ?? { last: Promise.resolve(), waiting: 0 }
    if (turn.waiting >= mostWaiting) return { waitSeconds: 1 }
    turn.waiting++
    this.#turns.set(address, turn)
    const tried = turn.last.then(() => this.#try(username, password, address))
    turn.last = tried.catch(() => {})
    try {
      return await tried
    } finally {
      if (--turn.waiting === 0) this.#turns.delete(address)
    }
  }

  async #try(username: string, password: string, address: string) {
    if (this.#admins.isKnown(username, password)) return true // by who was before it
    const [byUser, byAddress] = [`${address} ${username}`, address]
    const waitMs = Math.max(this.#delay(byUser, free.user), this.#delay(byAddress, free.address))
    if (waitMs > 0) return { waitSeconds: Math.ceil(waitMs / 1000) }
    if (await this.#verify(username, password)) {
      this.#failures.delete(byUser)
      this.#failures.delete(byAddress)
      return true
    }
    for (const key of [byUser, byAddress]) this.#failed(key)
    return this.#refused('wrong user name or password', address, this.#admins.user(username)?.username)
  }

  async #verify(username: string, password: string): Promise<boolean> {
    try {
      return await this.#admins.verify(username, password)
    } catch (err) {
      if (err instanceof BrokerError) throw err
      return false // too many at once: a question that fails is a refusal
    }
  }

  /** @param username only of a user there is: what stands for another name may be a password. */
  #refused(why: string, address: string, username?: string): 'refused' {
    this.#log.warning('management API: login refused', {
      address,
      ...(username === undefined ? {} : { username }),
      why
    })
    return 'refused'
  }

  #delay(key: string, freely: number): number {
    const failures = this.#failures.get(key)
    if (failures === undefined) return 0
    const since = this.#now() - failures.at
    if (since > forgottenAfterMs) this.#failures.delete(key)
    if (since > forgottenAfterMs || failures.count < freely) return 0
    return Math.max(0, Math.min(1000 * 2 ** (failures.count - freely), longestDelayMs) - since)
  }

  #failed(key: string): void {
    const count = (this.#failures.get(key)?.count ?? 0) + 1
    this.#failures.delete(key) // the latest are at the end
    this.#failures.set(key, { count, at: this.#now() })
    if (this.#failures.size <= most) return
    const [oldest] = this.#failures.keys()
    this.#failures.delete(oldest!)
  }
}
