/**
 * SCRAM-SHA-256, the server's side (RFC 5802, RFC 7677): what is kept of a password,
 * and one exchange with a client. The password itself is neither kept nor sent.
 *
 * There is no channel binding here. A user who is not known takes the same path as
 * a wrong password, with a salt that stays the same, so that nobody can tell them apart.
 */
import { createHash, createHmac, pbkdf2, randomBytes, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'

/** What is kept of a password. */
export interface Verifier {
  readonly iterations: number
  readonly salt: Buffer
  readonly storedKey: Buffer
  readonly serverKey: Buffer
}

/** Why an exchange fails; the client is not told. */
export class ScramError extends Error {
  override readonly name = 'ScramError'
}

const bytesOfKey = 32
const bytesOfSalt = 16
/** RFC 7677, section 4. */
export const fewestIterations = 4096
export const mostIterations = 10_000_000

const hmac = (key: Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest()
const sha256 = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest()

/** @param password as prepared() gave it. */
export async function makeVerifier(
  password: string,
  iterations: number,
  salt: Buffer = randomBytes(bytesOfSalt)
): Promise<Verifier> {
  const salted = await promisify(pbkdf2)(password, salt, iterations, bytesOfKey, 'sha256')
  return {
    iterations,
    salt,
    storedKey: sha256(hmac(salted, 'Client Key')),
    serverKey: hmac(salted, 'Server Key')
  }
}

const form = /^SCRAM-SHA-256\$(\d{1,8}):([^$:]+)\$([^$:]+):([^$:]+)$/

/** `SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>`, as PostgreSQL writes it. */
export function showVerifier({ iterations, salt, storedKey, serverKey }: Verifier): string {
  const [s, stored, server] = [salt, storedKey, serverKey].map(bytes => bytes.toString('base64'))
  return `SCRAM-SHA-256$${iterations}:${s}$${stored}:${server}`
}

/** Undefined for what is not in that form. */
export function readVerifier(text: string): Verifier | undefined {
  const [, count, ...parts] = form.exec(text) ?? []
  const [salt, storedKey, serverKey] = parts.map(fromBase64)
  const iterations = Number(count)
  if (salt === undefined || storedKey?.length !== bytesOfKey || serverKey?.length !== bytesOfKey) return undefined
  return iterations >= 1 && iterations <= mostIterations ? { iterations, salt, storedKey, serverKey } : undefined
}

/** Strictly: Node's own decoder skips what it does not know. */
function fromBase64(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, 'base64')
  return bytes.length > 0 && bytes.toString('base64') === text ? bytes : undefined
}

const spaces = /[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]/gu
const mappedToNothing = /\u00ad|\u034f|\u1806|[\u180b-\u180d]|[\u200b-\u200d]|\u2060|[\ufe00-\ufe0f]|\ufeff/gu
const prohibited =
  /[\p{Cc}\p{Co}\p{Cs}\p{Noncharacter_Code_Point}\u06dd\u070f\u180e\u200e\u200f\u2028-\u202e\u2061-\u2063\u206a-\u206f\u2ff0-\u2ffb\ufff9-\ufffd\u{1d173}-\u{1d17a}\u{e0001}\u{e0020}-\u{e007f}]/u

/**
 * A name or password as both sides must have it: SASLprep (RFC 4013) but for its rules on text from right to
 * left and on characters that Unicode 3.2 did not have. Undefined when it may not be used.
 */
export function prepared(text: string): string | undefined {
  const clean = text.replace(spaces, ' ').replace(mappedToNothing, '').normalize('NFKC')
  return clean === '' || prohibited.test(clean) ? undefined : clean
}

/** One key for the process: after a reload of the plugin, a user that is not known still has the salt of before. */
const pretence = randomBytes(bytesOfKey)

/** What stands for a user who is not known; no password fits it. */
function pretended(name: string, iterations: number): Verifier {
  return {
    iterations,
    salt: hmac(pretence, `salt ${name}`).subarray(0, bytesOfSalt),
    storedKey: hmac(pretence, `stored ${name}`),
    serverKey: hmac(pretence, `server ${name}`)
  }
}

export interface ScramOptions {
  find(username: string): Verifier | undefined
  /** The keys of users that are not known. */
  readonly iterations: number
  /** The server's part of the nonce; a test hands in its own. */
  readonly nonce?: () => string
}

/** gs2-header and client-first-message-bare; what follows the nonce are extensions, which may be ignored. */
const clientFirst =
  /^(?<gs2>(?<binding>[ny]|p=[A-Za-z0-9.-]+),(?:a=(?<as>[^,]+))?,)(?<bare>(?<more>m=[^,]*,)?n=(?<name>[^,]+),r=(?<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,]+)*)$/u
const clientFinal =
  /^(?<unproved>c=(?<binding>[A-Za-z0-9+/=]+),r=(?<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,]+)*),p=(?<proof>[A-Za-z0-9+/=]+)$/u

/** The server's side of one exchange: first(), then final(), each once. */
export class ScramExchange {
  readonly #options: ScramOptions
  #username = ''
  #verifier!: Verifier
  #isKnown = false
  #gs2 = ''
  #nonce = ''
  /** client-first-message-bare "," server-first-message */
  #said = ''

  constructor(options: ScramOptions) {
    this.#options = options
  }

  /** Who it is, once final() has returned. */
  get username(): string {
    return this.#username
  }

  /** client-first-message; returns server-first-message. */
  first(message: Buffer): string {
    const parts = clientFirst.exec(textOf(message))?.groups
    if (parts === undefined) throw new ScramError('not a client-first-message')
    const { gs2, binding, as, bare, more, name, nonce } = parts
    // RFC 5802, section 6: `y` is a client that could bind and was not offered it, which is so.
    if (binding !== 'n' && binding !== 'y') throw new ScramError('channel binding is not supported')
    if (more !== undefined) throw new ScramError('a mandatory extension is not supported')
    this.#username = prepared(unescaped(name!)) ?? unescaped(name!)
    if (as !== undefined && prepared(unescaped(as)) !== this.#username) {
      throw new ScramError('a login on behalf of another user')
    }
    const pretence = pretended(this.#username, this.#options.iterations) // made for all: it takes time
    const known = this.#options.find(this.#username)
    this.#isKnown = known !== undefined
    this.#verifier = known ?? pretence
    this.#gs2 = gs2!
    this.#nonce = nonce! + (this.#options.nonce ?? newNonce)()
    const { salt, iterations } = this.#verifier
    const answer = `r=${this.#nonce},s=${salt.toString('base64')},i=${iterations}`
    this.#said = `${bare},${answer}`
    return answer
  }

  /** client-final-message; returns server-final-message when the client has shown that it knows the password. */
  final(message: Buffer): string {
    const parts = clientFinal.exec(textOf(message))?.groups
    if (parts === undefined) throw new ScramError('not a client-final-message')
    if (fromBase64(parts['binding']!)?.toString() !== this.#gs2) throw new ScramError('channel bindings do not match')
    if (parts['nonce'] !== this.#nonce) throw new ScramError('another nonce')
    const proof = fromBase64(parts['proof']!)
    if (proof?.length !== bytesOfKey) throw new ScramError('not a proof')
    const { storedKey, serverKey } = this.#verifier
    const all = `${this.#said},${parts['unproved']}`
    const signature = hmac(storedKey, all)
    const clientKey = Buffer.from(proof.map((byte, i) => byte ^ signature[i]!))
    const answer = `v=${hmac(serverKey, all).toString('base64')}`
    if (!timingSafeEqual(sha256(clientKey), storedKey) || !this.#isKnown) throw new ScramError('wrong user or password')
    return answer
  }
}

/** Without a comma (RFC 5802, section 5.1). */
const newNonce = (): string => randomBytes(18).toString('base64')

function textOf(message: Buffer): string {
  const text = message.toString('utf8')
  if (!Buffer.from(text).equals(message)) throw new ScramError('not UTF-8')
  return text
}

/** `=2C` is a comma, `=3D` an equals sign, and there is no other `=` in a name. */
function unescaped(name: string): string {
  if (/=(?!2C|3D)/.test(name)) throw new ScramError('a name with a wrong escape')
  return name.replace(/=2C|=3D/g, code => (code === '=2C' ? ',' : '='))
}
