/**
 * The file of users, `auth.scram.file`. A change is made to the file as it is by then, so that what somebody wrote
 * by hand meanwhile stays, comments included.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { readVerifier, showVerifier, type Verifier } from '../../access/scram.js'
import { BrokerError } from '../../plugin.js'

/** Lines of a verifier, a space and the user name; `#` begins a comment. */
export class UserFile {
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
