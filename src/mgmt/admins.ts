/**
 * Who may use the management API: users with a password, and tokens for programs. Both
 * are kept in data/admins, readable by the broker's user alone, and only as hashes: a
 * password's is bcrypt's, a token is random enough for a plain digest.
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { hashPassword, longestPassword, verifyBcrypt } from '../access/password.js'
import { BrokerError } from '../base/errors.js'

export interface User {
  readonly username: string
  /** emqttd's; they say what the user is, and open and close nothing. */
  readonly tags: string
}

/** `read`: asks, and changes nothing. */
export type TokenAccess = 'full' | 'read'

export interface Token {
  readonly name: string
  readonly access: TokenAccess
  /** Seconds since 1970. */
  readonly created_at: number
}

type StoredUser = User & { readonly hash: string }
type StoredToken = Token & { readonly digest: string }

interface Kept {
  readonly users: Map<string, StoredUser>
  /** By digest. */
  readonly tokens: Map<string, StoredToken>
}

export const firstUser = 'admin'

export class Admins {
  readonly #file: string
  readonly #initialFile: string
  #kept: Kept | undefined
  /** Of the password that a user has shown last; only in memory, and useless without the key. */
  readonly #proofs = new Map<string, Buffer>()
  readonly #proofKey = randomBytes(32)
  /** Of no password: who asks for a user that is not there waits as long as for one that is. */
  #nobody: Promise<string> | undefined

  /** @param initialFile where the first user's password is written, until it is changed. */
  constructor(file: string, initialFile: string) {
    this.#file = file
    this.#initialFile = initialFile
  }

  users(): User[] {
    return [...this.#data.users.values()].map(({ username, tags }) => ({ username, tags }))
  }

  user(username: string): User | undefined {
    return this.users().find(each => each.username === username)
  }

  async add(username: string, password: string, tags = ''): Promise<void> {
    if (username === '' || /[:\u0000-\u001f\u007f]/.test(username)) {
      throw new BrokerError('BAD_REQUEST', 'a user name must not be empty, nor have a colon or a control character')
    }
    const taken = (): void => {
      if (this.#data.users.has(username)) throw new BrokerError('CONFLICT', 'Error: "username already exist"')
    }
    taken()
    const hash = await hashed(password)
    taken() // two may have come at once
    this.#data.users.set(username, { username, tags, hash })
    this.#write()
  }

  async setPassword(username: string, password: string): Promise<void> {
    this.#find(username)
    const hash = await hashed(password)
    this.#change({ ...this.#find(username), hash })
    if (username === firstUser) rmSync(this.#initialFile, { force: true })
  }

  setTags(username: string, tags: string): void {
    this.#change({ ...this.#find(username), tags })
  }

  remove(username: string): void {
    this.#find(username)
    this.#proofs.delete(username)
    this.#data.users.delete(username)
    this.#write()
    if (username === firstUser) rmSync(this.#initialFile, { force: true })
  }

  /** At once where the password is the one that was right before; undefined when it takes a hash to tell. */
  isKnown(username: string, password: string): true | undefined {
    const proof = this.#proofs.get(username)
    return proof !== undefined && timingSafeEqual(proof, this.#proofOf(password)) ? true : undefined
  }

  /** Takes as long for a user who is not there. */
  async verify(username: string, password: string): Promise<boolean> {
    const user = this.#data.users.get(username)
    this.#nobody ??= hashPassword(randomBytes(16).toString('hex'))
    const hash = user?.hash ?? (await this.#nobody)
    const right = await verifyBcrypt(Buffer.from(password), hash)
    const isRight = right && Buffer.byteLength(password) <= longestPassword && user !== undefined
    // It may have been changed meanwhile.
    if (!isRight || this.#data.users.get(username)?.hash !== hash) return false
    this.#proofs.set(username, this.#proofOf(password))
    return true
  }

  tokens(): Token[] {
    return [...this.#data.tokens.values()].map(({ digest: _, ...rest }) => rest)
  }

  /** The token itself, which nobody can be shown again. */
  addToken(name: string, access: string): string {
    if (name === '' || /[\u0000-\u001f\u007f]/.test(name)) {
      throw new BrokerError('BAD_REQUEST', 'the name of a token must not be empty, nor have a control character')
    }
    if (access !== 'full' && access !== 'read') {
      throw new BrokerError('BAD_REQUEST', `expected full or read, got "${access}"`)
    }
    if (this.tokens().some(each => each.name === name)) {
      throw new BrokerError('CONFLICT', `there is a token ${name} already`)
    }
    const token = `brk_${randomBytes(32).toString('base64url')}`
    const digest = digestOf(token)
    this.#data.tokens.set(digest, { name, access, created_at: Math.floor(Date.now() / 1000), digest })
    this.#write()
    return token
  }

  removeToken(name: string): void {
    const found = [...this.#data.tokens.values()].find(each => each.name === name)
    if (found === undefined) throw new BrokerError('NOT_FOUND', 'Not Found.')
    this.#data.tokens.delete(found.digest)
    this.#write()
  }

  token(text: string): Token | undefined {
    return this.#data.tokens.get(digestOf(text))
  }

  /** Where there is no user: one with a random password, and where that is written. */
  async makeFirst(): Promise<string | undefined> {
    if (this.#data.users.size > 0) return undefined
    const password = randomBytes(18).toString('base64url')
    writePrivate(this.#initialFile, `${password}\n`)
    await this.add(firstUser, password, 'administrator')
    return this.#initialFile
  }

  #find(username: string): StoredUser {
    const user = this.#data.users.get(username)
    if (user === undefined) throw new BrokerError('NOT_FOUND', '{error,"Username Not Found"}')
    return user
  }

  #change(user: StoredUser): void {
    this.#proofs.delete(user.username)
    this.#data.users.set(user.username, user)
    this.#write()
  }

  #proofOf(password: string): Buffer {
    return createHmac('sha256', this.#proofKey).update(password).digest()
  }

  /** Read when it is first asked for: most who have no management API have no such file. */
  get #data(): Kept {
    this.#kept ??= read(this.#file)
    return this.#kept
  }

  #write(): void {
    const { users, tokens } = this.#data
    const text = JSON.stringify({ users: [...users.values()], tokens: [...tokens.values()] }, null, 2)
    try {
      writePrivate(this.#file, `${text}\n`)
    } catch (err) {
      this.#kept = undefined // what is on disk counts
      throw err
    }
  }
}

async function hashed(password: string): Promise<string> {
  if (password === '') throw new BrokerError('BAD_REQUEST', 'a password must not be empty')
  if (Buffer.byteLength(password) > longestPassword) {
    throw new BrokerError('BAD_REQUEST', `a password is of ${longestPassword} bytes at most`)
  }
  return await hashPassword(password)
}

const digestOf = (token: string): string => createHash('sha256').update(token).digest('hex')

function read(file: string): Kept {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return { users: new Map(), tokens: new Map() }
    throw new BrokerError('UNAVAILABLE', `cannot read ${file}: ${(cause as Error).message}`, { cause })
  }
  try {
    const { users, tokens } = JSON.parse(text) as { users: StoredUser[]; tokens: StoredToken[] }
    return { users: new Map(users.map(u => [u.username, u])), tokens: new Map(tokens.map(t => [t.digest, t])) }
  } catch (cause) {
    throw new BrokerError('UNAVAILABLE', `${file} is damaged; remove it, and make the users anew`, { cause })
  }
}

/** Whole or not at all, and never open to others for a moment. */
function writePrivate(file: string, text: string): void {
  const part = `${file}.new`
  try {
    mkdirSync(dirname(file), { recursive: true })
    rmSync(part, { force: true })
    writeFileSync(part, text, { mode: 0o600, flush: true })
    renameSync(part, file)
  } catch (cause) {
    throw new BrokerError('UNAVAILABLE', `cannot write ${file}: ${(cause as Error).message}`, { cause })
  }
}
