/**
 * The one way in for a message, wherever it comes from: a client's PUBLISH, a will, the management API, a plugin, the
 * program that the broker is embedded in, the broker itself. The limits of topics and retained messages, what is
 * retained, and what an acknowledgement waits for are the same for all of them. Who may publish where is asked before,
 * where it is asked at all.
 */
import { BrokerError } from '../base/errors.js'
import type { TopicSample } from '../observe/topic-sample.js'
import { settled } from '../persistence/durability.js'
import type { Persistence } from '../persistence/persistence.js'
import { RetainedLog } from '../persistence/retained-log.js'
import { isTopicName, levelsOf } from '../wire/topic.js'
import type { Dispatcher } from './dispatcher.js'
import type { Message } from './message.js'
import type { Match } from './router.js'
import type { Subscriber } from './subscriber.js'

export interface IngressOptions {
  /** Levels of a topic. */
  readonly maxTopicLevels: number
  /** Topics that are retained; 0 is no limit. */
  readonly maxRetained: number
  /** Bytes of a payload that is retained; 0 is no limit. */
  readonly maxRetainedPayload: number
  /** Milliseconds after which a retained message is forgotten that has no expiry of its own; 0 is never. */
  readonly retainExpiry: number
}

/** What plugins make of a message; null drops it. */
export type MessageFilter = (message: Message) => Promise<Message | null>

/** Bytes of a topic [MQTT-1.5.4]. */
const longestTopic = 65_535

export class Ingress {
  readonly dispatcher: Dispatcher
  /** Undefined where nothing outlives the process. */
  readonly persistence: Persistence | undefined
  /** There while an operator looks which topics have the most messages. */
  sample: TopicSample | undefined
  #options: IngressOptions
  readonly #retainedLog: RetainedLog | undefined
  readonly #filter: () => MessageFilter | undefined

  /** @param filter is asked for each message of a client: undefined when no plugin listens. */
  constructor(
    dispatcher: Dispatcher,
    options: IngressOptions,
    filter: () => MessageFilter | undefined = () => undefined
  ) {
    this.dispatcher = dispatcher
    this.persistence = dispatcher.persistence
    this.#options = options
    this.#filter = filter
    if (this.persistence !== undefined) this.#retainedLog = new RetainedLog(this.persistence)
  }

  /** Other options from now on; what is retained already keeps its time. */
  reconfigure(options: IngressOptions): void {
    this.#options = options
  }

  /** What a message of a client goes through before it comes in. */
  get filter(): MessageFilter | undefined {
    return this.#filter()
  }

  /** Whether a message may have this topic. */
  isTopic(topic: string): boolean {
    return isTopicName(topic) && this.fits(topic)
  }

  /** Whether a topic or a filter is within the limits. */
  fits(topic: string): boolean {
    return Buffer.byteLength(topic) <= longestTopic && levelsOf(topic) <= this.#options.maxTopicLevels
  }

  /**
   * Takes a message that may come in: it is retained, if it is to be, and with every subscriber that wants it when this
   * returns; tells how many. @param match what the router said of the topic, if known.
   */
  accept(message: Message, match?: Match<Subscriber>): number {
    if (message.retain) this.retain(message)
    if (this.sample !== undefined && message.counts > 0) this.sample.saw(message.topic, message.payloadLength)
    return this.dispatcher.route(message, match)
  }

  /** Whether it is better refused: acknowledging it takes the store, which cannot be written. */
  mustRefuse(message: Message, match?: Match<Subscriber>): boolean {
    return this.persistence?.queue.isFailing === true && this.dispatcher.isKept(message, match)
  }

  /**
   * Publishes for a caller that has no PUBACK to wait for; resolves when what must be kept of it is on disk, to how many get it.
   * Throws a BrokerError: BAD_REQUEST for a bad topic, QUOTA_EXCEEDED when the store has no room for it.
   */
  async publish(message: Message): Promise<number> {
    if (!this.isTopic(message.topic)) throw new BrokerError('BAD_REQUEST', `not a topic: "${message.topic}"`)
    if (this.mustRefuse(message)) throw notKept(message)
    return await this.deliver(message)
  }

  /** The same for a message that nobody would send again, such as a will: while the store fails it comes in nevertheless. */
  async deliver(message: Message): Promise<number> {
    const { persistence } = this
    if (persistence === undefined || this.mustRefuse(message)) return this.accept(message)
    let receivers = 0
    const durability = persistence.transaction(() => {
      receivers = this.accept(message)
    })
    if (durability !== undefined) await settled(durability)
    if (durability?.failed) throw notKept(message)
    return receivers
  }

  /** False when the message is over the limits of what is retained; it is routed all the same. */
  retain(message: Message): boolean {
    if (this.overLimits(message) !== undefined) return false
    const { retained, metrics } = this.dispatcher
    const log = this.#retainedLog
    const { topic } = message
    // What the broker tells of itself is told anew.
    if (log === undefined || topic.startsWith('$SYS/')) retained.set(message, this.#options.retainExpiry)
    else {
      const before = retained.get(topic)
      retained.set(message, this.#options.retainExpiry)
      const after = retained.get(topic)
      if (before === undefined && after === undefined && !log.isPending(topic)) return true
      log.write(topic, after, (last, wasWritten) => {
        if (retained.get(topic) === last) retained.put(topic, before)
        if (wasWritten) log.write(topic, retained.get(topic), () => {})
      })
    }
    metrics.peak('retained', retained.size)
    return true
  }

  /** The limit that keeps a message from being retained. */
  overLimits({ topic, payloadLength }: Message): string | undefined {
    const { maxRetained, maxRetainedPayload } = this.#options
    const { retained } = this.dispatcher
    if (maxRetainedPayload > 0 && payloadLength > maxRetainedPayload) return 'mqtt.retain.max_payload_size'
    if (maxRetained === 0 || retained.size < maxRetained || payloadLength === 0) return undefined
    return retained.get(topic) === undefined ? 'mqtt.retain.max_message_num' : undefined
  }
}

const notKept = ({ topic }: Message): BrokerError =>
  new BrokerError('QUOTA_EXCEEDED', `the store cannot be written, which must keep the message to ${topic}`)
