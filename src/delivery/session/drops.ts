/**
 * What one session has missed, counted by cause, and the last of it: made when there is
 * a first loss, and written to at a loss alone. Its slots are used again.
 */
export const dropCauses = ['away', 'slow', 'queue_full', 'expired', 'too_large'] as const
export type DropCause = (typeof dropCauses)[number]

interface Drop {
  at: number
  topic: string
  qos: number
  cause: DropCause
}

const remembered = 10

export class Drops {
  readonly counts: Record<DropCause, number> = { away: 0, slow: 0, queue_full: 0, expired: 0, too_large: 0 }
  readonly #last: Drop[] = []
  #next = 0

  note(cause: DropCause, topic: string, qos: number): void {
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
  last(): Readonly<Drop>[] {
    const last = this.#last
    const from = last.length < remembered ? 0 : this.#next
    return [...last.slice(from), ...last.slice(0, from)].map(loss => ({ ...loss }))
  }
}
