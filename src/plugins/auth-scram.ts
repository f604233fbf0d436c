/**
 * Users of its own for SCRAM-SHA-256, the method of MQTT 5's enhanced authentication
 * that keeps no password and sends none. Clients that log in with a password are
 * left to other plugins.
 *
 * The users stand in a file, a line each, and `broker-ctl scram` writes it: what is
 * in force is what was read when the plugin was loaded, or written since. A file
 * that cannot be read refuses everybody.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import {
  fewestIterations,
  makeVerifier,
  mostIterations,
  prepared,
  readVerifier,
  ScramError,
  ScramExchange,
  showVerifier,
  type Verifier
} from '../access/scram.js'
import { type AuthExchange, type AuthStep, BrokerError, integer, list, plugin, text, word } from '../plugin.js'

const method = 'SCRAM-SHA-256'

export interface ScramUser {
  readonly username: string
  readonly iterations: number
  readonly superuser: boolean
}

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
    return { check: async () => readable(), actions: { list: users, add, remove } }

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

/** Lines of a verifier, a space and the user name; `#` begins a comment. */
class UserFile {
  readonly #path: string
  #lines: readonly string[] = []
  users: ReadonlyMap<string, Verifier> = new Map()

  constructor(path: string) {
    this.#path = path
  }

  /** No file is no users. */
  read(): void {
    const lines = linesOf(this.#path)
    const users = new Map<string, Verifier>()
    for (const [i, line] of lines.entries()) {
      if (line === '' || line.startsWith('#')) continue
      const verifier = readVerifier(line.split(' ', 1)[0]!)
      const name = nameIn(line)
      const problem =
        verifier === undefined || name === ''
          ? 'expected SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey> and a user name'
          : users.has(name)
            ? `user ${JSON.stringify(name)} is there twice`
            : undefined
      if (problem !== undefined) {
        throw new BrokerError('PLUGIN_FAILED', `${this.#path}:${i + 1}: ${problem} (auth.scram.file)`)
      }
      users.set(name, verifier!)
    }
    this.#lines = lines
    this.users = users
  }

  /** Of the file as it is now, so that what was written by hand stays. */
  change(name: string, verifier: Verifier | undefined): void {
    this.read()
    const lines = this.#lines.filter(line => line.startsWith('#') || nameIn(line) !== name || line === '')
    if (verifier !== undefined) lines.push(`${showVerifier(verifier)} ${name}`)
    const next = `${this.#path}.new`
    try {
      mkdirSync(dirname(this.#path), { recursive: true })
      writeFileSync(next, lines.map(line => `${line}\n`).join(''), { mode: 0o600 })
      renameSync(next, this.#path)
    } catch (cause) {
      throw unavailable('write', this.#path, cause)
    }
    this.read()
  }
}

const nameIn = (line: string): string => {
  const at = line.indexOf(' ')
  return at === -1 ? '' : line.slice(at + 1)
}

function linesOf(path: string): string[] {
  try {
    const lines = readFileSync(path, 'utf8').split(/\r?\n/)
    if (lines.at(-1) === '') lines.pop()
    return lines
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw unavailable('read', path, cause)
  }
}

function unavailable(what: string, path: string, cause: unknown): BrokerError {
  const { code, message } = cause as NodeJS.ErrnoException
  return new BrokerError('PLUGIN_FAILED', `cannot ${what} ${path}: ${code ?? message} (auth.scram.file)`, { cause })
}
