/**
 * The text of etc/acl.conf as Erlang terms: words, strings, tuples and lists, each with its place in the text. What a
 * term means is for acl-file.ts to say.
 *
 * A mistake spoils one rule, not the file: reading goes on at the next rule, so that one look at the file finds every
 * problem.
 */
import { printable } from '../config/problem.js'

/** Takes a problem, and the offset in the text where it is. */
export type Report = (at: number, message: string) => void

interface Token {
  readonly kind: 'word' | 'quoted' | 'string' | 'open' | 'mark' | 'stray' | 'end'
  readonly text: string
  readonly start: number
  readonly end: number
}

interface Span {
  readonly start: number
  readonly end: number
}
interface Text extends Span {
  readonly kind: 'word' | 'string'
  readonly value: string
}
export interface Items<K extends 'tuple' | 'list'> extends Span {
  readonly kind: K
  readonly items: readonly Term[]
}
export type Term = Text | Items<'tuple'> | Items<'list'>

/** A rule before it is known what it means. */
interface WrittenRule {
  readonly term: Items<'tuple'>
  /** As written, on one line and without comments. */
  readonly text: string
}

/** Erlang lets a string run over lines; here its line ends it, so that a lost quote spoils one rule and not the file. */
const grammar = [
  /(?<space>\s+|%[^\r\n]*)/,
  /(?<word>\w[\w@]*)/,
  /(?<quoted>'(?:[^'\\\r\n]|\\[^\r\n])*')/,
  /(?<string>"(?:[^"\\\r\n]|\\[^\r\n])*")/,
  /(?<open>["'][^\r\n]*)/,
  /(?<mark><<|>>|[{}[\],.])/,
  /(?<stray>.)/
]
const scanner = new RegExp(grammar.map(({ source }) => source).join('|'), 'gsu')

function tokenize(source: string): Token[] {
  const tokens: Token[] = []
  for (const { 0: text, index: start, groups } of source.matchAll(scanner)) {
    const kind = Object.keys(groups!).find(name => groups![name] !== undefined) as Token['kind'] | 'space'
    if (kind !== 'space') tokens.push({ kind, text, start, end: start + text.length })
  }
  tokens.push({ kind: 'end', text: '', start: source.length, end: source.length })
  return tokens
}

/** How deep `and` and `or` may stand in each other, with a bracket or two for each. */
const deepest = 100

/** Reads to the end: what cannot be read is reported, and the next rule is looked for. */
export function readRules(source: string, report: Report): WrittenRule[] {
  const tokens = tokenize(source)
  const rules: WrittenRule[] = []
  let at = 0
  let depth = 0
  while (tokens[at]!.kind !== 'end') {
    const first = at
    depth = 0
    try {
      if (tokens[at]!.text !== '{') fail('a rule such as {allow, all}')
      const term = readItems('tuple')
      rules.push({ term, text: `${written(first, at)}.` })
      take('.', '"." at the end of the rule')
    } catch (err) {
      if (!(err instanceof SyntaxError)) throw err
      report(tokens[at]!.start, err.message)
      toNextRule(first)
    }
  }
  return rules

  function readTerm(what: string): Term {
    const { kind, text, start, end } = tokens[at]!
    if (text === '{') return readItems('tuple')
    if (text === '[') return readItems('list')
    if (kind === 'word' || kind === 'quoted') {
      at++
      return { kind: 'word', value: kind === 'word' ? text : text.slice(1, -1), start, end }
    }
    if (kind === 'string') {
      at++
      return { kind: 'string', value: unescaped(text, start), start, end }
    }
    if (text === '<<') {
      at++
      const inner = tokens[at]!
      if (inner.kind !== 'string') fail('a string in double quotes after <<')
      at++
      take('>>', '">>"')
      return { kind: 'string', value: unescaped(inner.text, inner.start), start, end: tokens[at - 1]!.end }
    }
    return fail(what)
  }

  function readItems<K extends 'tuple' | 'list'>(kind: K): Items<K> {
    if (depth === deepest) fail(`at most ${deepest} brackets in each other`) // before the stack ends
    depth++
    const { start } = tokens[at++]!
    const close = kind === 'tuple' ? '}' : ']'
    const items: Term[] = []
    if (tokens[at]!.text !== close) {
      items.push(readTerm(`a word, a string, "{", "[" or "${close}"`))
      while (tokens[at]!.text === ',') {
        at++
        items.push(readTerm('a word, a string, "{" or "[" after the comma'))
      }
    }
    take(close, `"," or "${close}"`)
    depth--
    return { kind, items, start, end: tokens[at - 1]!.end }
  }

  function take(mark: string, what: string): void {
    if (tokens[at]!.text !== mark) fail(what)
    at++
  }

  function fail(what: string): never {
    const { kind, text } = tokens[at]!
    if (kind === 'open') throw new SyntaxError(`expected a closing ${text[0]} on this line, got ${excerpt(text)}`)
    const quoted = kind === 'mark' || kind === 'stray'
    const got = kind === 'end' ? 'the end of the file' : quoted ? `"${text}"` : excerpt(text)
    throw new SyntaxError(`expected ${what}, got ${got}`)
  }

  function unescaped(text: string, start: number): string {
    return text.slice(1, -1).replace(/\\(.)/gsu, (sequence: string, c: string, offset: number) => {
      const meant = escapes.get(c)
      if (meant === undefined) report(start + 1 + offset, `expected one of \\" \\\\ \\n \\t, got ${excerpt(sequence)}`)
      return meant ?? c
    })
  }

  /** The rule on one line: a space wherever there was any, or a comment. What stands in quotes stays. */
  function written(from: number, to: number): string {
    return tokens
      .slice(from, to)
      .map(({ text, start }, i) => (i > 0 && tokens[from + i - 1]!.end < start ? ` ${text}` : text))
      .join('')
  }

  function toNextRule(first: number): void {
    while (tokens[at]!.kind !== 'end' && !(at > first && opensRule())) {
      const { text, end } = tokens[at++]!
      if (text === '.' && /^[\s%]?$/.test(source.charAt(end))) return
    }
  }

  /** A `{` that begins its line opens a rule, unless it is a part of one that was broken into lines. */
  function opensRule(): boolean {
    const begins = /[\r\n]/.test(source.slice(tokens[at - 1]!.end, tokens[at]!.start))
    return begins && tokens[at]!.text === '{' && !/^'?(client|user|ipaddr|and|or|eq)\b/.test(tokens[at + 1]!.text)
  }
}

const escapes: ReadonlyMap<string, string> = new Map([
  ['"', '"'],
  ['\\', '\\'],
  ['n', '\n'],
  ['t', '\t']
])

/** One line of at most 60 characters, for a message. */
export const excerpt = (text: string): string => {
  const line = printable(text.replace(/\s+/g, ' '))
  return line.length > 60 ? `${line.slice(0, 57)}…` : line
}
