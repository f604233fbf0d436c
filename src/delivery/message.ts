/**
 * A PUBLISH on its way through the broker, as the bytes it came in.
 *
 * It is a view of a buffer: topic, properties and payload are places in it, and what
 * is sent on is copied from there. A message as it arrives borrows the bytes of the
 * socket's read, which are somebody else's a moment later: whoever keeps it (a queue,
 * a window, the retained store) takes `kept()`.
 */
import { copyBytes } from '../wire/encode.js'
import type { QoS } from '../wire/frame.js'
import { encodeProperties, type Properties } from '../wire/properties.js'

const nothing = Buffer.alloc(0)

/**
 * Bytes that are kept share a buffer, since one of its own costs more than most messages hold. It goes when the
 * last of them goes, so it is not large.
 */
const slabSize = 16_384
let slab: Buffer = nothing
let used = 0

/** Makes room in the slab, or in a new one; returns where it is. */
function reserve(length: number): number {
  if (used + length > slab.length) {
    slab = Buffer.allocUnsafeSlow(Math.max(slabSize, length))
    used = 0
  }
  const at = used
  used += length
  return at
}

export class Message {
  topic = ''
  qos: QoS = 0
  retain = false
  /** Client id of the publisher, which no-local subscriptions compare; undefined for the broker's own. */
  from: string | undefined = undefined
  bytes: Buffer = nothing
  /** Of the topic as MQTT writes it, two bytes of length and the text. */
  topicAt = 0
  topicEnd = 0
  /** Of the properties that are forwarded, without their length. */
  propertiesAt = 0
  propertiesEnd = 0
  payloadAt = 0
  end = 0
  /** When it expires, in milliseconds since 1970; 0 for never. */
  expiresAt = 0
  /** Where the four bytes of its expiry interval stand in the properties; -1 when it has none. */
  expiryAt = -1
  /**
   * Where the whole packet begins that it came in, when that can be sent on as it is: with the flags of
   * `frameFlags`, to receivers of `frameVersion`. -1 when it cannot.
   */
  frameAt = -1
  frameVersion = 0
  frameFlags = 0
  /** Stored sessions that must keep it, and the number of its record where that is shared; 0 is none. */
  holders = 0
  number = 0
  /** How much it counts in the metrics: 0 for $SYS, which emqttd does not count. */
  counts: 0 | 1 = 1
  #owned = false
  #copy: Message | undefined = undefined

  /** This message with bytes of its own. */
  owned(): Message {
    if (this.#owned) return this
    this.#copy ??= this.#own()
    return this.#copy
  }

  /** The view is moved to other bytes; a copy that was made of the old ones is no longer its. */
  moved(): void {
    this.#copy = undefined
  }

  #own(): Message {
    const topic = this.topicEnd - this.topicAt
    const properties = this.propertiesEnd - this.propertiesAt
    const length = topic + properties + this.end - this.payloadAt
    const at = reserve(length)
    const kept = new Message()
    kept.topic = this.topic
    kept.qos = this.qos
    kept.retain = this.retain
    kept.from = this.from
    kept.bytes = slab
    kept.topicAt = at
    kept.topicEnd = kept.propertiesAt = copyBytes(this.bytes, this.topicAt, this.topicEnd, slab, at)
    kept.propertiesEnd = kept.payloadAt = copyBytes(
      this.bytes,
      this.propertiesAt,
      this.propertiesEnd,
      slab,
      kept.topicEnd
    )
    kept.end = copyBytes(this.bytes, this.payloadAt, this.end, slab, kept.payloadAt)
    kept.expiresAt = this.expiresAt
    kept.expiryAt = this.expiryAt
    kept.counts = this.counts
    kept.#owned = true
    return kept
  }

  /** A copy that expires then, though it does not say so. */
  until(time: number): Message {
    const copy = this.#owned ? this.under('') : this.#own()
    copy.expiresAt = time
    return copy
  }

  /** The same message with more before its topic. */
  under(mountpoint: string): Message {
    return this.remade(mountpoint + this.topic, this.payload, this.retain)
  }

  /** A message of another topic and payload with the same properties and QoS, from the same publisher. */
  remade(topic: string, payload: Uint8Array, retain: boolean): Message {
    const { qos, from } = this
    const properties = this.bytes.subarray(this.propertiesAt, this.propertiesEnd)
    const made = Message.of(topic, payload, { qos, retain, from }, properties)
    made.expiresAt = this.expiresAt
    made.expiryAt = this.expiryAt
    made.counts = this.counts
    return made
  }

  /** @param seconds from now. @param at where the interval's four bytes stand in the properties. */
  expires(seconds: number, at: number): void {
    this.expiresAt = Date.now() + seconds * 1000
    this.expiryAt = at
  }

  expiredAt(now: number): boolean {
    return this.expiresAt !== 0 && this.expiresAt <= now
  }

  get payload(): Buffer {
    return this.bytes.subarray(this.payloadAt, this.end)
  }

  get payloadLength(): number {
    return this.end - this.payloadAt
  }

  /** Bytes it needs on the wire, but for header and packet id. */
  get weight(): number {
    return this.topicEnd - this.topicAt + this.propertiesEnd - this.propertiesAt + this.end - this.payloadAt
  }

  /** A message with properties of MQTT 5; its expiry, if it has one, counts from now. */
  static withProperties(
    topic: string,
    payload: Uint8Array,
    options: { qos: QoS; retain: boolean; from: string | undefined },
    { messageExpiryInterval, ...others }: Properties
  ): Message {
    if (messageExpiryInterval === undefined) return Message.of(topic, payload, options, encodeProperties(others))
    const bytes = encodeProperties({ ...others, messageExpiryInterval }) // the last, so its value is the last four bytes
    const made = Message.of(topic, payload, options, bytes)
    made.expires(messageExpiryInterval, bytes.length - 4)
    return made
  }

  /**
   * One of the store, whose bytes are somebody else's: topic, properties and payload, one behind the other from `at` to
   * `end`, as in PUBLISH. @param lengths of topic and properties.
   */
  static restored(bytes: Buffer, at: number, end: number, [topic, properties]: readonly [number, number]): Message {
    const message = new Message()
    const start = reserve(end - at)
    copyBytes(bytes, at, end, slab, start)
    message.bytes = slab
    message.topicAt = start
    message.topicEnd = message.propertiesAt = start + topic
    message.propertiesEnd = message.payloadAt = start + topic + properties
    message.end = start + end - at
    message.topic = slab.toString('utf8', start + 2, start + topic)
    message.#owned = true
    return message
  }

  /** A message that the broker or a program makes. */
  static of(
    topic: string,
    payload: Uint8Array,
    { qos = 0, retain = false, from }: { qos?: QoS; retain?: boolean; from?: string | undefined } = {},
    properties: Uint8Array = nothing
  ): Message {
    const text = Buffer.from(topic)
    const made = new Message()
    made.topic = topic
    made.qos = qos
    made.retain = retain
    made.from = from
    made.bytes = Buffer.concat([Buffer.from([text.length >> 8, text.length & 255]), text, properties, payload])
    made.topicEnd = 2 + text.length
    made.propertiesAt = made.topicEnd
    made.propertiesEnd = made.propertiesAt + properties.length
    made.payloadAt = made.propertiesEnd
    made.end = made.bytes.length
    made.#owned = true
    return made
  }
}
