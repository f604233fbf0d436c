/**
 * What waits for a session: the window is full, or the client is away. Bounded; what
 * goes when it is full is of the lowest priority, QoS 0 before the others, and the
 * oldest of those; it is counted.
 *
 * Priorities are of topics, so order within a topic is kept. Each has two rings, since
 * the oldest of QoS 0 must be found at once; a ring, since an array's shift() moves
 * everything that is left.
 */
import type { Outgoing } from './outgoing.js'

const none: (Outgoing | undefined)[] = []

class Ring {
  #slots = none
  #head = 0
  length = 0

  /** The oldest. */
  get first(): Outgoing | undefined {
    return this.length === 0 ? undefined : this.#slots[this.#head]
  }

  get #last(): number {
    return (this.#head + this.length - 1) & (this.#slots.length - 1)
  }

  push(item: Outgoing): void {
    if (this.length === this.#slots.length) this.#grow()
    this.#slots[(this.#head + this.length) & (this.#slots.length - 1)] = item
    this.length++
  }

  shift(): Outgoing | undefined {
    if (this.length === 0) return undefined
    const item = this.#slots[this.#head]
    this.#slots[this.#head] = undefined
    this.#head = (this.#head + 1) & (this.#slots.length - 1)
    this.length--
    return item
  }

  /** The oldest first. */
  each(what: (item: Outgoing) => void): void {
    for (let i = 0; i < this.length; i++) what(this.#slots[(this.#head + i) & (this.#slots.length - 1)]!)
  }

  remove(item: Outgoing): boolean {
    if (this.length > 0 && this.#slots[this.#last] === item) {
      this.#slots[this.#last] = undefined // mostly it is the one that came last
      this.length--
      return true
    }
    const left: Outgoing[] = []
    this.each(other => {
      if (other !== item) left.push(other)
    })
    if (left.length === this.length) return false
    this.#slots = none
    this.#head = this.length = 0
    for (const other of left) this.push(other)
    return true
  }

  #grow(): void {
    const next: (Outgoing | undefined)[] = new Array(Math.max(16, this.#slots.length * 2))
    for (let i = 0; i < this.length; i++) next[i] = this.#slots[(this.#head + i) & (this.#slots.length - 1)]
    this.#slots = next
    this.#head = 0
  }
}

/** All that has one priority, in the order in which it came. */
class Lane {
  readonly qos0 = new Ring()
  readonly qos12 = new Ring()

  get length(): number {
    return this.qos0.length + this.qos12.length
  }

  shift(): Outgoing | undefined {
    const { qos0, qos12 } = this
    if (qos0.length === 0) return qos12.shift()
    if (qos12.length === 0 || qos0.first!.order < qos12.first!.order) return qos0.shift()
    return qos12.shift()
  }
}

/** mqtt.mqueue.priority: topics with a number, the higher the earlier; all others have 0. */
export class Priorities {
  readonly #ranks = new Map<string, number>()
  /** How many different ones there are. */
  readonly count: number

  constructor(byTopic: ReadonlyMap<string, number>) {
    const values = [...new Set([...byTopic.values(), 0])].sort((a, b) => b - a)
    for (const [topic, value] of byTopic) this.#ranks.set(topic, values.indexOf(value))
    this.count = values.length
  }

  /** 0 is the highest. */
  rank(topic: string): number {
    return this.#ranks.get(topic) ?? this.count - 1
  }
}

const lanesFor = (priorities: Priorities | undefined): Lane[] =>
  Array.from({ length: priorities?.count ?? 1 }, () => new Lane())

export class MQueue {
  /** By rank. */
  #lanes: Lane[]
  #priorities: Priorities | undefined
  #maxLength: number
  #pushed = 0
  length = 0
  /** How many of what waits are QoS 0. */
  length0 = 0
  /** How many were thrown out for want of room. */
  dropped = 0

  /** @param maxLength 0 is no limit. @param priorities undefined: first come, first served. */
  constructor(maxLength: number, priorities?: Priorities) {
    this.#maxLength = maxLength
    this.#priorities = priorities
    this.#lanes = lanesFor(priorities)
  }

  /** Other limits for what there is as well; what a queue that is now too long loses is returned. */
  reconfigure(maxLength: number, priorities?: Priorities): Outgoing[] {
    if (maxLength === this.#maxLength && priorities === undefined && this.#priorities === undefined) return []
    const items: Outgoing[] = []
    for (let item = this.shift(); item !== undefined; item = this.shift()) items.push(item)
    this.#maxLength = maxLength
    this.#priorities = priorities
    this.#lanes = lanesFor(priorities)
    items.sort((a, b) => a.order - b.order)
    return items.map(item => this.push(item)).filter(lost => lost !== undefined)
  }

  get full(): boolean {
    return this.#maxLength > 0 && this.length >= this.#maxLength
  }

  /** What had to go for it, which may be itself. */
  push(item: Outgoing): Outgoing | undefined {
    const priorities = this.#priorities
    const rank = priorities === undefined ? 0 : priorities.rank(item.message.topic)
    const lost = this.full ? this.#makeRoom(item, rank) : undefined
    if (lost === item) return lost
    item.order = this.#pushed++ // until it is sent
    const lane = this.#lanes[rank]!
    if (item.qos === 0) {
      lane.qos0.push(item)
      this.length0++
    } else lane.qos12.push(item)
    this.length++
    return lost
  }

  shift(): Outgoing | undefined {
    const lanes = this.#lanes
    for (let i = 0; i < lanes.length; i++) {
      const item = lanes[i]!.shift()
      if (item !== undefined) return this.#taken(item)
    }
    return undefined
  }

  each(what: (item: Outgoing) => void): void {
    for (const { qos0, qos12 } of this.#lanes) {
      qos0.each(what)
      qos12.each(what)
    }
  }

  /** False when it does not wait here. */
  remove(item: Outgoing): boolean {
    const was = this.#lanes.some(({ qos0, qos12 }) => (item.qos === 0 ? qos0 : qos12).remove(item))
    if (was) this.#taken(item)
    return was
  }

  #taken(item: Outgoing): Outgoing {
    this.length--
    if (item.qos === 0) this.length0--
    return item
  }

  /** The lowest priority loses, be it the newcomer's. */
  #makeRoom(item: Outgoing, rank: number): Outgoing {
    this.dropped++
    let lowest = this.#lanes.length - 1
    while (this.#lanes[lowest]!.length === 0) lowest--
    const { qos0, qos12 } = this.#lanes[lowest]!
    if (rank > lowest || (rank === lowest && item.qos === 0 && qos0.length === 0)) return item
    return this.#taken((qos0.shift() ?? qos12.shift())!)
  }
}
