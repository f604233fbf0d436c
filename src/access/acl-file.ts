/**
 * etc/acl.conf: who may publish and subscribe to what, in emqttd's Erlang terms.
 *
 * The text becomes terms (acl-terms.ts), the terms become rules with their
 * filters ready, and the first rule that matches decides. The file is read to its
 * end before anything is reported.
 *
 * A subscription asks for a filter, not for a topic, and there allow and deny
 * differ: an allow rule must cover all that is asked for, a deny rule need only
 * overlap with it. (In emqttd both must cover, so `+/x` walks around a rule that
 * denies `secret/#`.) For a publish the two are the same, since a topic name is a
 * filter that matches itself alone: a rule's topics need not know which it is.
 */
import type { ClientRef } from '../base/client-ref.js'
import { nearest } from '../base/suggest.js'
import { ConfigError, type Problem } from '../config/problem.js'
import { parseNetwork, within } from '../config/values.js'
import { covers, isTopicFilter, overlaps, splitShared } from '../wire/topic.js'
import { excerpt, type Items, type Report, readRules, type Term } from './acl-terms.js'

export interface AclRule {
  readonly allow: boolean
  readonly line: number
  /** As written, on one line and without comments. */
  readonly text: string
}

type Access = 'publish' | 'subscribe' | 'pubsub'
type Who = (client: ClientRef) => boolean
type Topics = (client: ClientRef, topic: string) => boolean

interface CompiledRule {
  readonly rule: AclRule
  readonly access: Access
  readonly who: Who
  readonly topics: Topics
}

export class AclRules {
  /** In file order. */
  readonly rules: readonly AclRule[]
  readonly #compiled: readonly CompiledRule[]

  constructor(compiled: readonly CompiledRule[]) {
    this.rules = compiled.map(({ rule }) => rule)
    this.#compiled = compiled
  }

  /** The first rule that matches. For a subscription `topic` is the filter, without `$share/<group>/` and its like. */
  decide(client: ClientRef, action: 'publish' | 'subscribe', topic: string): AclRule | undefined {
    for (const { rule, access, who, topics } of this.#compiled) {
      if ((access === 'pubsub' || access === action) && who(client) && topics(client, topic)) return rule
    }
    return undefined
  }

  /** Every rule to the one that decides, and what keeps the others from it. */
  explain(client: ClientRef, action: 'publish' | 'subscribe', topic: string): { rule: AclRule; misfit?: string }[] {
    const seen: { rule: AclRule; misfit?: string }[] = []
    for (const { rule, access, who, topics } of this.#compiled) {
      const misfit =
        access !== 'pubsub' && access !== action
          ? 'another action'
          : !who(client)
            ? 'another client'
            : topics(client, topic)
              ? undefined
              : misfitOf(rule.allow, action)
      if (misfit === undefined) return [...seen, { rule }]
      seen.push({ rule, misfit })
    }
    return seen
  }
}

/** A subscription is allowed by what covers all of it. */
export const misfitOf = (allow: boolean, action: 'publish' | 'subscribe'): string =>
  allow && action === 'subscribe' ? 'another topic, or not all of it' : 'another topic'

export function parseAcl(text: string, file: string): AclRules {
  const problems: Problem[] = []
  const source = text.replace(/^\ufeff/, '')
  const lines = source.split(/\r\n|\n|\r/)
  const starts = [0, ...Array.from(source.matchAll(/\r\n|\n|\r/g), ({ 0: end, index }) => index + end.length)]

  const compiler = new Compiler(source, report)
  const rules = readRules(source, report).map(({ term, text }) => compiler.rule(term, lineOf(term.start), text))
  if (problems.length > 0) throw new ConfigError(problems.sort((a, b) => a.line - b.line || a.column - b.column))
  return new AclRules(rules)

  function report(at: number, message: string): void {
    const line = lineOf(at)
    problems.push({ file, line, column: at - starts[line - 1]! + 1, message, source: lines[line - 1]! })
  }

  function lineOf(at: number): number {
    const next = starts.findIndex(start => start > at)
    return next === -1 ? starts.length : next
  }
}

const everybody: Who = () => true
const nobody: Who = () => false
const everything: Topics = () => true
const nothing: Topics = () => false

/** Finds every problem of a rule: what is wrong is reported, and reading goes on with something that matches nothing. */
class Compiler {
  readonly #source: string
  readonly #report: Report

  constructor(source: string, report: Report) {
    this.#source = source
    this.#report = report
  }

  rule(term: Items<'tuple'>, line: number, text: string): CompiledRule {
    const [verdict, who, access, topics] = term.items
    const allow = verdict !== undefined && this.#word(verdict, ['allow', 'deny']) === 'allow'
    const rule: AclRule = { allow, line, text }
    if (term.items.length === 2) {
      this.#word(who!, ['all'], ' (a rule for some is {allow | deny, Who, Access, Topics})')
      return { rule, access: 'pubsub', who: everybody, topics: everything }
    }
    if (term.items.length !== 4) {
      this.#expected(term, '{allow | deny, all} or {allow | deny, Who, Access, Topics}')
      return { rule, access: 'pubsub', who: nobody, topics: nothing }
    }
    const compiledWho = this.#who(who!)
    const action = this.#word(access!, ['publish', 'subscribe', 'pubsub']) ?? 'pubsub'
    return { rule, access: action, who: compiledWho, topics: this.#topics(topics!, allow, action) }
  }

  #who(term: Term): Who {
    if (term.kind === 'word' && term.value === 'all') return everybody
    if (term.kind !== 'tuple' || term.items.length !== 2) {
      this.#expected(term, 'all or a pair such as {user, "name"}', ['all'])
      return nobody
    }
    const [kind, value] = term.items as [Term, Term]
    switch (this.#word(kind, ['client', 'user', 'ipaddr', 'and', 'or'])) {
      case 'client': {
        const id = this.#name(value, 'a client id')
        return id === undefined ? everybody : client => client.clientId === id
      }
      case 'user': {
        const name = this.#name(value, 'a user name')
        return name === undefined ? everybody : client => client.username === name
      }
      case 'ipaddr':
        return this.#network(value)
      case 'and': {
        const all = this.#several(value)
        return client => all.every(who => who(client))
      }
      case 'or': {
        const any = this.#several(value)
        return client => any.some(who => who(client))
      }
      case undefined:
        return nobody
    }
  }

  /** Undefined for `all`. */
  #name(term: Term, what: string): string | undefined {
    if (term.kind === 'string') return term.value
    if (term.kind !== 'word' || term.value !== 'all') this.#expected(term, `${what} in double quotes or all`)
    return undefined
  }

  #several(term: Term): Who[] {
    if (term.kind === 'list') return term.items.map(item => this.#who(item))
    this.#expected(term, 'a list such as [{user, "name"}, {client, "id"}]')
    return []
  }

  #network(term: Term): Who {
    if (term.kind !== 'string') {
      this.#expected(term, 'an address or a network in double quotes')
      return nobody
    }
    try {
      const network = parseNetwork(term.value)
      if (/^::ffff:/i.test(network.address)) {
        this.#expected(term, 'an IPv4 network as such: no peer is known in IPv6 dress')
      }
      const fits = within([network])
      return client => fits(client.address)
    } catch (err) {
      if (!(err instanceof SyntaxError)) throw err
      this.#report(term.start, err.message)
      return nobody
    }
  }

  #topics(term: Term, allow: boolean, access: Access): Topics {
    const all = (term.kind === 'list' ? term.items : [term]).map(item => this.#topic(item, allow, access))
    return (client, topic) => {
      for (const one of all) if (one(client, topic)) return true
      return false
    }
  }

  #topic(term: Term, allow: boolean, access: Access): Topics {
    if (term.kind === 'tuple' && term.items.length === 2) {
      const [eq, text] = term.items as [Term, Term]
      this.#word(eq, ['eq'])
      const filter = this.#filter(text, 'a filter in double quotes', access)
      return (_client, topic) => topic === filter
    }
    const filter = this.#filter(term, 'a filter in double quotes or {eq, "filter"}', access)
    const meets = allow ? covers : overlaps
    const levels = filter.split('/')
    if (!levels.includes('%u') && !levels.includes('%c')) return (_client, topic) => meets(filter, topic)
    return (client, topic) => {
      const filled = fill(levels, client, allow)
      return filled !== undefined && meets(filled, topic)
    }
  }

  #filter(term: Term, what: string, access: Access): string {
    if (term.kind !== 'string') {
      this.#expected(term, what)
      return ''
    }
    const { filter } = splitShared(term.value)
    if (!isTopicFilter(term.value)) {
      this.#expected(term, 'a topic filter (+ and # fill a whole level, # the last)')
    } else if (filter !== term.value && access !== 'publish') {
      this.#expected(term, `"${excerpt(filter)}" (a subscription is judged by its filter without what shares it)`)
    }
    return term.value
  }

  #word<const T extends string>(term: Term, allowed: readonly T[], more = ''): T | undefined {
    const found = term.kind === 'word' ? allowed.find(word => word === term.value) : undefined
    if (found === undefined) this.#expected(term, `${allowed.join(' | ')}${more}`, allowed)
    return found
  }

  /** Reports what was expected in the place of `term`; `words` are those that may have been meant. */
  #expected(term: Term, what: string, words: readonly string[] = []): void {
    const got = excerpt(this.#source.slice(term.start, term.end))
    const word = term.kind === 'word' || term.kind === 'string' ? term.value : ''
    const meant = words.includes(word) ? `${word}, without quotes` : nearest(word, words)
    this.#report(term.start, `expected ${what}, got ${got}${meant === undefined ? '' : `; did you mean ${meant}?`}`)
  }
}

/**
 * The filter with the client's own names in it, or undefined when the rule is
 * not for this client:
 *
 * - Without a name there is nothing to fill in. (emqttd leaves `%u` as a level,
 *   which a nameless client could then ask for.)
 * - A name is one level and no wildcard. A client chooses its own id, so under an
 *   allow rule `#`, `+` and `a/b` gain nothing, nor does `$SYS` as the first level,
 *   where a wildcard would not reach it either [MQTT-4.7.2-1].
 * - A deny rule must not be shaken off by such a name: `+` and `#` become U+0000,
 *   which no topic has, so that only a wildcard asked for can meet them.
 */
export function fill(
  levels: readonly string[],
  { clientId, username }: Pick<ClientRef, 'clientId' | 'username'>,
  allow: boolean
): string | undefined {
  let filter = ''
  for (let i = 0; i < levels.length; i++) {
    let level = levels[i]!
    if (level === '%u' || level === '%c') {
      const name = level === '%u' ? username : clientId
      if (name === undefined || name === '') return undefined
      if (allow && (name.includes('/') || name.includes('+') || name.includes('#'))) return undefined
      if (allow && i === 0 && name.startsWith('$')) return undefined
      level = allow ? name : name.replaceAll('+', '\0').replaceAll('#', '\0')
    }
    filter = i === 0 ? level : `${filter}/${level}`
  }
  return filter
}
