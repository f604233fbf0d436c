/**
 * What the rows of an ACL table say: emqttd's six columns allow, ipaddr,
 * username, clientid, access, topic, known by their position.
 *
 * The LAST row is tried first, as in emqttd: its sample table has the rule for
 * everybody in row 1 and the exceptions below it. Each row means what the same
 * rule means in etc/acl.conf.
 */
import { fill, misfitOf } from '../../access/acl-file.js'
import { type Network, parseNetwork, within } from '../../config/values.js'
import { covers, isTopicFilter, overlaps, splitShared } from '../../wire/topic.js'
import type { VariableClient } from './variables.js'

/** As the database gave it: text, a boolean or NULL in each column. */
export type AclRow = readonly (string | number | boolean | null)[]

interface Rule {
  readonly allow: boolean
  readonly access: 'publish' | 'subscribe' | 'pubsub'
  /** Undefined, like the two below: not a condition. */
  readonly from: Network | undefined
  readonly username: string | undefined
  readonly clientId: string | undefined
  readonly filter: string
  /** Written `eq <filter>`: stands for the filter itself, not for what it matches. */
  readonly literal: boolean
}

/**
 * @param topic of a publish, or the filter of a subscription without what shares it.
 * @param problem hears of each row that cannot be read, and is left out.
 */
export function decideRows(
  rows: readonly AclRow[],
  client: VariableClient,
  action: 'publish' | 'subscribe',
  topic: string,
  problem: (what: string) => void
): 'allow' | 'deny' | 'ignore' {
  for (const row of rows.toReversed()) {
    const rule = readRow(row)
    if (typeof rule === 'string') problem(`the ACL row ${shown(row)} is left out: ${rule}`)
    else if (misfit(rule, client, action, topic) === undefined) return rule.allow ? 'allow' : 'deny'
  }
  return 'ignore'
}

/** Every row to the one that decides, and what keeps the others from it. */
export function explainRows(
  rows: readonly AclRow[],
  client: VariableClient,
  action: 'publish' | 'subscribe',
  topic: string
): { answer: 'allow' | 'deny' | 'ignore'; rules: { text: string; matched: boolean; why?: string }[] } {
  const rules: { text: string; matched: boolean; why?: string }[] = []
  for (const row of rows.toReversed()) {
    const rule = readRow(row)
    const text = `row ${shown(row)}`
    const why = typeof rule === 'string' ? `left out: ${rule}` : misfit(rule, client, action, topic)
    if (why === undefined) {
      rules.push({ text, matched: true })
      return { answer: (rule as Rule).allow ? 'allow' : 'deny', rules }
    }
    rules.push({ text, matched: false, why })
  }
  return { answer: 'ignore', rules }
}

/** The rule, or what is wrong with the row. */
function readRow(row: AclRow): Rule | string {
  const [allow, ipaddr, username, clientId, access, topic] = row.map(column => (column === null ? '' : String(column)))
  const verdict = verdicts.get(allow!.toLowerCase())
  if (verdict === undefined) return 'expected 1 or 0 as allow'
  const actions = accesses.get(access!)
  if (actions === undefined) return 'expected 1 (subscribe), 2 (publish) or 3 (both) as access'
  if (ipaddr === '' && username === '' && clientId === '') {
    return "it is for nobody; give it an ipaddr, a username ('$all' is everybody) or a clientid"
  }
  const literal = topic!.startsWith('eq ')
  const filter = literal ? topic!.slice('eq '.length) : topic!
  if (!literal && !(isTopicFilter(filter) && splitShared(filter).filter === filter)) {
    return 'expected a topic filter as topic (+ and # fill a whole level, # the last)'
  }
  try {
    return {
      allow: verdict,
      access: actions,
      from: ipaddr === '' ? undefined : parseNetwork(ipaddr!),
      username: username === '' || username === '$all' ? undefined : username,
      clientId: clientId === '' ? undefined : clientId,
      filter,
      literal
    }
  } catch (err) {
    if (err instanceof SyntaxError) return `${err.message} as ipaddr`
    throw err
  }
}

const verdicts = new Map([
  ['1', true],
  ['t', true],
  ['true', true],
  ['0', false],
  ['f', false],
  ['false', false]
])
const accesses = new Map([
  ['1', 'subscribe'],
  ['2', 'publish'],
  ['3', 'pubsub']
] as const) as ReadonlyMap<string, Rule['access']>

const shown = (row: AclRow): string => `(${row.map(column => (column === null ? 'NULL' : String(column))).join(', ')})`

/** Why a rule is not for this; undefined when it is. The query need not have asked for this client's rows only. */
function misfit(
  { access, username, clientId, from, ...rule }: Rule,
  client: VariableClient,
  action: 'publish' | 'subscribe',
  topic: string
): string | undefined {
  if (access !== 'pubsub' && access !== action) return 'another action'
  if (username !== undefined && username !== client.username) return 'another user'
  if (clientId !== undefined && clientId !== client.clientId) return 'another client id'
  if (from !== undefined && !within([from])(client.peer.address)) return 'another address'
  return concerns(rule, client, topic) ? undefined : misfitOf(rule.allow, action)
}

/** A subscription is allowed by a rule that covers all of it, and denied by one that overlaps with it. */
function concerns(
  { filter, literal, allow }: Pick<Rule, 'filter' | 'literal' | 'allow'>,
  client: VariableClient,
  topic: string
): boolean {
  if (literal) return topic === filter
  const filled = fill(filter.split('/'), client, allow)
  return filled !== undefined && (allow ? covers : overlaps)(filled, topic)
}
