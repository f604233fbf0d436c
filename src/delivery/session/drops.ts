/**
 * What one session has missed, counted by cause, and the last of it: made when there is
 * a first loss, and written to at a loss alone. Its slots are used again.
 */
export const lossCauses = ['away', 'slow', 'queue_full', 'expired', 'too_large'] as const
export type LossCause = (typeof lossCauses)[number]

interface Loss {
  at: number
  topic: string
  qos: number
  cause: LossCause
}

const remembered = 10

export class Losses {
  readonly counts: Record<LossCause, number> = { away: 0, slow: 0, queue_full: 0, expired: 0, too_large: 0 }
  readonly #last: Loss[] = []
  #next = 0

  note(cause: LossCause, topic: string, qos: number): void {
    this.counts[cause]++
    const slot = this.#last[this.#next]
    if (slot === undefined) this.#last.push({ at: Date.now(), topic, qos, cause })
    else {
      slot.at = Date.now()
      slot.topic = topic
      slot.qos = qos
      slot.cause = cause
    }
    this.#next = (this.#next + 1) % remembered
  }

  /** The oldest first. */
  last(): Readonly<Loss>[] {
    const last = this.#last
    const from = last.length < remembered ? 0 : this.#next
    return [...last.slice(from), ...last.slice(0, from)].map(loss => ({ ...loss }))
  }
}
