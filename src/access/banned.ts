/**
 * Who may not come in, whatever they can prove: client ids, user names, addresses and
 * networks, for a time or for ever. It is asked before anything that costs, at the
 * accept of a socket and at CONNECT; a ban whose time is over goes by itself.
 */
import { isIP } from 'node:net'
import type { ClientRef } from '../base/client-ref.js'
import { BrokerError } from '../base/errors.js'
import type { JsonRecords } from '../base/json-records.js'
import { type Network, parseNetwork, within } from '../config/values.js'

export const banKinds = ['clientid', 'username', 'ip', 'cidr'] as const
export type BanKind = (typeof banKinds)[number]

/** As it is kept; times in milliseconds since 1970. */
export interface Ban {
  readonly kind: BanKind
  readonly who: string
  readonly at: number
  /** Undefined: for ever. */
  readonly until?: number
  readonly reason?: string
}

export interface BanTerms {
  /** `1h`, `30d`. */
  readonly for?: string | undefined
  /** `2027-01-31`, `2027-01-31T18:00:00Z`, or seconds since 1970. */
  readonly until?: string | undefined
  readonly reason?: string | undefined
}

/** The longest that a timer takes. */
const longestWait = 2 ** 31 - 1

const nowhere: JsonRecords<Ban> = { entries: () => [], put: () => {}, delete: () => {} }

export class Banned {
  readonly #bans = new Map<string, Ban>()
  /** Of `ip` and `cidr`, each with its test. */
  #networks: { ban: Ban; has: (address: string) => boolean }[] = []
  /** Whether any of them has the address: one look for all. */
  #hasAny = (_address: string): boolean => false
  #records: JsonRecords<Ban> = nowhere
  #timer: NodeJS.Timeout | undefined

  /** From where they are kept. */
  open(records: JsonRecords<Ban>): void {
    this.#records = records
    for (const [key, ban] of records.entries()) this.#bans.set(key, ban)
    this.#changed()
    this.#sweep()
  }

  close(): void {
    clearTimeout(this.#timer)
  }

  /** Those in force, the oldest first. */
  list(): Ban[] {
    const now = Date.now()
    return [...this.#bans.values()].filter(ban => isInForce(ban, now)).sort((a, b) => a.at - b.at)
  }

  /** One of the same kind and value is replaced. Throws a BrokerError when the words are wrong or it cannot be kept. */
  add(kind: string, value: string, terms: BanTerms = {}): Ban {
    const who = formOf(kindOf(kind), value)
    const now = Date.now()
    const until = untilOf(terms, now)
    const { reason } = terms
    const ban: Ban = {
      kind: kindOf(kind),
      who,
      at: now,
      ...(until === undefined ? {} : { until }),
      ...(reason === undefined ? {} : { reason })
    }
    this.#records.put(keyOf(ban.kind, who), ban)
    this.#bans.set(keyOf(ban.kind, who), ban)
    this.#changed()
    this.#wait()
    return ban
  }

  remove(kind: string, value: string): Ban {
    const key = keyOf(kindOf(kind), formOf(kindOf(kind), value))
    const ban = this.#bans.get(key)
    if (ban === undefined || !isInForce(ban, Date.now())) throw new BrokerError('NOT_FOUND', 'Not Found.')
    this.#records.delete(key)
    this.#bans.delete(key)
    this.#changed()
    this.#wait()
    return ban
  }

  /** The ban that keeps this client out. */
  find({ clientId, username, address }: ClientRef): Ban | undefined {
    if (this.#bans.size === 0) return undefined
    const now = Date.now()
    const byId = this.#bans.get(keyOf('clientid', clientId))
    if (byId !== undefined && isInForce(byId, now)) return byId
    const byName = username === undefined ? undefined : this.#bans.get(keyOf('username', username))
    if (byName !== undefined && isInForce(byName, now)) return byName
    return this.findAddress(address, now)
  }

  findAddress(address: string, now = Date.now()): Ban | undefined {
    if (!this.#hasAny(address)) return undefined
    return this.#networks.find(({ ban, has }) => isInForce(ban, now) && has(address))?.ban
  }

  #changed(): void {
    this.#networks = [...this.#bans.values()].flatMap(ban => {
      if (ban.kind !== 'ip' && ban.kind !== 'cidr') return []
      return [{ ban, has: within([parseNetwork(ban.who)]) }]
    })
    this.#hasAny = within(this.#networks.map(({ ban }) => parseNetwork(ban.who)))
  }

  /** Until the next is over. */
  #wait(): void {
    clearTimeout(this.#timer)
    let next = Number.POSITIVE_INFINITY
    for (const { until } of this.#bans.values()) if (until !== undefined && until < next) next = until
    if (next === Number.POSITIVE_INFINITY) return
    const ms = Math.min(Math.max(1, next - Date.now() + 1), longestWait)
    this.#timer = setTimeout(() => this.#sweep(), ms).unref()
  }

  #sweep(): void {
    const now = Date.now()
    const over = [...this.#bans].filter(([, ban]) => !isInForce(ban, now))
    for (const [key] of over) {
      this.#bans.delete(key)
      try {
        this.#records.delete(key)
      } catch (err) {
        if (!(err instanceof BrokerError)) throw err // the next start forgets it
      }
    }
    if (over.length > 0) this.#changed()
    this.#wait()
  }
}

/** Whether a client is one that the ban means. */
export function concerns({ kind, who }: Ban): (client: ClientRef) => boolean {
  if (kind === 'clientid') return ({ clientId }) => clientId === who
  if (kind === 'username') return ({ username }) => username === who
  const has = within([parseNetwork(who)])
  return ({ address }) => has(address)
}

/** For the log, and for `clients why`. */
export function sayBan({ kind, who, until, reason }: Ban): string {
  const end = until === undefined ? '' : ` until ${new Date(until).toISOString()}`
  return `banned: ${kind} ${who}${end}${reason === undefined ? '' : `, ${reason}`}`
}

const keyOf = (kind: BanKind, who: string): string => `${kind} ${who}`
const isInForce = ({ until }: Ban, now: number): boolean => until === undefined || until > now

function kindOf(kind: string): BanKind {
  const known = banKinds.find(k => k === kind)
  if (known === undefined) throw new BrokerError('BAD_REQUEST', `expected ${banKinds.join(', ')}, got "${kind}"`)
  return known
}

/** In the one form in which it is looked for. */
function formOf(kind: BanKind, value: string): string {
  if (value === '') throw new BrokerError('BAD_REQUEST', `a ${kind} must not be empty`)
  if (kind === 'clientid' || kind === 'username') return value
  if (kind === 'ip' && isIP(value) === 0) {
    const meant = value.includes('/') ? '; a network is a cidr' : ''
    throw new BrokerError('BAD_REQUEST', `expected an IP address, got "${value}"${meant}`)
  }
  let network: Network
  try {
    network = parseNetwork(value)
  } catch (err) {
    if (!(err instanceof SyntaxError)) throw err
    throw new BrokerError('BAD_REQUEST', err.message)
  }
  if (/^::ffff:/i.test(network.address)) {
    throw new BrokerError('BAD_REQUEST', 'expected an IPv4 address as such: no peer is known in IPv6 dress')
  }
  return kind === 'ip' ? network.address.toLowerCase() : `${network.address.toLowerCase()}/${network.prefix}`
}

const unitMs = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 } as const

/** The last moment that a Date can say. */
const lastTime = 8_640_000_000_000_000

function untilOf({ for: time, until }: BanTerms, now: number): number | undefined {
  if (time !== undefined && until !== undefined)
    throw new BrokerError('BAD_REQUEST', '--for and --until exclude each other')
  if (time !== undefined) {
    if (!/^(\d+[smhdw])+$/.test(time)) {
      throw new BrokerError('BAD_REQUEST', `expected a time such as 30m, 1h or 7d after --for, got "${time}"`)
    }
    let end = now
    for (const [, n, unit] of time.matchAll(/(\d+)([smhdw])/g)) end += Number(n) * unitMs[unit as keyof typeof unitMs]
    return Math.min(end, lastTime)
  }
  if (until === undefined) return undefined
  const end = /^\d+$/.test(until) ? Number(until) * 1000 : Date.parse(until)
  if (!(end <= lastTime)) {
    throw new BrokerError('BAD_REQUEST', `expected a date such as 2027-01-31T18:00:00Z after --until, got "${until}"`)
  }
  if (end <= now) throw new BrokerError('BAD_REQUEST', `${new Date(end).toISOString()} is over`)
  return end
}
