/**
 * What a correct broker would have done, from what the clients saw: every message with when it was first sent and when
 * it was acknowledged, every subscription with when it held. Its clock counts what happens.
 */
export interface Message {
  /** `publisher|topic|qos|number`; a retained message of no bytes has none on the wire. */
  readonly key: string
  readonly publisher: string
  readonly topic: string
  readonly qos: 1 | 2
  readonly retain: boolean
  readonly payload: Buffer
  /** Its place among those of the same publisher, topic and QoS. */
  readonly number: number
  /** 0: not yet. */
  sentAt: number
  acknowledgedAt: number
}

export interface Subscription {
  readonly filter: string
  readonly qos: number
  readonly group: string | undefined
  /** Infinity: not yet. */
  askedAt: number
  heldFrom: number
  endsAt: number
  goneAt: number
}

/** A PUBLISH that came in. */
export interface Arrival {
  readonly key: string
  readonly topic: string
  readonly qos: number
  readonly retain: boolean
  /** The model's clock. */
  readonly at: number
}

/** A client, as far as it is judged. */
export interface Receiver {
  readonly options: { readonly id: string }
  readonly subscriptions: readonly Subscription[]
  /** In the order in which they came, without those that it had by their packet id. */
  readonly arrivals: readonly Arrival[]
  /** How often the application got each message. */
  readonly delivered: ReadonlyMap<string, number>
}

export class Model {
  readonly problems: string[] = []
  readonly messages = new Map<string, Message>()
  refusals = 0
  /** False where the broker may refuse: what is sent again after that comes later, as it should. */
  isOrdered = true
  arrivals = 0
  #clock = 0
  readonly #numbers = new Map<string, number>()
  readonly #retained = new Map<string, Message[]>()
  /** By group and message: who got it. */
  readonly #shared = new Map<string, string[]>()

  now(): number {
    return ++this.#clock
  }

  problem(what: string): void {
    if (this.problems.length < 50) this.problems.push(what)
  }

  /** @param length of the payload; 0 with `retain` clears the topic. */
  message(publisher: string, topic: string, qos: 1 | 2, { retain = false, length = 40 } = {}): Message {
    const lane = `${publisher}|${topic}|${qos}`
    const number = (this.#numbers.get(lane) ?? 0) + 1
    this.#numbers.set(lane, number)
    const key = `${lane}|${number}`
    const payload = length === 0 ? Buffer.alloc(0) : Buffer.from(`${key}|`.padEnd(length, '.'))
    const message: Message = { key, publisher, topic, qos, retain, payload, number, sentAt: 0, acknowledgedAt: 0 }
    this.messages.set(key, message)
    if (retain && topic.startsWith('r/')) this.#retained.set(topic, [...(this.#retained.get(topic) ?? []), message])
    return message
  }

  keyOf(topic: string, payload: Buffer): string {
    if (payload.length === 0) return `|${topic}||`
    const key = payload.toString('latin1').split('|', 4).join('|')
    const message = this.messages.get(key)
    if (message === undefined) this.problem(`a message that nobody sent: ${key}`)
    else if (message.topic !== topic || !message.payload.equals(payload)) this.problem(`${key} came changed`)
    return key
  }

  sent(message: Message): void {
    if (message.sentAt === 0) message.sentAt = this.now()
  }

  acknowledged(message: Message): void {
    if (message.acknowledgedAt === 0) message.acknowledgedAt = this.now()
  }

  refused(message: Message, code: number): void {
    this.refusals++
    if (code !== 0x97) this.problem(`${message.key} was refused with 0x${code.toString(16)}`)
  }

  subscribing(filter: string, qos: number): Subscription {
    const [, group] = /^\$share\/([^/]+)\//.exec(filter) ?? []
    const never = Number.POSITIVE_INFINITY
    return { filter, qos, group, askedAt: this.now(), heldFrom: never, endsAt: never, goneAt: never }
  }

  subscribed(subscription: Subscription): void {
    subscription.heldFrom = this.now()
  }

  unsubscribing(subscription: Subscription): void {
    subscription.endsAt = this.now()
  }

  unsubscribed(subscription: Subscription): void {
    subscription.goneAt = this.now()
  }

  delivered(peer: Receiver, key: string): void {
    this.arrivals++
    const topic = key.split('|')[1]!
    for (const { filter, group } of peer.subscriptions) {
      if (group === undefined || !matches(filter, topic)) continue
      const at = `${filter}|${key}`
      this.#shared.set(at, [...(this.#shared.get(at) ?? []), peer.options.id])
    }
  }

  /** What clients still have to get: nothing when all is well. */
  missing(peers: readonly Receiver[]): string[] {
    const missing: string[] = []
    for (const message of this.messages.values()) {
      if (message.acknowledgedAt === 0 || message.payload.length === 0) continue
      const groups = new Set<string>()
      for (const peer of peers) {
        for (const subscription of peer.subscriptions) {
          const { filter, group, heldFrom, endsAt } = subscription
          if (message.sentAt < heldFrom || endsAt < Number.POSITIVE_INFINITY || !matches(filter, message.topic))
            continue
          if (group !== undefined) groups.add(filter)
          else if (!peer.delivered.has(message.key)) {
            missing.push(`${peer.options.id} never got ${message.key} (${filter})`)
            break
          }
        }
      }
      for (const filter of groups) {
        if (!this.#shared.has(`${filter}|${message.key}`)) missing.push(`nobody of ${filter} got ${message.key}`)
      }
    }
    return missing
  }

  /** What clients must not have got. */
  check(peers: readonly Receiver[]): void {
    for (const peer of peers) {
      this.#checkOrder(peer)
      for (const [key, times] of peer.delivered) {
        const message = this.messages.get(key)
        if (message === undefined) continue
        const held = peer.subscriptions.filter(({ filter }) => matches(filter, message.topic))
        // A retained one comes once more with each subscription.
        if (times > 1 && !message.retain && grantedTo(held, message) === 2) {
          this.problem(`${peer.options.id} got ${key} ${times} times at QoS 2`)
        }
      }
    }
    for (const [at, members] of this.#shared) {
      const [filter, publisher, topic, qos, number] = at.split('|')
      const isSecond = filter!.includes('/exactly/') && qos === '2'
      if (isSecond && members.length > 1) {
        this.problem(`${filter} got ${publisher}|${topic}|${qos}|${number} more than once: ${members.join(', ')}`)
      }
    }
  }

  /** First occurrences in the order of sending; of QoS 2 there are no others. */
  #checkOrder(peer: Receiver): void {
    const seen = new Map<string, number>()
    const had = new Set<string>()
    for (const { key, qos, retain, at } of peer.arrivals) {
      const message = this.messages.get(key)
      if (message === undefined || retain) continue
      const held = peer.subscriptions.filter(({ filter, askedAt }) => askedAt < at && matches(filter, message.topic))
      if (held.length === 0) this.problem(`${peer.options.id} got ${key} and has no such subscription`)
      else if (held.every(({ goneAt }) => goneAt < message.sentAt)) {
        this.problem(`${peer.options.id} got ${key}, sent after its subscription had ended`)
      }
      if (had.has(key)) continue
      had.add(key)
      if (qos > 0 && held.every(each => each.heldFrom < message.sentAt) && qos !== grantedTo(held, message)) {
        this.problem(`${peer.options.id} got ${key} at QoS ${qos}`)
      }
      if (qos < 2 && held.some(({ group }) => group !== undefined)) continue // what is sent again may go to another member
      if (!held.some(({ heldFrom, goneAt }) => heldFrom < message.sentAt && at < goneAt)) continue // it may have missed it at first
      const lane = `${message.publisher}|${message.topic}|${message.qos}|${qos}`
      const before = seen.get(lane) ?? 0
      if (message.number < before && this.isOrdered)
        this.problem(`${peer.options.id} got ${key} after number ${before}`)
      else seen.set(lane, message.number)
    }
  }

  /** @returns the earliest that a client which asks now may find under the topic: what was acknowledged last. */
  retainedNow(): Map<string, number> {
    return new Map(
      [...this.#retained].map(([topic, all]) => [topic, all.findLastIndex(({ acknowledgedAt }) => acknowledgedAt > 0)])
    )
  }

  /** @param from what retainedNow() said when it asked. @param found by topic; topics without one are absent. */
  wrongRetained(from: ReadonlyMap<string, number>, found: ReadonlyMap<string, string>): string[] {
    const wrong: string[] = []
    for (const [topic, all] of this.#retained) {
      const earliest = from.get(topic) ?? -1
      const allowed = all.filter(({ sentAt }, i) => i >= earliest && sentAt > 0)
      const key = found.get(topic)
      const isRight =
        key === undefined
          ? earliest === -1 || allowed.some(({ payload }) => payload.length === 0)
          : allowed.some(message => message.key === key && message.payload.length > 0)
      const last = all[earliest]
      if (!isRight)
        wrong.push(`${key ?? 'nothing'} is retained, not ${last?.key ?? 'nothing'} (${last?.payload.length} B)`)
    }
    return this.isOrdered ? wrong : []
  }
}

const grantedTo = (held: readonly Subscription[], { qos }: Message): number =>
  Math.min(qos, Math.max(...held.map(subscription => subscription.qos)))

export function matches(filter: string, topic: string): boolean {
  const levels = filter.replace(/^\$share\/[^/]+\//, '').split('/')
  const names = topic.split('/')
  for (const [i, level] of levels.entries()) {
    if (level === '#') return true
    if (names[i] === undefined || (level !== '+' && level !== names[i])) return false
  }
  return levels.length === names.length
}
