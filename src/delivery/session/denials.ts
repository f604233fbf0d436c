/** The last filters that a client asked for and did not get: made when there is a first one. */
interface Denial {
  readonly at: number
  readonly why: string
}

const remembered = 10

export class Denials implements Iterable<[filter: string, refusal: Denial]> {
  readonly #last = new Map<string, Denial>()

  note(filter: string, why: string): void {
    const last = this.#last
    last.delete(filter)
    last.set(filter, { at: Date.now(), why })
    if (last.size > remembered) last.delete(last.keys().next().value!)
  }

  /** It was granted since. */
  forget(filter: string): void {
    this.#last.delete(filter)
  }

  /** The oldest first. */
  [Symbol.iterator](): Iterator<[filter: string, refusal: Denial]> {
    return this.#last.entries()
  }
}
