/**
 * What went wrong with PostgreSQL, in the operator's words, each with the keys to look at; and what an error says of:
 * the connection, the query, or only the value that a client sent.
 */
import pg from 'pg'
import { type BoundQuery, BrokerError, needsSalt } from '../../plugin.js'
import { keyOf, type PgsqlOptions, type QueryName, serverOf } from './options.js'

/** Whether the error says something of the connection or the server, and nothing of the query. */
export function isLost(err: unknown): boolean {
  if (err instanceof pg.DatabaseError) return /^(08|28|3D|53|57P|58)/.test(err.code ?? '')
  return !isBusy(err)
}

/** pg's words when no connection of the pool became free in time. */
export const isBusy = (err: unknown): boolean => (err as Error).message === 'timeout exceeded when trying to connect'

/** Values that PostgreSQL cannot take where the query compares them: out of range, not a number, not in its encoding. */
const unfit = new Set(['22P02', '22P05', '22003', '22007', '22008', '22021'])

export const isUnfit = (err: unknown): err is pg.DatabaseError =>
  err instanceof pg.DatabaseError && unfit.has(err.code ?? '')

/** What is wrong with the columns of an answer; undefined when nothing is. */
export function explainColumns(name: QueryName, got: number, { passwordHash }: PgsqlOptions): string | undefined {
  const salted = name === 'auth_query' && needsSalt(passwordHash)
  const needed = name === 'acl_query' ? 6 : salted ? 2 : 1
  if (name === 'acl_query' ? got === needed : got >= needed) return undefined
  const columns = {
    auth_query: salted ? 'password and salt, which auth.pgsql.password_hash needs' : 'password',
    super_query: 'is_superuser',
    acl_query: 'allow, ipaddr, username, clientid, access and topic'
  }
  const plural = needed === 1 ? 'a column' : `${needed} columns`
  return `expected ${plural}, ${columns[name]}, got ${got} (${keyOf(name)})`
}

export function explainFailure(err: unknown, options: PgsqlOptions, name?: QueryName, query?: BoundQuery): string {
  if (err instanceof BrokerError) return err.message
  const { pool, connectTimeout } = options
  if (isBusy(err))
    return `all ${pool} connections to ${serverOf(options)} were busy for ${connectTimeout} ms (auth.pgsql.pool)`
  const said = err instanceof Error ? err.message : String(err)
  return err instanceof pg.DatabaseError && err.code !== undefined
    ? explainRefusal(err, options, name, query)
    : explainConnection(said, (err as NodeJS.ErrnoException).code, options)
}

/** PostgreSQL answered, with an SQLSTATE. */
function explainRefusal(err: pg.DatabaseError, options: PgsqlOptions, name?: QueryName, query?: BoundQuery): string {
  const server = serverOf(options)
  const { username, database } = options
  const at = name === undefined ? '' : ` (${keyOf(name)}${place(err, query)})`
  const [, subject] = /"([^"]+)"/.exec(err.message) ?? []
  switch (err.code) {
    case '28P01':
      return `${server} refused user "${username}": wrong password (auth.pgsql.username, auth.pgsql.password)`
    case '28000':
      return `${server} refused user "${username}": ${err.message} (auth.pgsql.username)`
    case '3D000':
      return `${server} has no database "${database}" (auth.pgsql.database)`
    case '53300':
      return `${server} has no connection left for user "${username}": ${err.message} (auth.pgsql.pool)`
    case '42P01':
      return subject === undefined ? `${err.message}${at}` : `no such table: "${subject}"${at}`
    case '42703':
      return subject === undefined ? `${err.message}${at}` : `no such column: "${subject}"${at}`
    case '42P18':
      return `${err.message}: give it a type, as in '%u'::text${at}`
    case '42501':
      return `user "${username}" may not do this: ${err.message}${at}`
    case '57014':
      return `${server} took longer than ${options.queryTimeout} ms (auth.pgsql.query_timeout)${at}`
    default:
      return name === undefined || isLost(err) ? `${server}: ${err.message}` : `${err.message}${at}`
  }
}

function place({ position }: pg.DatabaseError, query?: BoundQuery): string {
  return position === undefined || query === undefined ? '' : `, character ${query.origin(Number(position))}`
}

/** Nobody answered, or not as PostgreSQL does. pg gives most of these no code, so its words must do. */
function explainConnection(said: string, code: string | undefined, options: PgsqlOptions): string {
  const server = serverOf(options)
  const { host } = options.server
  switch (code) {
    case 'ECONNREFUSED':
      return `nothing listens at ${server.replace(/^.* /, '')}: is PostgreSQL running? (auth.pgsql.server)`
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `there is no host "${host}" (auth.pgsql.server)`
    case 'ERR_TLS_CERT_ALTNAME_INVALID':
      return `the certificate of ${server} is for another name: ${said} (auth.pgsql.server)`
  }
  if (/certificate/i.test(said) && code !== undefined) {
    return `the certificate of ${server} is not trusted: ${said} (auth.pgsql.ssl_opts.cacertfile, auth.pgsql.ssl_opts.verify)`
  }
  if (said.includes('does not support SSL')) return `${server} does not offer TLS (auth.pgsql.ssl)`
  if (said.includes('password must be a')) return `${server} asks for a password (auth.pgsql.password)`
  if (code === 'ETIMEDOUT' || said === 'timeout expired' || said.endsWith('due to connection timeout')) {
    return `${server} did not answer within ${options.connectTimeout} ms (auth.pgsql.server, auth.pgsql.connect_timeout)`
  }
  if (code === 'ECONNRESET' || code === 'EPIPE' || said === 'Connection terminated unexpectedly') {
    return `${server} closed the connection (auth.pgsql.server)`
  }
  if (said === 'Query read timeout') {
    return `${server} did not answer within ${options.queryTimeout} ms (auth.pgsql.query_timeout)`
  }
  return `${server}: ${said}`
}
