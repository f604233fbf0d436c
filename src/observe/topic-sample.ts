/**
 * Which topics have the most messages: of those that pass some are taken, and a few hundred
 * topics counted, of however many there are (Space-Saving, by Metwally, Agrawal and
 * El Abbadi). No count is more than what was seen, and no topic with more than a
 * 256th of the messages is missing.
 *
 * One message in `every` is taken, at steps of random length: devices that publish in
 * turn would else be seen always or never.
 */
interface Counter {
  topic: string
  /** What the topic before it had is in it: that decides who has to go. */
  count: number
  /** Of those, the topic's own. */
  messages: number
  bytes: number
}

export interface TopicCount {
  readonly topic: string
  readonly messages: number
  /** Of payload. */
  readonly bytes: number
}

const counters = 256
/** Samples in a period of which no more are needed; with fewer than an eighth of them more are. */
const enough = 4096
const sparsest = 64

export class TopicSample {
  readonly #counters = new Map<string, Counter>()
  readonly #random: () => number
  #every = 1
  #left = 1
  #taken = 0

  constructor(random: () => number = Math.random) {
    this.#random = random
  }

  get every(): number {
    return this.#every
  }

  /** A message to the topic has passed. @param bytes of its payload. */
  saw(topic: string, bytes: number): void {
    if (--this.#left > 0) return
    const every = this.#every
    this.#left = every === 1 ? 1 : 1 + Math.floor(this.#random() * (2 * every - 1))
    this.#count(topic, every, every * bytes)
    if (++this.#taken % enough === 0 && every < sparsest) this.#every *= 2
  }

  #count(topic: string, messages: number, bytes: number): void {
    const known = this.#counters.get(topic)
    if (known !== undefined) {
      known.count += messages
      known.messages += messages
      known.bytes += bytes
      return
    }
    if (this.#counters.size < counters) {
      this.#counters.set(topic, { topic, count: messages, messages, bytes })
      return
    }
    const least = this.#least()
    this.#counters.delete(least.topic)
    least.topic = topic
    least.count += messages
    least.messages = messages
    least.bytes = bytes
    this.#counters.set(topic, least)
  }

  #least(): Counter {
    let least: Counter | undefined
    for (const counter of this.#counters.values()) {
      if (least === undefined || counter.count < least.count) least = counter
    }
    return least!
  }

  /** The period is over: the `most` with the most messages, and all begin anew. */
  end(most: number): TopicCount[] {
    const found = [...this.#counters.values()]
      .sort((a, b) => b.messages - a.messages)
      .slice(0, most)
      .map(({ topic, messages, bytes }) => ({ topic, messages, bytes }))
    this.#counters.clear()
    if (this.#taken < enough / 8 && this.#every > 1) this.#every /= 2
    this.#taken = 0
    return found
  }
}
