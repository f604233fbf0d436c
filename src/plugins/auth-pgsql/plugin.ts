/**
 * Asks PostgreSQL who may log in and, with `acl_query`, who may publish or
 * subscribe to what: emqttd's emq_auth_pgsql.
 *
 * What a client sends never becomes SQL: '%u', '%c' and '%a' are bind parameters,
 * with or without their quotes. And a database that is away is not a user who is
 * unknown: the first throws, which refuses the login, the second is 'ignore'.
 */
import {
  BrokerError,
  type ClientInfo,
  decideRows,
  type Explained,
  explainRows,
  plugin,
  verifyPassword
} from '../../plugin.js'
import { Database } from './database.js'
import { schema } from './options.js'

type Login = [client: ClientInfo, password: Buffer | undefined]
type Answered = 'allow' | 'superuser' | 'deny' | 'ignore'

export default plugin({
  name: 'auth-pgsql',
  description: 'Authentication/ACL with PostgreSQL',
  prefix: 'auth.pgsql',
  options: schema,

  validate({ ssl, sslOpts, connectTimeout, queryTimeout }, report) {
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
    return { probe: () => database.check(), stop: () => database.stop() }

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
