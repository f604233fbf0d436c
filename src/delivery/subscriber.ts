/**
 * Whom messages are delivered to: the session of an MQTT client, or a subscription inside the program. The dispatcher
 * knows no more of a subscriber than this.
 */
import type { QoS } from '../wire/frame.js'
import type { Message } from './message.js'
import type { ShareGroup, Subscription } from './router.js'

export interface Subscriber {
  /** Of whose messages a no-local subscription is spared. */
  readonly clientId: string
  /** Whether a client is connected, or whatever takes the messages is there. */
  readonly online: boolean
  /** Whether a message of a shared subscription would reach it now rather than wait. */
  readonly ready: boolean
  /** Whether messages of QoS 1 and 2 for it outlive the process. */
  readonly isStored: boolean
  /**
   * Takes a message, whose bytes are borrowed: a subscriber that keeps it takes `message.owned()`.
   * @param qos at which it is granted.
   * @param retain the RETAIN flag that it is sent with.
   * @param identifiers of the subscriptions that it comes through, in MQTT 5.
   * @param group of the shared subscription that it comes through.
   */
  deliver(
    message: Message,
    qos: QoS,
    retain: boolean,
    identifiers: readonly number[] | undefined,
    group?: ShareGroup<Subscriber>
  ): void
  /** It is in the router under this subscription from now on. */
  subscribed(subscription: Subscription<Subscriber>): void
  unsubscribed(filter: string): void
}

/** A message that a subscriber which is over has not acknowledged. */
export interface Undelivered {
  readonly message: Message
  readonly qos: QoS
  readonly group: ShareGroup<Subscriber> | undefined
  /** It is, or was, under way. */
  readonly isSent: boolean
}

/** A subscriber that can be ended, with what was on its way to it. */
export interface EndingSubscriber<U extends Undelivered = Undelivered> extends Subscriber {
  readonly filters: Iterable<string>
  /** It is over: all that was on its way to it, in order. */
  end(): readonly U[]
  /** What was on its way to it is with others, as far as it goes there: no one waits for it any more. */
  ended(left: readonly U[]): void
}
