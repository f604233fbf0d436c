/**
 * Compares the password a client sent with what a user table stores, in every
 * form emqttd's `password_hash` keys knew.
 *
 * Bare `bcrypt` never let anybody in on emqttd 2.3; here it needs no salt column,
 * nor does `salt,bcrypt`: a bcrypt hash carries its own.
 */
import { createHash, pbkdf2, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'
import { fewAtOnce, verifyBcrypt } from '../../access/password.js'
import { expected, type Key, key } from '../../config/values.js'

export { hashPassword } from '../../access/password.js'

export type PasswordHash =
  | { readonly kind: 'plain' }
  | { readonly kind: 'digest'; readonly algorithm: string; readonly salt: 'none' | 'first' | 'last' }
  | { readonly kind: 'bcrypt' }
  | { readonly kind: 'pbkdf2'; readonly algorithm: string; readonly iterations: number; readonly length: number }

/** emqttd's names of digests and OpenSSL's; a bare or salted hash knows fewer than PBKDF2. */
const digests = new Map([
  ['md5', 'md5'],
  ['sha', 'sha1'],
  ['sha256', 'sha256'],
  ['sha512', 'sha512']
])
const macs = new Map([
  ...digests,
  ['md4', 'md4'],
  ['sha224', 'sha224'],
  ['sha384', 'sha384'],
  ['ripemd160', 'ripemd160']
])

const forms =
  'plain | md5 | sha | sha256 | sha512 | bcrypt | salt,sha256 | sha256,salt (or another of these digests) | ' +
  'salt,bcrypt | pbkdf2,sha256,1000,20'

/** The forms of a stored password: `sha256`, `salt,md5`, `pbkdf2,sha256,1000,20`. */
export const passwordHash = (fallback?: string): Key<PasswordHash> => key(parseHash, fallback)

function parseHash(raw: string): PasswordHash {
  const parts = raw.split(',').map(part => part.trim())
  const [first, second = ''] = parts
  if (first === 'pbkdf2') return parsePbkdf2(raw, parts)
  if (raw.trim() === 'plain') return { kind: 'plain' }
  if (parts.length === 1) return first === 'bcrypt' ? { kind: 'bcrypt' } : digest(first!, 'none')
  if (parts.length !== 2) return expected(forms, raw)
  if (first === 'salt') return second === 'bcrypt' ? { kind: 'bcrypt' } : digest(second, 'first')
  return second === 'salt' ? digest(first!, 'last') : expected(forms, raw)

  function digest(name: string, salt: 'none' | 'first' | 'last'): PasswordHash {
    return { kind: 'digest', algorithm: available(digests.get(name) ?? expected(forms, raw)), salt }
  }
}

function parsePbkdf2(raw: string, [, mac = '', iterations = '', length = '', ...more]: string[]): PasswordHash {
  if (length === '' || more.length > 0) expected('pbkdf2,digest,iterations,dklen such as pbkdf2,sha256,1000,20', raw)
  const algorithm = macs.get(mac) ?? expected(`a digest of PBKDF2, ${[...macs.keys()].join(' | ')}`, mac)
  return {
    kind: 'pbkdf2',
    algorithm: available(algorithm),
    iterations: count('iterations', iterations, 10_000_000),
    length: count('dklen', length, 1024)
  }
}

function count(name: string, raw: string, most: number): number {
  const n = Number(raw)
  return /^\d+$/.test(raw) && n >= 1 && n <= most ? n : expected(`${name} from 1 to ${most}`, raw)
}

/** OpenSSL 3 lists digests that it then refuses to compute, so try one. */
function available(algorithm: string): string {
  try {
    createHash(algorithm)
    return algorithm
  } catch {
    throw new SyntaxError(
      `the OpenSSL of this Node.js does not offer ${algorithm}; store the passwords in another form`
    )
  }
}

/** Whether the stored form is useless without a second column. */
export const needsSalt = (hash: PasswordHash): boolean =>
  hash.kind === 'pbkdf2' || (hash.kind === 'digest' && hash.salt !== 'none')

/** Rejects when too many wait for a costly check. */
export async function verifyPassword(
  hash: PasswordHash,
  given: Buffer,
  stored: string,
  salt?: string | undefined
): Promise<boolean> {
  if (needsSalt(hash) && salt === undefined) return false
  switch (hash.kind) {
    case 'plain':
      // Digests are of one length, so the time taken tells nothing of the stored password's.
      return timingSafeEqual(sha256(given), sha256(Buffer.from(stored)))
    case 'digest': {
      const sum = createHash(hash.algorithm)
      if (hash.salt === 'first') sum.update(salt!)
      sum.update(given)
      if (hash.salt === 'last') sum.update(salt!)
      return sameHex(sum.digest('hex'), stored)
    }
    case 'bcrypt':
      return await verifyBcrypt(given, stored)
    case 'pbkdf2': {
      const { iterations, length, algorithm } = hash
      const derived = await fewAtOnce(() => derive(given, salt!, iterations, length, algorithm))
      return sameHex(derived.toString('hex'), stored)
    }
  }
}

const derive = promisify(pbkdf2)
const sha256 = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest()

/** A stored digest may be in capitals; how long it is was never a secret. */
function sameHex(computed: string, stored: string): boolean {
  const [a, b] = [Buffer.from(computed), Buffer.from(stored.toLowerCase())]
  return a.length === b.length && timingSafeEqual(a, b)
}
