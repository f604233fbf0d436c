/** What the ACL said about the topics one client publishes to; bounded, and good for a while only. */

interface Verdict {
  readonly allowed: boolean
  readonly until: number
}

export class AclCache {
  /** Made when there is a first one: most clients do not publish most of the time. */
  #verdicts: Map<string, Verdict> | undefined
  readonly #ttlMs: number
  readonly #maxSize: number
  #epoch = 0

  constructor(ttlMs: number, maxSize: number) {
    this.#ttlMs = ttlMs
    this.#maxSize = maxSize
  }

  /** @param epoch of the rules now; verdicts of earlier rules are forgotten. */
  get(topic: string, epoch: number): boolean | undefined {
    if (epoch !== this.#epoch) {
      this.#verdicts = undefined
      this.#epoch = epoch
      return undefined
    }
    const verdict = this.#verdicts?.get(topic)
    if (verdict === undefined) return undefined
    if (verdict.until > performance.now()) return verdict.allowed
    this.#verdicts!.delete(topic)
    return undefined
  }

  delete(topic: string): void {
    this.#verdicts?.delete(topic)
  }

  /** A verdict that was sought under rules no longer in force is not kept. */
  set(topic: string, allowed: boolean, epoch: number): void {
    if (epoch !== this.#epoch) return
    this.#verdicts ??= new Map()
    const verdicts = this.#verdicts
    if (verdicts.size >= this.#maxSize) {
      const [oldest] = verdicts.keys()
      verdicts.delete(oldest!)
    }
    verdicts.set(topic, { allowed, until: performance.now() + this.#ttlMs })
  }
}
