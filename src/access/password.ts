/**
 * Passwords as the broker itself keeps them: bcrypt's hashes. Costly checks run on
 * libuv's threads, few at once, so that a storm of logins leaves the event loop its
 * core; a check of another kind that is as costly asks for its turn here.
 */
import { availableParallelism } from 'node:os'
import bcrypt from 'bcrypt'

/** bcrypt's cost: 2^10 rounds. */
const rounds = 10
/** bcrypt looks at no more. */
export const longestPassword = 72

/** A bcrypt hash of it, made on libuv's threads. */
export async function hashPassword(password: string): Promise<string> {
  return await fewAtOnce(() => bcrypt.hash(Buffer.from(password), rounds))
}

/**
 * Whether a bcrypt hash is that of the password; what is no such hash is nobody's.
 *
 * bcrypt looks at the first 72 bytes only; every implementation agrees. The rest
 * is cut off here, since for `$2a$` the package counts the length in one byte and
 * a password of 256 bytes would be compared as one of none. NUL is a byte like any
 * other: what follows it counts. `$2y$` is PHP's name for what is `$2b$` elsewhere.
 */
export async function verifyBcrypt(given: Buffer, stored: string): Promise<boolean> {
  const [, rest] = /^\$2[aby](\$\d\d\$[./A-Za-z0-9]{53})$/.exec(stored) ?? []
  if (rest === undefined) return false
  const known = stored.startsWith('$2a') ? stored : `$2b${rest}`
  return await fewAtOnce(() => bcrypt.compare(given.subarray(0, 72), known))
}

interface Waiting {
  readonly since: number
  readonly go: () => void
  readonly refuse: (err: Error) => void
}

/** First come, first served; refuses rather than let anybody wait for an answer that comes too late. */
class Gate {
  readonly #most: number
  readonly #waiting: Waiting[] = []
  #running = 0

  constructor(most: number) {
    this.#most = most
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running < this.#most) this.#running++
    else await this.#turn()
    try {
      return await work()
    } finally {
      this.#next()
    }
  }

  #turn(): Promise<void> {
    if (this.#waiting.length >= maxWaiting) throw tooMany()
    return new Promise((go, refuse) => {
      this.#waiting.push({ since: performance.now(), go, refuse })
    })
  }

  /** Hands the place to the check that came first, unless its client has been told "unavailable" meanwhile. */
  #next(): void {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      if (performance.now() - next.since < maxWaitMs) return next.go()
      next.refuse(tooMany())
    }
    this.#running--
  }
}

const maxWaiting = 1000
/** A question to a plugin is given up after 5 s. */
const maxWaitMs = 5000
const tooMany = (): Error => new Error('too many logins at once')

/** libuv's threads also look up names and read files: leave one. */
const threads = Number(process.env['UV_THREADPOOL_SIZE'] ?? 4) || 4
/** One for the process: what it rations are the machine's cores and libuv's threads. */
const gate = new Gate(Math.max(1, Math.min(availableParallelism(), threads) - 1))

/** Runs a costly check when its turn comes; rejects when that would be too late. */
export const fewAtOnce = <T>(work: () => Promise<T>): Promise<T> => gate.run(work)
