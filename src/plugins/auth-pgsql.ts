/**
 * Asks PostgreSQL who may log in and, with `acl_query`, who may publish or
 * subscribe to what: emqttd's emq_auth_pgsql.
 *
 * What a client sends never becomes SQL: '%u', '%c' and '%a' are bind parameters,
 * with or without their quotes. And a database that is away is not a user who is
 * unknown: the first throws, which refuses the login, the second is 'ignore'.
 */
import { readFileSync } from 'node:fs'
import { type ConnectionOptions, createSecureContext } from 'node:tls'
import pg from 'pg'
import {
  address,
  BrokerError,
  type ClientInfo,
  duration,
  type Explained,
  expected,
  flag,
  integer,
  key,
  type Options,
  oneOf,
  optional,
  type PluginContext,
  plugin,
  showAddress,
  text
} from '../plugin.js'
import { type AclRow, decideRows, explainRows } from './kit/acl-rows.js'
import { needsSalt, passwordHash, verifyPassword } from './kit/passwords.js'
import { type BoundQuery, postgresql, sqlQuery } from './kit/sql.js'
import { nobody, type VariableClient } from './kit/variables.js'

/** An empty one would make pg look at the environment. */
const filled = (fallback: string) => key(raw => (raw === '' ? expected('a name', raw) : raw), fallback)

const schema = {
  server: address('127.0.0.1:5432', { port: 5432 }),
  pool: integer(8, { min: 1, max: 256 }),
  username: filled('root'),
  password: text(''),
  database: filled('mqtt'),
  // pg speaks UTF-8 whatever it is told; the server converts to the encoding of the database.
  encoding: key(raw => (/^(utf-?8|unicode)$/i.test(raw) ? 'utf8' : expected('utf8', raw)), 'utf8'),
  ssl: flag(false),
  sslOpts: {
    keyfile: optional(text()),
    certfile: optional(text()),
    cacertfile: optional(text()),
    verify: oneOf(['verify_peer', 'verify_none'], 'verify_peer')
  },
  authQuery: optional(sqlQuery(postgresql)),
  passwordHash: passwordHash('sha256'),
  superQuery: optional(sqlQuery(postgresql)),
  aclQuery: optional(sqlQuery(postgresql)),
  onError: oneOf(['deny', 'ignore'], 'deny'),
  // A plugin's answer is awaited for 5 s.
  connectTimeout: duration('4s'),
  queryTimeout: duration('4s')
}

type PgsqlOptions = Options<typeof schema>
type Login = [client: ClientInfo, password: Buffer | undefined]
type Answered = 'allow' | 'superuser' | 'deny' | 'ignore'

export default plugin({
  name: 'auth-pgsql',
  description: 'Authentication/ACL with PostgreSQL',
  prefix: 'auth.pgsql',
  options: schema,

  check({ ssl, sslOpts, connectTimeout, queryTimeout }, report) {
    const { keyfile, certfile, cacertfile } = sslOpts
    for (const [name, file] of Object.entries({ keyfile, certfile, cacertfile })) {
      if (file !== undefined && !ssl)
        report(`auth.pgsql.ssl_opts.${name}`, 'has no effect without auth.pgsql.ssl = true')
    }
    if (keyfile === undefined && certfile !== undefined) {
      report('auth.pgsql.ssl_opts.certfile', 'needs auth.pgsql.ssl_opts.keyfile: a certificate is proved with its key')
    }
    if (certfile === undefined && keyfile !== undefined) {
      report('auth.pgsql.ssl_opts.keyfile', 'needs auth.pgsql.ssl_opts.certfile: a key belongs to a certificate')
    }
    if (connectTimeout === 0) report('auth.pgsql.connect_timeout', 'expected a duration above 0')
    if (queryTimeout === 0) report('auth.pgsql.query_timeout', 'expected a duration above 0')
  },

  start(context) {
    const { options, hooks, log } = context
    const database = new Database(context)
    const warned = new Set<string>()
    if (options.authQuery !== undefined) {
      const handler = async (...asked: Login) => (await authenticate(...asked)).answer
      hooks.on('client.authenticate', handler, { explain: authenticate })
    }
    if (options.aclQuery !== undefined) hooks.on('client.authorize', authorize, { explain: explainAcl })
    return { check: () => database.check(), stop: () => database.stop() }

    async function authenticate(...[client, password]: Login): Promise<Explained<Answered>> {
      const { username } = client
      if (username === undefined) return { answer: 'ignore', why: 'no user name' }
      if (username === '') return { answer: 'deny', why: 'an empty user name' }
      if (password === undefined || password.length === 0) return { answer: 'deny', why: 'no password' }
      const row = (await database.ask('auth_query', client))?.rows[0]
      if (row === undefined) {
        log.debug('no such user', { clientId: client.clientId, username })
        return { answer: 'ignore', why: 'no such user' }
      }
      const [stored = null, salt = null] = row
      const right =
        stored !== null &&
        (await verifyPassword(options.passwordHash, password, String(stored), salt === null ? undefined : String(salt)))
      if (!right) {
        const why = stored === null ? 'the user has no password' : 'wrong password'
        log.debug(why, { clientId: client.clientId, username })
        return { answer: 'deny', why }
      }
      return { answer: (await isSuperuser(client)) ? 'superuser' : 'allow' }
    }

    /** Who cannot be shown to be a superuser is none; the password was right all the same. */
    async function isSuperuser(client: ClientInfo): Promise<boolean> {
      if (options.superQuery === undefined) return false
      try {
        return (await database.ask('super_query', client))?.rows[0]?.[0] === true
      } catch (err) {
        if (err instanceof BrokerError) return false
        throw err
      }
    }

    async function authorize(client: ClientInfo, action: 'publish' | 'subscribe', topic: string) {
      try {
        const answer = await database.ask('acl_query', client)
        // A name that PostgreSQL cannot even compare must not slip past the rows that deny everybody.
        return answer === undefined ? 'deny' : decideRows(answer.rows, client, action, topic, warnOnce)
      } catch (err) {
        if (err instanceof BrokerError && options.onError === 'ignore') return 'ignore'
        throw err
      }
    }

    async function explainAcl(client: ClientInfo, action: 'publish' | 'subscribe', topic: string) {
      try {
        const answer = await database.ask('acl_query', client)
        if (answer !== undefined) return explainRows(answer.rows, client, action, topic)
        return { answer: 'deny', why: 'a name that PostgreSQL cannot compare' } as const
      } catch (err) {
        if (!(err instanceof BrokerError) || options.onError !== 'ignore') throw err
        return { answer: 'ignore', why: `${err.message}; auth.pgsql.on_error = ignore` } as const
      }
    }

    /** A row stays wrong until somebody mends it, and is read at every question. */
    function warnOnce(problem: string): void {
      if (warned.has(problem) || warned.size >= 1000) return
      warned.add(problem)
      log.warning(problem)
    }
  }
})

// ---- the database

type QueryName = 'auth_query' | 'super_query' | 'acl_query'
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

/** Values that PostgreSQL cannot take where the query compares them: out of range, not a number, not in its encoding. */
const unfit = new Set(['22P02', '22P05', '22003', '22007', '22008', '22021'])

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

const calmMs = 1000
const probeMs = 2000
const stopMs = 2000

/**
 * The connections, and what is known of them. A loss and its end are one line of
 * the log each, however many clients run into it; in between the database is
 * tried now and then, so that `plugins list` tells the truth on a quiet broker.
 */
class Database {
  readonly #context: PluginContext<typeof schema>
  readonly #queries: ReadonlyMap<QueryName, BoundQuery>
  readonly #troubles = new Map<QueryName | 'connection', { why: string; last: number }>()
  readonly #busy = new Set<pg.PoolClient>()
  #pool: pg.Pool | undefined
  #probe: NodeJS.Timeout | undefined
  #probing = false
  #stopped = false

  constructor(context: PluginContext<typeof schema>) {
    this.#context = context
    const { authQuery, superQuery, aclQuery } = context.options
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
      if (this.#stopped) throw err
      const lost = isLost(err)
      if (!lost) this.#ended('connection')
      if (err instanceof pg.DatabaseError && unfit.has(err.code ?? '')) {
        this.#context.log.debug(`PostgreSQL cannot compare a value of ${keyOf(name)}: ${err.message}`, {
          clientId: client.clientId
        })
        return undefined
      }
      const why = explain(err, this.#context.options, name, query)
      if (!isBusy(err)) this.#began(lost ? 'connection' : name, why, quiet)
      throw new BrokerError('PLUGIN_FAILED', why, { cause: err })
    }
    this.#ended('connection')
    const wrong = this.#columns(name, answer)
    if (wrong !== undefined) {
      this.#began(name, wrong, quiet)
      throw new BrokerError('PLUGIN_FAILED', wrong)
    }
    this.#ended(name)
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
        if (this.#troubles.has('connection')) break
      }
    }
    if (problems.length > 0) throw new BrokerError('PLUGIN_FAILED', problems.join('\n'))
  }

  async stop(): Promise<void> {
    const pool = this.#pool
    if (this.#stopped) return
    this.#stopped = true
    clearTimeout(this.#probe)
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
      void this.#probeNow()
    })
    return pool
  }

  #probeLater(): void {
    if (!this.#stopped) this.#probe ??= setTimeout(() => void this.#probeNow(), probeMs).unref()
  }

  async #probeNow(): Promise<void> {
    if (this.#stopped || this.#probing) return
    this.#probing = true
    clearTimeout(this.#probe)
    this.#probe = undefined
    try {
      await this.#run({ text: 'select 1' })
      this.#ended('connection')
    } catch (err) {
      if (!this.#stopped && !isBusy(err)) this.#began('connection', explain(err, this.#context.options))
    }
    this.#probing = false
    if (this.#troubles.has('connection')) this.#probeLater()
  }

  #began(what: QueryName | 'connection', why: string, quiet = false): void {
    const known = this.#troubles.has(what)
    this.#troubles.set(what, { why, last: performance.now() })
    if (!known && !quiet) this.#context.log.warning(why)
    if (what === 'connection') this.#probeLater()
    this.#tell()
  }

  /** Where some connections work and others fail, the trouble goes on: it is over after a while without failure. */
  #ended(what: QueryName | 'connection'): void {
    const trouble = this.#troubles.get(what)
    if (trouble === undefined || performance.now() - trouble.last < calmMs) return
    this.#troubles.delete(what)
    const server = nameOf(this.#context.options)
    this.#context.log.info(what === 'connection' ? `${server} is back` : `${keyOf(what)} works again`)
    this.#tell()
  }

  #tell(): void {
    if (!this.#stopped) this.#context.trouble(this.#troubles.values().next().value?.why)
  }

  #columns(name: QueryName, { fields }: Answer): string | undefined {
    const hash = this.#context.options.passwordHash
    const salted = name === 'auth_query' && needsSalt(hash)
    const needed = name === 'acl_query' ? 6 : salted ? 2 : 1
    if (name === 'acl_query' ? fields.length === needed : fields.length >= needed) return undefined
    const columns = {
      auth_query: salted ? 'password and salt, which auth.pgsql.password_hash needs' : 'password',
      super_query: 'is_superuser',
      acl_query: 'allow, ipaddr, username, clientid, access and topic'
    }
    const plural = needed === 1 ? 'a column' : `${needed} columns`
    return `expected ${plural}, ${columns[name]}, got ${fields.length} (${keyOf(name)})`
  }
}

const keyOf = (name: QueryName): string => `auth.pgsql.${name}`
const nameOf = ({ server: { host = '127.0.0.1', port } }: PgsqlOptions): string =>
  `PostgreSQL at ${showAddress({ host, port })}`

/** Whether the error says something of the connection or the server, and nothing of the query. */
function isLost(err: unknown): boolean {
  if (err instanceof pg.DatabaseError) return /^(08|28|3D|53|57P|58)/.test(err.code ?? '')
  return !isBusy(err)
}

/** pg's words when no connection of the pool became free in time. */
const isBusy = (err: unknown): boolean => (err as Error).message === 'timeout exceeded when trying to connect'

function tlsOptions({ options: { ssl, sslOpts }, path }: PluginContext<typeof schema>): false | ConnectionOptions {
  if (!ssl) return false
  const files = { key: sslOpts.keyfile, cert: sslOpts.certfile, ca: sslOpts.cacertfile }
  const tls: ConnectionOptions = { rejectUnauthorized: sslOpts.verify === 'verify_peer' }
  for (const part of ['key', 'cert', 'ca'] as const) {
    const file = files[part]
    if (file === undefined) continue
    const key = `auth.pgsql.ssl_opts.${part === 'ca' ? 'cacert' : part}file`
    try {
      tls[part] = readFileSync(path(file))
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException
      const why = code === 'ENOENT' ? 'no such file' : code
      throw new BrokerError('PLUGIN_FAILED', `cannot read ${path(file)}: ${why} (${key})`, { cause })
    }
  }
  try {
    createSecureContext(tls)
  } catch (cause) {
    const what = 'no certificate and key in PEM that belong together'
    throw new BrokerError('PLUGIN_FAILED', `${what} (auth.pgsql.ssl_opts.certfile, auth.pgsql.ssl_opts.keyfile)`, {
      cause
    })
  }
  return tls
}

// ---- what went wrong, in the operator's words

function explain(err: unknown, options: PgsqlOptions, name?: QueryName, query?: BoundQuery): string {
  if (err instanceof BrokerError) return err.message
  const { pool, connectTimeout } = options
  if (isBusy(err))
    return `all ${pool} connections to ${nameOf(options)} were busy for ${connectTimeout} ms (auth.pgsql.pool)`
  const said = err instanceof Error ? err.message : String(err)
  return err instanceof pg.DatabaseError && err.code !== undefined
    ? explainRefusal(err, options, name, query)
    : explainConnection(said, (err as NodeJS.ErrnoException).code, options)
}

/** PostgreSQL answered, with an SQLSTATE. */
function explainRefusal(err: pg.DatabaseError, options: PgsqlOptions, name?: QueryName, query?: BoundQuery): string {
  const server = nameOf(options)
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
  const server = nameOf(options)
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
