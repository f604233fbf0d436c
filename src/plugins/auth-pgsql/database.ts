/**
 * The connections to PostgreSQL, and the queries over them. Each outcome is told to the back end's health, which
 * tells the operator.
 */
import pg from 'pg'
import {
  type AclRow,
  Backend,
  type BoundQuery,
  BrokerError,
  connection,
  nobody,
  type VariableClient
} from '../../plugin.js'
import { explainColumns, explainFailure, isBusy, isLost, isUnfit } from './failures.js'
import { keyOf, type PgsqlContext, type QueryName, serverOf } from './options.js'
import { tlsOptions } from './tls.js'

type Answer = pg.QueryArrayResult<Exclude<AclRow[number], number>[]>

/** A query of the extended protocol has one statement; types/pg does not know the option. */
type ExtendedQuery = pg.QueryArrayConfig & { queryMode: 'extended' }

const boolean = 16
const blankPadded = 1042

/**
 * Text as the server sends it, since a salt of digits must not become a number.
 * A char(n) is padded with blanks that mean nothing; only a real boolean is one.
 */
const types = {
  getTypeParser:
    (type: number) =>
    (raw: string): string | boolean =>
      type === boolean ? raw === 't' : type === blankPadded ? raw.replace(/ +$/, '') : raw
} as pg.CustomTypesConfig

/**
 * Closes its socket when it cannot go on: pg leaves that to the server, which waits
 * a minute for an answer that pg refuses to give, such as an empty password.
 */
class ClosingClient extends pg.Client {
  constructor(config?: pg.ClientConfig) {
    super(config)
    this.connection.on('error', () => this.connection.stream.destroy())
  }
}

const stopMs = 2000

export class Database {
  readonly #context: PgsqlContext
  readonly #queries: ReadonlyMap<QueryName, BoundQuery>
  readonly #backend: Backend
  readonly #busy = new Set<pg.PoolClient>()
  #pool: pg.Pool | undefined

  constructor(context: PgsqlContext) {
    this.#context = context
    const { log, trouble, options } = context
    this.#backend = new Backend({ name: serverOf(options), log, trouble, probe: () => this.#probe() })
    const { authQuery, superQuery, aclQuery } = options
    const all = { auth_query: authQuery, super_query: superQuery, acl_query: aclQuery }
    const names = ['auth_query', 'super_query', 'acl_query'] as const
    this.#queries = new Map(names.flatMap(name => (all[name] === undefined ? [] : [[name, all[name]]])))
  }

  /** The rows for this client, or undefined when no row can be meant; a BrokerError when that cannot be told. */
  async ask(name: QueryName, client: VariableClient, { quiet = false } = {}): Promise<Answer | undefined> {
    const query = this.#queries.get(name)!
    const values = query.values(client)
    // PostgreSQL's text has no U+0000, so no row can have such a name.
    if (values.some(value => value?.includes('\0'))) return undefined
    let answer: Answer
    try {
      answer = await this.#run({ text: query.text, values })
    } catch (err) {
      if (this.#backend.isStopped) throw err
      const lost = isLost(err)
      if (!lost) this.#backend.works(connection)
      if (isUnfit(err)) {
        this.#context.log.debug(`PostgreSQL cannot compare a value of ${keyOf(name)}: ${err.message}`, {
          clientId: client.clientId
        })
        return undefined
      }
      const why = explainFailure(err, this.#context.options, name, query)
      if (!isBusy(err)) this.#backend.failed(lost ? connection : keyOf(name), why, { quiet })
      throw new BrokerError('PLUGIN_FAILED', why, { cause: err })
    }
    this.#backend.works(connection)
    const wrong = explainColumns(name, answer.fields.length, this.#context.options)
    if (wrong !== undefined) {
      this.#backend.failed(keyOf(name), wrong, { quiet })
      throw new BrokerError('PLUGIN_FAILED', wrong)
    }
    this.#backend.works(keyOf(name))
    return answer
  }

  /** Runs each query for a client of no name: its table, its columns and the rights are all there, or they are not. */
  async check(): Promise<void> {
    const problems: string[] = []
    for (const name of this.#queries.keys()) {
      try {
        const answer = await this.ask(name, nobody, { quiet: true })
        const type = answer?.fields[0]?.dataTypeID
        if (name === 'super_query' && type !== undefined && type !== boolean) {
          this.#context.log.warning(`nobody is a superuser: ${keyOf(name)} answers no boolean, and only true counts`)
        }
      } catch (err) {
        if (!(err instanceof BrokerError)) throw err
        problems.push(err.message)
        if (this.#backend.isAway) break
      }
    }
    if (problems.length > 0) throw new BrokerError('PLUGIN_FAILED', problems.join('\n'))
  }

  async stop(): Promise<void> {
    const pool = this.#pool
    if (this.#backend.isStopped) return
    this.#backend.stop()
    if (pool === undefined) return
    let timer: NodeJS.Timeout | undefined
    const late = new Promise(resolve => {
      timer = setTimeout(resolve, stopMs)
    })
    await Promise.race([pool.end(), late])
    clearTimeout(timer)
    // pg cuts the connection of a client that ends in the middle of a query.
    for (const client of this.#busy) void client.end()
  }

  async #probe(): Promise<boolean> {
    try {
      await this.#run({ text: 'select 1' })
      return true
    } catch (cause) {
      if (isBusy(cause)) return false
      throw new BrokerError('PLUGIN_FAILED', explainFailure(cause, this.#context.options), { cause })
    }
  }

  /** A client goes back to the pool after an error of its query; only a broken one is thrown away. */
  async #run({ text, values = [] }: { text: string; values?: (string | null)[] }): Promise<Answer> {
    this.#pool ??= this.#connect()
    const client = await this.#pool.connect()
    // What breaks a connection is also told to its query; without a listener it would end the process.
    const ignore = (): void => {}
    client.on('error', ignore)
    this.#busy.add(client)
    let broken = true
    try {
      const answer = await client.query({
        text,
        values,
        types,
        rowMode: 'array',
        queryMode: 'extended'
      } as ExtendedQuery)
      broken = false
      return answer
    } catch (err) {
      broken = isLost(err)
      throw err
    } finally {
      this.#busy.delete(client)
      client.release(broken)
      client.off('error', ignore)
    }
  }

  /** Made when first needed: a certificate that cannot be read refuses logins until it can, as a lost database does. */
  #connect(): pg.Pool {
    const { options, log } = this.#context
    const { server, username, database, pool: max, connectTimeout, queryTimeout } = options
    const pool = new pg.Pool({
      Client: ClosingClient,
      host: server.host ?? '127.0.0.1',
      port: server.port,
      user: username,
      // As a function, or pg would take PGPASSWORD or ~/.pgpass for an empty one.
      password: () => options.password,
      database,
      ssl: tlsOptions(this.#context),
      sslnegotiation: 'postgres',
      application_name: 'tsmqttd',
      max,
      connectionTimeoutMillis: connectTimeout,
      // The server's own limit, set below, comes first and spares the connection.
      query_timeout: queryTimeout + 500,
      // A firewall that forgets a connection tells nobody: keep none for long.
      idleTimeoutMillis: 60_000,
      keepAlive: true,
      onConnect: client => client.query(`set client_encoding to 'UTF8'; set statement_timeout to ${queryTimeout}`)
    } as pg.PoolConfig)
    pool.on('error', err => {
      // The error holds the whole connection: say no more than its message.
      log.debug(`lost an idle connection: ${err.message}`)
      void this.#backend.probe()
    })
    return pool
  }
}
