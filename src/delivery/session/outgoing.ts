/** A message on its way to one session: what is sent, and how far it has come. */
import type { Delivery, StoredDelivery } from '../../persistence/stored-delivery.js'
import type { Message } from '../message.js'
import type { ShareGroup } from '../router.js'
import type { Subscriber } from '../subscriber.js'

/** On its way, or waiting for that. */
export class Outgoing implements Delivery {
  readonly message: Message
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
  /** Subscription identifiers, in MQTT 5. */
  readonly identifiers: readonly number[] | undefined
  /** The shared subscription's group that it came through. */
  readonly group: ShareGroup<Subscriber> | undefined
  /** 0 until it is sent, or kept for a stored session: then it follows from its place in the order. */
  packetId = 0
  /** Counts those that were sent: the ids alone do not tell which was first, once they have gone round. Before, those queued. */
  order = 0
  /** The wheel's tick when it, or its PUBREL, was last sent. */
  sentAt = 0
  /** It is, or was, under way. */
  isSent = false
  /** PUBREC came: the message is the client's, and only PUBREL is sent again [MQTT-4.3.3-1]. */
  received = false
  /** Its record in the store, where the session is a stored one. */
  stored: StoredDelivery | undefined = undefined

  constructor(
    message: Message,
    qos: 0 | 1 | 2,
    retain: boolean,
    identifiers: readonly number[] | undefined,
    group: ShareGroup<Subscriber> | undefined
  ) {
    this.message = message
    this.qos = qos
    this.retain = retain
    this.identifiers = identifiers
    this.group = group
  }
}
