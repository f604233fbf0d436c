/**
 * Retained messages of a new subscription, not yet sent: read as the client takes them, so
 * that a filter for everything costs no more than a window at a time.
 */
import type { Outgoing } from './outgoing.js'

export class RetainedReplay {
  readonly #source: Iterator<Outgoing>
  /** Topics retained anew meanwhile, whose message is in the queue: the client gets that one, once. */
  readonly #overtaken = new Set<string>()

  constructor(source: Iterator<Outgoing>) {
    this.#source = source
  }

  overtake(topic: string): void {
    this.#overtaken.add(topic)
  }

  /** Undefined at its end. */
  next(): Outgoing | undefined {
    for (let next = this.#source.next(); next.done !== true; next = this.#source.next()) {
      if (!this.#overtaken.has(next.value.message.topic)) return next.value
    }
    return undefined
  }
}
