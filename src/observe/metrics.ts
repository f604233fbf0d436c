/**
 * What the broker counts: emqttd's 38 metrics by name, a few of ours, the highest
 * that its stats have been, and how long messages took. The message path writes to
 * plain fields; names and sums are made when somebody asks.
 */

/** How often a value was at most each of the bounds, and more than all of them. */
export class Histogram {
  readonly bounds: readonly number[]
  /** One more than there are bounds. Each counts its own bucket alone. */
  readonly counts: number[]
  count = 0
  sum = 0

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    this.counts = new Array<number>(bounds.length + 1).fill(0)
  }

  add(value: number): void {
    let i = 0
    while (i < this.bounds.length && value > this.bounds[i]!) i++
    this.counts[i]!++
    this.count++
    this.sum += value
  }
}

/** The highest that each of the stats has been. */
export interface Peaks {
  clients: number
  sessions: number
  topics: number
  subscriptions: number
  retained: number
}

export class Metrics {
  bytesReceived = 0
  bytesSent = 0

  connectReceived = 0
  connackSent = 0
  qos0Received = 0
  qos1Received = 0
  qos2Received = 0
  qos0Sent = 0
  qos1Sent = 0
  qos2Sent = 0
  pubackReceived = 0
  pubackSent = 0
  pubackMissed = 0
  pubrecReceived = 0
  pubrecSent = 0
  pubrecMissed = 0
  pubrelReceived = 0
  pubrelSent = 0
  pubrelMissed = 0
  pubcompReceived = 0
  pubcompSent = 0
  pubcompMissed = 0
  subscribeReceived = 0
  subackSent = 0
  unsubscribeReceived = 0
  unsubackSent = 0
  pingreqReceived = 0
  pingrespSent = 0
  disconnectReceived = 0
  /** MQTT 5 only, as the two of AUTH. */
  disconnectSent = 0
  authReceived = 0
  authSent = 0

  /** Published, and nobody wanted it. */
  unwanted = 0
  /** QoS 2 messages beyond what may be under way to the broker. */
  qos2Dropped = 0
  /** The oldest of a full queue. */
  droppedQueueFull = 0
  /** QoS 0 for a client that does not read. */
  droppedSlow = 0
  /** QoS 0 for a client that is away, where it is not kept for it. */
  droppedAway = 0
  /** Over the client's Maximum Packet Size. */
  droppedTooLarge = 0
  /** Its expiry interval passed while it waited. */
  droppedExpired = 0
  /** By the ACL. */
  denied = 0
  /** By a plugin. */
  filtered = 0

  readonly peaks: Peaks = { clients: 0, sessions: 0, topics: 0, subscriptions: 0, retained: 0 }

  /**
   * Milliseconds from the first message of a turn of the event loop until all that came of the turn is with the
   * system: one sample a turn, its slowest message.
   */
  readonly latency = new Histogram([0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000])
  #receivedBefore = 0

  get messagesReceived(): number {
    return this.qos0Received + this.qos1Received + this.qos2Received
  }

  get messagesSent(): number {
    return this.qos0Sent + this.qos1Sent + this.qos2Sent
  }

  /** What was collected in a turn has been written; it may have been acknowledgements alone. */
  flushed(ms: number): void {
    const received = this.messagesReceived
    if (received === this.#receivedBefore) return
    this.#receivedBefore = received
    this.latency.add(ms)
  }

  /** A value of one of the stats as it is now. */
  peak(name: keyof Peaks, value: number): void {
    if (value > this.peaks[name]) this.peaks[name] = value
  }

  /** Sums since the start, of which rates are made. */
  totals() {
    return {
      messages_in: this.messagesReceived,
      messages_out: this.messagesSent,
      bytes_in: this.bytesReceived,
      bytes_out: this.bytesSent,
      dropped:
        this.droppedQueueFull +
        this.droppedSlow +
        this.droppedAway +
        this.droppedTooLarge +
        this.droppedExpired +
        this.qos2Dropped
    }
  }

  /** emqttd's, in its order. @param retained how many messages are retained now. */
  standard(retained: number) {
    const published = this.messagesReceived
    const sent = this.messagesSent
    return {
      'bytes/received': this.bytesReceived,
      'bytes/sent': this.bytesSent,
      'messages/dropped': this.unwanted,
      'messages/qos0/received': this.qos0Received,
      'messages/qos0/sent': this.qos0Sent,
      'messages/qos1/received': this.qos1Received,
      'messages/qos1/sent': this.qos1Sent,
      'messages/qos2/dropped': this.qos2Dropped,
      'messages/qos2/received': this.qos2Received,
      'messages/qos2/sent': this.qos2Sent,
      'messages/received': published,
      'messages/retained': retained,
      'messages/sent': sent,
      'packets/connack': this.connackSent,
      'packets/connect': this.connectReceived,
      'packets/disconnect': this.disconnectReceived,
      'packets/pingreq': this.pingreqReceived,
      'packets/pingresp': this.pingrespSent,
      'packets/puback/missed': this.pubackMissed,
      'packets/puback/received': this.pubackReceived,
      'packets/puback/sent': this.pubackSent,
      'packets/pubcomp/missed': this.pubcompMissed,
      'packets/pubcomp/received': this.pubcompReceived,
      'packets/pubcomp/sent': this.pubcompSent,
      'packets/publish/received': published,
      'packets/publish/sent': sent,
      'packets/pubrec/missed': this.pubrecMissed,
      'packets/pubrec/received': this.pubrecReceived,
      'packets/pubrec/sent': this.pubrecSent,
      'packets/pubrel/missed': this.pubrelMissed,
      'packets/pubrel/received': this.pubrelReceived,
      'packets/pubrel/sent': this.pubrelSent,
      'packets/received':
        published +
        this.connectReceived +
        this.pubackReceived +
        this.pubrecReceived +
        this.pubrelReceived +
        this.pubcompReceived +
        this.subscribeReceived +
        this.unsubscribeReceived +
        this.pingreqReceived +
        this.disconnectReceived +
        this.authReceived,
      'packets/sent':
        sent +
        this.connackSent +
        this.pubackSent +
        this.pubrecSent +
        this.pubrelSent +
        this.pubcompSent +
        this.subackSent +
        this.unsubackSent +
        this.pingrespSent +
        this.disconnectSent +
        this.authSent,
      'packets/suback': this.subackSent,
      'packets/subscribe': this.subscribeReceived,
      'packets/unsuback': this.unsubackSent,
      'packets/unsubscribe': this.unsubscribeReceived
    }
  }

  /** What emqttd does not have: messages that did not get through, by cause, and MQTT 5's packets. */
  more() {
    return {
      'messages/denied': this.denied,
      'messages/filtered': this.filtered,
      'messages/dropped/away': this.droppedAway,
      'messages/dropped/expired': this.droppedExpired,
      'messages/dropped/queue_full': this.droppedQueueFull,
      'messages/dropped/slow': this.droppedSlow,
      'messages/dropped/too_large': this.droppedTooLarge,
      'packets/auth/received': this.authReceived,
      'packets/auth/sent': this.authSent,
      'packets/disconnect/sent': this.disconnectSent
    }
  }
}

export type MetricName = keyof ReturnType<Metrics['standard']>
