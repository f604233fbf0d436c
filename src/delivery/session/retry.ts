/**
 * What is overdue, for MQTT 3 alone: MQTT 5 sends nothing twice on one connection
 * [MQTT-4.4.0-1]. Times are the wheel's ticks: a message notes the one it was sent in, and
 * only when the session's deadline comes is there a look at what has waited since.
 */
import type { TimerWheel, WheelItem } from '../../base/timer-wheel.js'
import type { Inflight } from './inflight.js'
import type { Link } from './link.js'
import type { Outgoing } from './outgoing.js'

/** What is used of the wheel. */
export type Wheel = Pick<TimerWheel, 'tick' | 'tickMs' | 'watch' | 'forget'>

/** `sentAt` of what waits for the window: later than any tick, and a small integer, which costs nothing to compare. */
export const notSent = 0x3fffffff

/** The shorter of two times of which 0 is never. */
export const shorter = (a: number, b: number): number => Math.min(a || b, b || a)

/**
 * Sends again, in order, what has waited for so many ticks; tells when the next is due. A slow link is left alone.
 */
export function retry(
  inflight: Inflight,
  { out }: Link,
  tick: number,
  ticks: number,
  sendAgain: (outgoing: Outgoing) => void
): number {
  let next = Number.POSITIVE_INFINITY
  for (const outgoing of inflight.inOrder()) {
    if (outgoing.sentAt === notSent) continue
    if (outgoing.sentAt + ticks < tick && !out.full) sendAgain(outgoing)
    next = Math.min(next, Math.max(outgoing.sentAt, tick - ticks) + ticks)
  }
  return next
}

/** When a session has to look for what is overdue: one entry in the wheel for all that it has under way. */
export class RetryTimer implements WheelItem {
  readonly #wheel: Wheel
  readonly #due: (tick: number) => void
  #dueAt = 0

  /** @param due is called when time is up, with the wheel's tick. */
  constructor(wheel: Wheel, due: (tick: number) => void) {
    this.#wheel = wheel
    this.#due = due
  }

  start(ms: number): void {
    const { tick, tickMs } = this.#wheel
    this.#dueAt = (tick + 1) * tickMs + ms
    this.#wheel.watch(this)
  }

  stop(): void {
    this.#wheel.forget(this)
  }

  deadline(): number {
    return this.#dueAt
  }

  expire(): void {
    this.#due(this.#wheel.tick)
  }
}
