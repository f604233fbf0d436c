/**
 * One timer for all deadlines of all connections: a wheel of short ticks, each
 * with the connections to look at then. A connection that was heard of in the
 * meantime is put forward to its new deadline, so hearing from it costs nothing.
 */

export interface WheelItem {
  /** When it must be closed unless heard of, in the wheel's milliseconds; Infinity for never. */
  deadline(): number
  /** Its deadline has passed. */
  expire(): void
}

export class TimerWheel {
  readonly #slots = new Map<number, Set<WheelItem>>()
  readonly #slotOf = new Map<WheelItem, number>()
  readonly tickMs: number
  #last: number
  readonly #timer: NodeJS.Timeout

  constructor({ tickMs = 500 } = {}) {
    this.tickMs = tickMs
    this.#last = Math.floor(now() / tickMs)
    // After what has come was read: when this process was held up itself, its clients must not pay for that.
    this.#timer = setInterval(() => setImmediate(() => this.#turn()), tickMs).unref()
  }

  /** Ticks of the wheel's clock so far: a time that costs nothing to ask for, and is behind by a tick or so. */
  get tick(): number {
    return this.#last
  }

  /** Starts watching, or looks at the deadline anew after it came nearer. */
  watch(item: WheelItem): void {
    this.forget(item)
    const deadline = item.deadline()
    if (deadline === Number.POSITIVE_INFINITY) return
    const slot = Math.max(this.#last + 1, Math.ceil(deadline / this.tickMs))
    const items = this.#slots.get(slot)
    if (items === undefined) this.#slots.set(slot, new Set([item]))
    else items.add(item)
    this.#slotOf.set(item, slot)
  }

  forget(item: WheelItem): void {
    const slot = this.#slotOf.get(item)
    if (slot === undefined) return
    this.#slotOf.delete(item)
    const items = this.#slots.get(slot)
    items?.delete(item)
    if (items?.size === 0) this.#slots.delete(slot)
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** A late one makes up for the ticks that were missed. */
  #turn(): void {
    const current = Math.floor(now() / this.tickMs)
    while (this.#last < current) {
      const items = this.#slots.get(++this.#last)
      if (items === undefined) continue
      this.#slots.delete(this.#last)
      for (const item of items) {
        if (!this.#slotOf.delete(item)) continue // forgotten since this turn began
        if (item.deadline() <= now()) item.expire()
        else this.watch(item)
      }
    }
  }
}

/** Milliseconds of a clock that never jumps. */
export const now = (): number => performance.now()
