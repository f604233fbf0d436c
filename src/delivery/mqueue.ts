/**
 * What waits for a session: the window is full, or the client is away. Bounded; when
 * it is full the oldest goes, and is counted. A ring, since an array's shift() moves
 * everything that is left.
 */
import type { Outgoing } from './inflight.js'

export class MQueue {
  #ring: (Outgoing | undefined)[] = new Array(16)
  #head = 0
  #length = 0
  /** How many of what waits are QoS 0. */
  length0 = 0
  /** How many were thrown out for want of room. */
  dropped = 0
  readonly #maxLength: number

  /** @param maxLength 0 is no limit. */
  constructor(maxLength: number) {
    this.#maxLength = maxLength
  }

  get length(): number {
    return this.#length
  }

  get full(): boolean {
    return this.#maxLength > 0 && this.#length >= this.#maxLength
  }

  push(item: Outgoing): void {
    if (this.full) {
      this.shift()
      this.dropped++
    }
    if (this.#length === this.#ring.length) this.#grow()
    this.#ring[(this.#head + this.#length) & (this.#ring.length - 1)] = item
    this.#length++
    if (item.qos === 0) this.length0++
  }

  shift(): Outgoing | undefined {
    if (this.#length === 0) return undefined
    const item = this.#ring[this.#head]
    this.#ring[this.#head] = undefined
    this.#head = (this.#head + 1) & (this.#ring.length - 1)
    this.#length--
    if (item?.qos === 0) this.length0--
    return item
  }

  clear(): void {
    this.#ring = new Array(16)
    this.#head = 0
    this.#length = 0
    this.length0 = 0
  }

  #grow(): void {
    const next: (Outgoing | undefined)[] = new Array(this.#ring.length * 2)
    for (let i = 0; i < this.#length; i++) next[i] = this.#ring[(this.#head + i) & (this.#ring.length - 1)]
    this.#ring = next
    this.#head = 0
  }
}
