/**
 * The kinds of value a key can have. Each turns the text of a file into a value
 * or throws a SyntaxError that says what was expected and what was there.
 */
import { BlockList, isIP } from 'node:net'

/** One option: how its text becomes a value, and what it is when absent. Without `fallback` it is required. */
export interface Key<T> {
  readonly parse: (text: string) => T
  readonly fallback?: { readonly value: T; readonly text?: string }
  /** The section's own value: `listener.tcp.external = 1883`. */
  readonly own?: true
  /** When a change takes effect. Each key of etc/broker.conf says so; a plugin's key is always in force at once. */
  readonly effect?: Effect
}

export type Effect =
  /** At once, also for clients that are connected. */
  | 'now'
  /** For connections that are made from then on; a connected client keeps what it was told. */
  | 'connect'
  | { readonly restart: string }

export function key<T>(parse: (text: string) => T, fallback?: string): Key<T> {
  return fallback === undefined ? { parse } : { parse, fallback: { value: parse(fallback), text: fallback } }
}

/** Throws what every value type throws: `expected a port, got "x"`. */
export function expected(what: string, text: string): never {
  const shown = text.length > 60 ? `${text.slice(0, 57)}…` : text
  const hint = / #/.test(text) ? '; a comment stands on a line of its own' : ''
  throw new SyntaxError(`expected ${what}, got "${shown}"${hint}`)
}

/** A key that may be left out. */
export const optional = <T>(of: Key<T>): Key<T | undefined> => ({ parse: of.parse, fallback: { value: undefined } })

/** Marks a key as the value of its section. */
export const own = <T>(of: Key<T>): Key<T> => ({ ...of, own: true })

export const text = (fallback?: string): Key<string> => key(raw => raw, fallback)

/** Text that must not be empty. */
export const word = (fallback?: string): Key<string> =>
  key(raw => (/^\S+$/.test(raw) ? raw : expected('a word without spaces', raw)), fallback)

export const integer = (fallback?: number, { min = 0, max = Number.MAX_SAFE_INTEGER } = {}): Key<number> =>
  key(
    raw => {
      const n = Number(raw)
      if (!/^-?\d+$/.test(raw) || n < min || n > max) {
        expected(max === Number.MAX_SAFE_INTEGER ? `an integer from ${min}` : `an integer from ${min} to ${max}`, raw)
      }
      return n
    },
    fallback === undefined ? undefined : String(fallback)
  )

export const decimal = (fallback: number, { min, max }: { min: number; max: number }): Key<number> =>
  key(raw => {
    const n = Number(raw)
    if (raw === '' || !Number.isFinite(n) || n < min || n > max) expected(`a number from ${min} to ${max}`, raw)
    return n
  }, String(fallback))

export const flag = (fallback?: boolean): Key<boolean> =>
  key(
    raw => {
      if (raw === 'true' || raw === 'on') return true
      if (raw === 'false' || raw === 'off') return false
      return expected('true | false | on | off', raw)
    },
    fallback === undefined ? undefined : String(fallback)
  )

export const oneOf = <const T extends string>(allowed: readonly T[], fallback?: T): Key<T> =>
  key(raw => allowed.find(value => value === raw) ?? expected(allowed.join(' | '), raw), fallback)

const millis = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

/** `500ms`, `30s`, `5m`, `2h`, `1d`, or several together as `1h30m`; milliseconds in code. */
export const duration = (fallback?: string): Key<number> =>
  key(raw => {
    if (!/^(\d+(ms|s|m|h|d))+$/.test(raw)) expected('a duration such as 30s, 5m or 1h30m', raw)
    let total = 0
    for (const [, n, unit] of raw.matchAll(/(\d+)(ms|s|m|h|d)/g))
      total += Number(n) * millis[unit as keyof typeof millis]
    return total <= 2 ** 31 - 1 ? total : expected('a duration of at most 24 days', raw)
  }, fallback)

/** `60%`; 0.6 in code. */
export const percent = (fallback?: string): Key<number> =>
  key(raw => {
    const n = Number(/^(\d+(?:\.\d+)?)%$/.exec(raw)?.[1] ?? expected('a percentage such as 60%', raw))
    return n <= 100 ? n / 100 : expected('a percentage from 0% to 100%', raw)
  }, fallback)

const bytesIn = { '': 1, KB: 1024, MB: 1024 ** 2, GB: 1024 ** 3 } as const

/** `512`, `64KB`, `8MB`; bytes in code. */
export const size = (fallback?: string, { min = 0, max = Number.MAX_SAFE_INTEGER } = {}): Key<number> =>
  key(raw => {
    const [, n, unit] = /^(\d+)\s*(KB|MB|GB|)$/i.exec(raw) ?? expected('a size such as 64KB or 1MB', raw)
    const bytes = Number(n) * bytesIn[unit!.toUpperCase() as keyof typeof bytesIn]
    return bytes >= min && bytes <= max ? bytes : expected(`a size from ${min} to ${max} bytes`, raw)
  }, fallback)

/** Several of a kind, separated by commas. */
export const list = <T>(of: Key<T>, fallback?: string): Key<readonly T[]> =>
  key(
    raw =>
      raw
        .split(',')
        .map(part => part.trim())
        .filter(part => part !== '')
        .map(of.parse),
    fallback
  )

export interface Address {
  /** Undefined: every address of the host, IPv4 and IPv6. */
  readonly host: string | undefined
  readonly port: number
}

/** `1883`, `127.0.0.1:1883`, `[::1]:1883`, emqttd's `::1:1883`, `localhost:1883`; with a default port, a host alone. */
export const address = (fallback?: string, { port: usual }: { port?: number } = {}): Key<Address> =>
  key(raw => {
    const what = usual === undefined ? 'a port or host:port' : 'a host, a port or host:port'
    const { host, port } = splitAddress(raw)
    if (host !== undefined && (raw.startsWith('[') ? isIP(host) !== 6 : !isHost(host))) expected(what, raw)
    if (port === undefined && (host === undefined || usual === undefined)) expected(what, raw)
    if (Number(port) > 65535) expected('a port up to 65535', raw)
    return { host, port: port === undefined ? usual! : Number(port) }
  }, fallback)

function splitAddress(raw: string): { host: string | undefined; port: string | undefined } {
  if (/^\d+$/.test(raw)) return { host: undefined, port: raw }
  const [, host, port] = /^\[([^\]]*)\](?::(\d+))?$/.exec(raw) ??
    /^(.*):(\d+)$/.exec(raw) ?? [undefined, raw, undefined]
  return { host, port }
}

function isHost(text: string): boolean {
  return isIP(text) !== 0 || /^(?=.*[a-z])[a-z0-9]([a-z0-9._-]*[a-z0-9])?$/i.test(text)
}

/** As the operator writes it: `0.0.0.0:1883`, `[::1]:1883`, `1883`. */
export function showAddress({ host, port }: Address): string {
  if (host === undefined) return String(port)
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/** An IP address or a network: `10.0.0.0/8`, `192.168.1.7`, `fd00::/8`. */
export interface Network {
  readonly address: string
  readonly prefix: number
  readonly family: 'ipv4' | 'ipv6'
}

export const network = (fallback?: string): Key<Network> => key(parseNetwork, fallback)

export function parseNetwork(raw: string): Network {
  const what = 'an IP address or a network such as 10.0.0.0/8'
  const [, ip, bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(raw) ?? expected(what, raw)
  const version = isIP(ip!)
  const most = version === 4 ? 32 : 128
  const prefix = bits === undefined ? most : Number(bits)
  if (version === 0 || prefix > most) expected(what, raw)
  return { address: ip!, prefix, family: version === 4 ? 'ipv4' : 'ipv6' }
}

/** Whether an address is in one of the networks; no IPv4 address is in an IPv6 network, `::/0` included. */
export function within(networks: readonly Network[]): (address: string) => boolean {
  const lists = { 4: new BlockList(), 6: new BlockList() }
  for (const { address, prefix, family } of networks) {
    lists[family === 'ipv4' ? 4 : 6].addSubnet(address, prefix, family)
  }
  return address => {
    const version = isIP(address)
    if (version === 4) return lists[4].check(address, 'ipv4')
    return version === 6 && lists[6].check(address, 'ipv6')
  }
}
