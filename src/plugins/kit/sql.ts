/**
 * Queries that an operator writes in SQL, with '%u', '%c' and '%a' where a value of the client goes.
 *
 * What a client sends never becomes SQL: the variables become bind parameters, with or without their quotes. Any
 * other %-sign is the query's own, so the text is taken apart as the database's lexer would do it.
 */
import { expected, type Key, key } from '../../config/values.js'
import { type Variable, type VariableClient, variables, variableValue } from './variables.js'

export interface BoundQuery {
  /** With `$1`, `$2`, … in the place of the variables, or what else the dialect has; numbered by occurrence. */
  readonly text: string
  /** What belongs to them, in their order; NULL, which equals nothing, for the name of a client without one. */
  values(client: VariableClient): (string | null)[]
  /** Where in the operator's text a place in `text` comes from; both count from 1. */
  origin(position: number): number
}

/**
 * What a database's lexer takes as one piece, so that a `%c` in a LIKE pattern, a comment or a name is not a
 * variable. The expressions are read without their flags: `.` is any character, line ends included.
 */
export interface SqlDialect {
  /** Comments, names in quotes and, as PostgreSQL's `$$`, strings in another kind of quotes: all to be left alone. */
  readonly aside: RegExp
  /** What may stand right before the quote of a string, with the quote. */
  readonly quote: RegExp
  readonly string: RegExp
  readonly word: RegExp
  /** A bind parameter, which in the operator's text would be in the way of ours. */
  readonly parameter: RegExp
  placeholder(number: number): string
}

export const postgresql: SqlDialect = {
  aside: /--[^\n]*|\/\*.*?\*\/|\$(?<tag>[A-Za-z_]\w*|)\$.*?\$\k<tag>\$|"[^"]*"/,
  quote: /[eEnN]?'/,
  string: /[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'/,
  word: /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*/,
  parameter: /\$\d+/,
  placeholder: number => `$${number}`
}

/** A query in the configuration: text in, bound out. */
export const sqlQuery = (dialect: SqlDialect, fallback?: string): Key<BoundQuery> =>
  key(raw => bindQuery(raw, dialect), fallback)

/** Makes bind parameters of the variables. */
export function bindQuery(query: string, dialect: SqlDialect): BoundQuery {
  if (query.trim() === '') expected('an SQL query', query)
  const names: Variable[] = []
  const ends: { text: number; query: number }[] = []
  let text = ''
  for (const { 0: piece, index, groups } of query.matchAll(lexer(dialect))) {
    if (groups!['parameter'] !== undefined) expected(`${written} where a value goes`, piece)
    const name = groups!['quoted'] ?? groups!['bare']
    if (name === undefined) {
      text += piece
      continue
    }
    names.push(name as Variable)
    // `like'%u'and` is three tokens, `like$1and` would be one.
    const end = index + piece.length
    const before = /[\w$]$/.test(text) ? ' ' : ''
    text += `${before}${dialect.placeholder(names.length)}${/\w/.test(query.charAt(end)) ? ' ' : ''}`
    ends.push({ text: text.length, query: end })
  }
  return {
    text,
    values: client => names.map(name => variableValue(name, client) ?? null),
    origin(position) {
      const before = ends.findLast(end => end.text < position)
      return before === undefined ? position : position - before.text + before.query
    }
  }
}

const letters = `[${variables.join('')}]`

/** `'%u', '%c' or '%a'` */
const written = variables
  .map(name => `'%${name}'`)
  .join(', ')
  .replace(/, ([^,]*)$/, ' or $1')

function lexer({ aside, quote, string, word, parameter }: SqlDialect): RegExp {
  const pieces = [
    `(?:${aside.source})`,
    `(?:${quote.source})%(?<quoted>${letters})'(?!')`,
    `(?:${string.source})`,
    `(?:${word.source})`,
    `(?<parameter>${parameter.source})`,
    `%(?<bare>${letters})(?![\\w$])`,
    '.'
  ]
  return new RegExp(pieces.join('|'), 'gs')
}
