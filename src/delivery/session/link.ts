/** The way to a connected client, as the data plane sees it: where to write, and what this client takes. */
import type { Outbox } from '../../net/outbox.js'
import type { OutgoingAliases } from './mqtt-link.js'

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
