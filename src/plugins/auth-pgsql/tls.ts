/** The files of `auth.pgsql.ssl_opts`, read when a connection is made. */
import { readFileSync } from 'node:fs'
import { type ConnectionOptions, createSecureContext } from 'node:tls'
import { BrokerError } from '../../plugin.js'
import type { PgsqlContext } from './options.js'

export function tlsOptions({ options: { ssl, sslOpts }, path }: PgsqlContext): false | ConnectionOptions {
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
