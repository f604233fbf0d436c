/**
 * What is under way to a client, by packet id. Ids are given out in order and come
 * back nearly so, so a small table that is a window onto them does what a hash map
 * does at several times the cost.
 */
import type { Outgoing } from './outgoing.js'

export class Inflight {
  /** Empty until something is under way: most clients of most brokers are idle. */
  #table: (Outgoing | undefined)[] = []
  #size = 0
  #last = 0
  #added = 0

  get size(): number {
    return this.#size
  }

  get(packetId: number): Outgoing | undefined {
    const entry = this.#table[packetId & (this.#table.length - 1)]
    return entry?.packetId === packetId ? entry : undefined
  }

  /** Gives the message the next free packet id if it has none. There must be one: at most 65 535 are under way. */
  add(outgoing: Outgoing): number {
    if (this.#table.length === 0) this.#table = new Array(16)
    let id = outgoing.packetId
    if (id === 0) {
      id = this.#last
      do id = id >= 65_535 ? 1 : id + 1
      while (!this.#isFree(id))
      outgoing.packetId = this.#last = id
    } else this.#isFree(id)
    outgoing.order = this.#added++
    outgoing.isSent = true
    this.#table[id & (this.#table.length - 1)] = outgoing
    this.#size++
    return id
  }

  /** Makes the id's place its own: a larger window keeps it apart from another id. */
  #isFree(id: number): boolean {
    let there = this.#table[id & (this.#table.length - 1)]
    while (there !== undefined && there.packetId !== id) {
      this.#grow()
      there = this.#table[id & (this.#table.length - 1)]
    }
    return there === undefined
  }

  delete(packetId: number): void {
    const at = packetId & (this.#table.length - 1)
    if (this.#table[at]?.packetId !== packetId) return
    this.#table[at] = undefined
    this.#size--
  }

  /** In the order in which they were first sent. */
  inOrder(): Outgoing[] {
    return this.#table.filter(entry => entry !== undefined).sort((a, b) => a.order - b.order)
  }

  clear(): void {
    this.#table = []
    this.#size = 0
  }

  #grow(): void {
    const next: (Outgoing | undefined)[] = new Array(this.#table.length * 2)
    for (const entry of this.#table) if (entry !== undefined) next[entry.packetId & (next.length - 1)] = entry
    this.#table = next
  }
}
