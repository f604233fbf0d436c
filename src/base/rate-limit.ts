/** A token bucket: so much at once, and so much a second. What is over it is not refused but has to wait. */
import { now } from './timer-wheel.js'

export interface Rate {
  readonly burst: number
  readonly perSecond: number
}

/** Milliseconds; a higher rate would make as many timers. */
const shortestPause = 20

export class RateLimit {
  readonly #rate: Rate
  #tokens: number
  #filledAt = now()

  constructor(rate: Rate) {
    this.#rate = rate
    this.#tokens = rate.burst
  }

  /** Takes so many; tells how many milliseconds to wait before the next, 0 for none. */
  take(count: number): number {
    const { burst, perSecond } = this.#rate
    const at = now()
    this.#tokens = Math.min(burst, this.#tokens + ((at - this.#filledAt) / 1000) * perSecond) - count
    this.#filledAt = at
    if (this.#tokens >= 0) return 0
    return Math.max(-this.#tokens, Math.min(burst, (shortestPause / 1000) * perSecond)) * (1000 / perSecond)
  }
}
