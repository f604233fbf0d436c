/**
 * Users of its own for SCRAM-SHA-256, the method of MQTT 5's enhanced authentication
 * that keeps no password and sends none. Clients that log in with a password are
 * left to other plugins.
 *
 * The users stand in a file, a line each, and `broker-ctl scram` writes it: what is
 * in force is what was read when the plugin was loaded, or written since. A file
 * that cannot be read refuses everybody.
 */
import {
  fewestIterations,
  makeVerifier,
  mostIterations,
  prepared,
  ScramError,
  ScramExchange
} from '../../access/scram.js'
import { type AuthExchange, type AuthStep, BrokerError, integer, list, plugin, text, word } from '../../plugin.js'
import { UserFile } from './user-file.js'
import type { ScramUser } from './users.js'

const method = 'SCRAM-SHA-256'

export default plugin({
  name: 'auth-scram',
  description: 'Authentication with SCRAM-SHA-256',
  prefix: 'auth.scram',
  options: {
    file: text('data/scram_users'),
    iterations: integer(10_000, { min: fewestIterations, max: mostIterations }),
    superusers: list(word(), '')
  },

  start({ options, hooks, log, path, trouble }) {
    const { iterations } = options
    const superusers = new Set(options.superusers.map(name => prepared(name) ?? name))
    const file = new UserFile(path(options.file))
    let broken: BrokerError | undefined
    try {
      file.read()
    } catch (err) {
      if (!(err instanceof BrokerError)) throw err
      broken = err
      trouble(err.message)
    }
    hooks.authenticator(method, converse)
    return { probe: async () => readable(), actions: { list: users, add, remove } }

    function converse(): AuthExchange {
      const exchange = new ScramExchange({ find: name => file.users.get(name), iterations })
      let isBegun = false
      let clientId = ''
      const hear = (data: Buffer | undefined): AuthStep => {
        if (broken !== undefined) throw broken
        try {
          if (data === undefined && !isBegun) return { result: 'continue' } // it lets the server speak first
          if (!isBegun) {
            isBegun = true
            return { result: 'continue', data: Buffer.from(exchange.first(data!)) }
          }
          const words = Buffer.from(exchange.final(data ?? Buffer.alloc(0)))
          const { username } = exchange
          return { result: 'success', data: words, username, superuser: superusers.has(username) }
        } catch (err) {
          if (!(err instanceof ScramError)) throw err
          log.debug(err.message, { clientId, username: exchange.username })
          return { result: 'refuse' }
        }
      }
      return {
        start: (client, data) => {
          clientId = client.clientId
          return hear(data)
        },
        next: hear
      }
    }

    function readable(): void {
      if (broken !== undefined) throw broken
    }

    function users(): ScramUser[] {
      readable()
      return [...file.users]
        .map(([username, { iterations }]) => ({ username, iterations, superuser: superusers.has(username) }))
        .sort((a, b) => (a.username < b.username ? -1 : 1))
    }

    /** Adds a user, or gives one another password. */
    async function add({ username, password }: { username: string; password: string }): Promise<void> {
      const [name, secret] = [usable('user name', username), usable('password', password)]
      const verifier = await makeVerifier(secret, iterations)
      readable()
      file.change(name, verifier)
    }

    function remove({ username }: { username: string }): void {
      readable()
      const name = prepared(username) ?? username
      file.read()
      if (!file.users.has(name)) throw new BrokerError('NOT_FOUND', 'Not Found.')
      file.change(name, undefined)
    }
  }
})

function usable(what: string, given: string): string {
  const text = prepared(given)
  if (text === undefined) {
    throw new BrokerError('BAD_REQUEST', `a ${what} must not be empty, nor have control or private-use characters`)
  }
  return text
}
