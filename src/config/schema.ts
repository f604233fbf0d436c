/**
 * Reads `key = value` files (etc/broker.conf, etc/plugins/*.conf) into typed
 * options.
 *
 * A schema names each option once; its key follows from it (`authQuery` under
 * the prefix `auth.pgsql` is `auth.pgsql.auth_query`), and so do the TypeScript
 * type and the environment variable (`BROKER_AUTH__PGSQL__AUTH_QUERY`), which
 * wins over the file. A file is read to its end before anything is reported, so
 * that one run shows every problem. A value runs to the end of its line: a `#`
 * in it is part of it, since topic filters and SQL need that.
 */
import { readFileSync } from 'node:fs'
import { BrokerError } from '../base/errors.js'
import { nearest } from '../base/suggest.js'
import { ConfigError, type Problem, printable } from './problem.js'
import type { Effect, Key } from './values.js'

/** Sections whose names the operator chooses: `listener.tcp.<name>.…`; or values: `access.<n> = …`. */
export interface Named<E extends Schema | Key<unknown> = Schema | Key<unknown>> {
  readonly each: E
}

export interface Schema {
  readonly [option: string]: Key<unknown> | Named | Schema
}

export const named = <const E extends Schema | Key<unknown>>(each: E): Named<E> => ({ each })

export type Options<S> =
  S extends Key<infer T>
    ? T
    : S extends Named<infer E>
      ? ReadonlyMap<string, Options<E>>
      : { readonly [K in keyof S]: Options<S[K]> }

/** What a program may give instead of a file: any part of the options, in their typed form. */
export type Given<S> =
  S extends Key<infer T>
    ? T
    : S extends Named<infer E>
      ? Readonly<Record<string, Given<E>>>
      : { readonly [K in keyof S]?: Given<S[K]> }

export interface ReadOptions<S> {
  /** What stands before every key of the schema: `auth.pgsql`. */
  prefix?: string
  /** Where `BROKER_…` variables are looked for. */
  env?: NodeJS.ProcessEnv
  /** Finds what no single key shows; `report` places a problem at a key. */
  check?: (options: Options<S>, report: (key: string, message: string) => void) => void
  /** Says more about a key that no schema has, such as one whose meaning was emqttd's alone. */
  explain?: (key: string) => string | undefined
  /** Is told each key of the schema that is set or has a default. */
  take?: (key: string, value: Value) => void
}

/** What a key has, and how that is written. */
export interface Value {
  readonly value: unknown
  /** Undefined where it is not set and has no default that could be written. */
  readonly text: string | undefined
  /** Where it is set: a file, or an environment variable. */
  readonly from: string | undefined
  /** The default as it would be written. */
  readonly fallback: string | undefined
}

export type Values = ReadonlyMap<string, Value>

export function readConfig<S extends Schema>(file: string, schema: S, options: ReadOptions<S> = {}): Options<S> {
  return parseConfig(readText(file), schema, { ...options, file })
}

/** The text of a file under etc/, or a BrokerError that says why there is none. */
export function readText(file: string): string {
  let bytes: Buffer
  try {
    bytes = readFileSync(file)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    const why = code === 'ENOENT' ? 'no such file' : code === 'EISDIR' ? 'it is a directory' : code
    throw new BrokerError('CONFIG_INVALID', `cannot read ${file}: ${why}`, { cause })
  }
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff)) {
    throw new ConfigError([{ file, line: 1, column: 1, message: 'the file is UTF-16; save it as UTF-8' }])
  }
  return bytes.toString('utf8').replace(/^\ufeff/, '')
}

/** One setting, where it came from, and whether a schema knew it. */
interface Entry {
  readonly text: string
  readonly file: string
  readonly line: number
  readonly column: number // of the value
  readonly keyColumn: number
  readonly source?: string
  used: boolean
}

export function parseConfig<S extends Schema>(
  source: string,
  schema: S,
  { file = 'config', prefix = '', env = {}, check, explain, take }: ReadOptions<S> & { file?: string } = {}
): Options<S> {
  const problems: Problem[] = []
  const entries = new Map<string, Entry>()
  const lines = source.replace(/^\ufeff/, '').split(/\r\n|\n|\r/)
  for (const [i, line] of lines.entries()) readLine(line, i + 1)
  const known = keysOf(schema, prefix)
  for (const [name, value] of Object.entries(env)) readVariable(name, value)

  const options = section(schema, prefix) as Options<S>
  for (const [name, entry] of entries) if (!entry.used) problem(entry, unknown(name), entry.keyColumn)
  if (problems.length === 0) {
    check?.(options, (name, message) => {
      const entry = entries.get(name)
      if (entry === undefined) problems.push({ file, line: 1, column: 1, message: `${name}: ${message}` })
      else problem(entry, `${name}: ${message}`)
    })
  }
  if (problems.length > 0) throw new ConfigError(problems.sort((a, b) => a.line - b.line || a.column - b.column))
  return options

  function readLine(raw: string, line: number): void {
    const content = raw.trim()
    if (content === '' || content.startsWith('#')) return
    const [, lead, name, gap, value] = /^(\s*)([^=\s]+)(\s*=\s*)(.*?)\s*$/.exec(raw) ?? []
    const start = raw.length - raw.trimStart().length + 1
    if (name === undefined || !/^[A-Za-z0-9][\w$-]*(\.[\w$-]+)*$/.test(name)) {
      const shown = printable(content.length > 60 ? `${content.slice(0, 57)}…` : content)
      problems.push({ file, line, column: start, message: `expected "key = value", got "${shown}"`, source: raw })
      return
    }
    const keyColumn = lead!.length + 1
    const entry = {
      text: value!,
      file,
      line,
      keyColumn,
      column: keyColumn + name.length + gap!.length,
      source: raw,
      used: false
    }
    const first = entries.get(name)
    if (first === undefined) entries.set(name, entry)
    else problem(entry, `${name}: already set at line ${first.line}`, keyColumn)
  }

  /** BROKER_LISTENER__TCP__EXTERNAL=1884 is `listener.tcp.external = 1884`. Others' variables are left alone. */
  function readVariable(name: string, value: string | undefined): void {
    if (value === undefined || !/^BROKER_.*__/.test(name)) return
    const setting = name.slice('BROKER_'.length).toLowerCase().replaceAll('__', '.')
    const first = setting.split('.')[0]
    const ours = prefix === '' ? known.some(k => k.split('.')[0] === first) : `${setting}.`.startsWith(`${prefix}.`)
    if (ours) entries.set(setting, { text: value.trim(), file: name, line: 0, column: 0, keyColumn: 0, used: false })
  }

  function problem({ file, line, column, source }: Entry, message: string, at = column): void {
    problems.push({ file, line, column: at, message, ...(source === undefined ? {} : { source }) })
  }

  function unknown(name: string): string {
    const said = explain?.(name)
    if (said !== undefined) return `${name}: ${said}`
    const meant = nearest(
      name,
      known.map(k => fill(k, name))
    )
    return `${name}: unknown key${meant === undefined || meant === name ? '' : `; did you mean ${meant}?`}`
  }

  function section(node: Schema, at: string): Record<string, unknown> {
    return Object.fromEntries(
      Object.entries(node).map(([option, child]) => {
        const path = keyFor(at, option, child)
        return [option, read(child, path)]
      })
    )
  }

  function read(node: Schema[string], path: string): unknown {
    if (isKey(node)) return single(node, path)
    if (!isNamed(node)) return section(node, path)
    const depth = path.split('.').length
    const names = new Set<string>()
    for (const k of entries.keys()) if (k.startsWith(`${path}.`)) names.add(k.split('.')[depth]!)
    const { each } = node
    return new Map(
      [...names].sort(byNumberThenName).map(name => [name, read(each as Schema[string], join(path, name))])
    )
  }

  function single(k: Key<unknown>, path: string): unknown {
    const entry = entries.get(path)
    if (entry === undefined) {
      if (k.fallback === undefined) problems.push({ file, line: 1, column: 1, message: missing(path) })
      else take?.(path, { value: k.fallback.value, text: k.fallback.text, from: undefined, fallback: k.fallback.text })
      return k.fallback?.value
    }
    entry.used = true
    try {
      const value = k.parse(entry.text)
      take?.(path, { value, text: entry.text, from: entry.file, fallback: k.fallback?.text })
      return value
    } catch (err) {
      if (!(err instanceof SyntaxError)) throw err
      problem(entry, `${path}: ${err.message}`)
    }
  }

  /** A section without its own value is most often a misspelt name, so the problem names the keys that ask for it. */
  function missing(path: string): string {
    const child = [...entries.keys()].find(k => k.startsWith(`${path}.`))
    return child === undefined ? `${path}: missing` : `${path}: missing, though ${child} is set`
  }
}

/** The options of a program that gives them itself; what it leaves out has its default. */
export function optionsFrom<S extends Schema>(schema: S, given: Given<S> = {} as Given<S>): Options<S> {
  const build = (node: Schema[string], value: unknown, path: string): unknown => {
    if (isKey(node)) {
      if (value !== undefined) return value
      if (node.fallback === undefined) throw new BrokerError('CONFIG_INVALID', `${path}: missing`)
      return node.fallback.value
    }
    const members = (value ?? {}) as Record<string, unknown>
    if (isNamed(node)) {
      return new Map(
        Object.entries(members).map(([name, v]) => [name, build(node.each as Schema[string], v, join(path, name))])
      )
    }
    for (const option of Object.keys(members)) {
      if (!Object.hasOwn(node, option)) throw new BrokerError('CONFIG_INVALID', `${join(path, option)}: unknown option`)
    }
    return Object.fromEntries(Object.entries(node).map(([o, child]) => [o, build(child, members[o], join(path, o))]))
  }
  return build(schema, given, '') as Options<S>
}

export interface KeyDescription {
  /** As a file has it; `*` stands for a name the operator gives. */
  readonly key: string
  /** The default as it would be written. */
  readonly fallback: string | undefined
  readonly effect: Effect | undefined
}

export function describeKeys(schema: Schema, prefix = ''): KeyDescription[] {
  return Object.entries(schema).flatMap(([option, child]) => describe(child, keyFor(prefix, option, child)))
}

function describe(node: Schema[string], path: string): KeyDescription[] {
  if (isKey(node)) return [{ key: path, fallback: node.fallback?.text, effect: node.effect }]
  if (isNamed(node)) return describe(node.each as Schema[string], join(path, '*'))
  return describeKeys(node, path)
}

export const keysOf = (schema: Schema, prefix = ''): string[] => describeKeys(schema, prefix).map(({ key }) => key)

/** What is not shown to anybody: any key with such a name, a plugin's too. */
export const isSecret = (key: string): boolean => /(^|[._])(password|secret|token|passphrase)$/.test(key)

/** `listener.*.x` with the names of `like` in place of the stars. */
function fill(pattern: string, like: string): string {
  const names = like.split('.')
  return pattern
    .split('.')
    .map((part, i) => (part === '*' ? (names[i] ?? part) : part))
    .join('.')
}

const keyFor = (at: string, option: string, child: Schema[string]): string =>
  isKey(child) && child.own === true
    ? at
    : join(
        at,
        option.replace(/[A-Z]/g, c => `_${c.toLowerCase()}`)
      )
const join = (a: string, b: string): string => (a === '' ? b : `${a}.${b}`)
export const isKey = (node: Schema[string]): node is Key<unknown> => typeof (node as Key<unknown>).parse === 'function'
export const isNamed = (node: Schema[string]): node is Named => 'each' in node
const byNumberThenName = (a: string, b: string): number => Number(a) - Number(b) || (a < b ? -1 : a > b ? 1 : 0)
