/**
 * Folds what is said over and over: of equal lines about one client more than so
 * many a second become one, `… repeated 124 times in 10 s`. The first ones are
 * always there, at once; only the count of the rest is late.
 */

/** How long repeats are counted before their number is said. */
const foldMs = 10_000
/** Above it the one that was begun first is forgotten: a million clients must not fill memory. */
const maxKeys = 1000

/** Says the line with another text after its own. */
export type SayAgain = (suffix: string) => void

interface Entry {
  /** When the second began in which `count` counts. */
  begins: number
  count: number
  folded: number
  foldedSince: number
  sayAgain: SayAgain | undefined
}

export class Repeats {
  /** How many equal lines a second are let through; 0 is all of them. */
  perSecond: number
  readonly #entries = new Map<string, Entry>()
  readonly #now: () => number
  #timer: NodeJS.Timeout | undefined

  constructor(perSecond: number, now = () => performance.now()) {
    this.perSecond = perSecond
    this.#now = now
  }

  /** Whether this line is to be written; if not, it is counted, and fold() to be told how it is said again. */
  admit(key: string): boolean {
    if (this.perSecond === 0) return true
    const now = this.#now()
    const entry = this.#entries.get(key)
    if (entry === undefined) {
      if (this.#entries.size >= maxKeys) this.#forget(this.#entries.keys().next().value!)
      this.#entries.set(key, { begins: now, count: 1, folded: 0, foldedSince: 0, sayAgain: undefined })
      return true
    }
    if (now - entry.begins >= 1000) {
      entry.begins = now
      entry.count = 0
    }
    if (++entry.count <= this.perSecond) return true
    if (entry.folded++ === 0) entry.foldedSince = now
    return false
  }

  /** Apart from admit(), so that a line that is written costs no closure. */
  fold(key: string, sayAgain: SayAgain): void {
    this.#entries.get(key)!.sayAgain = sayAgain
    this.#timer ??= setTimeout(() => this.flush(), foldMs).unref()
  }

  /** Says what was folded so far; also before the log is closed. */
  flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    for (const key of [...this.#entries.keys()]) this.#forget(key)
  }

  #forget(key: string): void {
    const { folded, foldedSince, sayAgain } = this.#entries.get(key)!
    this.#entries.delete(key)
    if (folded === 0) return
    const seconds = Math.max(1, Math.round((this.#now() - foldedSince) / 1000))
    sayAgain?.(`… repeated ${folded} ${folded === 1 ? 'time' : 'times'} in ${seconds} s`)
  }
}
