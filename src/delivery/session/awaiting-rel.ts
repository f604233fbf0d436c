/**
 * Packet ids of QoS 2 messages that came in and were not yet released: such a message is routed once, however often it
 * is sent [MQTT-4.3.3-2]. Most clients publish none, so nothing is there before the first.
 */
import type { Durability } from '../../persistence/durability.js'

const none: ReadonlyMap<number, number> = new Map()

export class AwaitingRel {
  /** By packet id, the wheel's tick when it came. */
  #since: Map<number, number> | undefined
  /** What the publisher of a message waits for, while it does: one that is sent again is not acknowledged before. */
  #durabilities: Map<number, Durability> | undefined

  get size(): number {
    return this.#since === undefined ? 0 : this.#since.size
  }

  has(packetId: number): boolean {
    return this.#since?.has(packetId) === true
  }

  ids(): Iterable<number> {
    return (this.#since ?? none).keys()
  }

  /** True when the id was not taken. */
  take(packetId: number, tick: number): boolean {
    this.#since ??= new Map()
    const isNew = !this.#since.has(packetId)
    this.#since.set(packetId, tick)
    return isNew
  }

  /** False when there was no such id. */
  release(packetId: number): boolean {
    this.#durabilities?.delete(packetId)
    return this.#since?.delete(packetId) === true
  }

  waitFor(packetId: number, durability: Durability): void {
    this.#durabilities ??= new Map()
    this.#durabilities.set(packetId, durability)
  }

  durabilityOf(packetId: number): Durability | undefined {
    return this.#durabilities?.get(packetId)
  }

  /** The ids that came in over so many ticks ago, and when the next is due. */
  overdue(tick: number, ticks: number): { late: number[]; nextAt: number } {
    const late: number[] = []
    let nextAt = Number.POSITIVE_INFINITY
    for (const [packetId, since] of this.#since ?? none) {
      if (since + ticks < tick) late.push(packetId)
      else nextAt = Math.min(nextAt, since + ticks)
    }
    return { late, nextAt }
  }

  clear(): void {
    this.#since = this.#durabilities = undefined
  }
}
