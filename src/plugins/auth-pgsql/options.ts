/** The keys of etc/plugins/auth-pgsql.conf, and what is called after them in the log. */
import {
  address,
  duration,
  expected,
  flag,
  integer,
  key,
  type Options,
  oneOf,
  optional,
  type PluginContext,
  passwordHash,
  postgresql,
  showAddress,
  sqlQuery,
  text
} from '../../plugin.js'

/** An empty one would make pg look at the environment. */
const filled = (fallback: string) => key(raw => (raw === '' ? expected('a name', raw) : raw), fallback)

export const schema = {
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

export type PgsqlOptions = Options<typeof schema>
export type PgsqlContext = PluginContext<typeof schema>

export type QueryName = 'auth_query' | 'super_query' | 'acl_query'

export const keyOf = (name: QueryName): string => `auth.pgsql.${name}`

export const serverOf = ({ server: { host = '127.0.0.1', port } }: PgsqlOptions): string =>
  `PostgreSQL at ${showAddress({ host, port })}`
