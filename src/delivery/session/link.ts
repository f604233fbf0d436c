/** The way to a connected client, as the data plane sees it: where to write, and what this client takes. */
import type { Outbox } from '../../net/outbox.js'

export interface Link {
  readonly out: Outbox
  /** How it is written to: 4 for MQTT 3.1 and 3.1.1, 5 for MQTT 5. */
  readonly version: 4 | 5
  /** Of its CONNECT [MQTT-3.3.4-9]; 65 535 where it has none. */
  readonly receiveMaximum: number
  /** Larger packets are not sent to it [MQTT-3.1.2-24]; Infinity where it has no limit. */
  readonly maximumPacketSize: number
  /** Where it takes topic aliases. */
  readonly aliases: OutgoingAliases | undefined
  /** What stands before its topics everywhere but with itself; mostly nothing. */
  readonly mountpoint: string
}

/** The aliases that stand for topics towards one client, for as long as its connection lasts [MQTT-3.3.2-7]. */
export class OutgoingAliases {
  readonly #aliases = new Map<string, number>()
  readonly #maximum: number

  /** @param maximum that the client takes [MQTT-3.1.2-26]. */
  constructor(maximum: number) {
    this.#maximum = maximum
  }

  /** The alias of a topic that the client knows already; below 0, one that it is to learn; 0, none. */
  take(topic: string): number {
    const known = this.#aliases.get(topic)
    if (known !== undefined) return known
    if (this.#aliases.size >= this.#maximum) return 0
    this.#aliases.set(topic, this.#aliases.size + 1)
    return -this.#aliases.size
  }

  topicOf(alias: number): string | undefined {
    for (const [topic, its] of this.#aliases) if (its === alias) return topic
    return undefined
  }
}
