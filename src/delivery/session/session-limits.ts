/** What a session may have under way and waiting, and for how long: `mqtt.session.*` and `mqtt.mqueue.*`. */
import type { Priorities } from './mqueue.js'

export interface SessionLimits {
  /** Messages under way; 0 is no limit but the protocol's. */
  readonly maxInflight: number
  /** Messages that wait; 0 is no limit. */
  readonly maxQueued: number
  /** Whether QoS 0 waits for a client that is away. */
  readonly storeQos0: boolean
  /** Undefined: what waits goes out in the order in which it came. */
  readonly priorities?: Priorities | undefined
  /** Messages in the queue above which it counts as high, until there are `lowWatermark`. */
  readonly highWatermark?: number
  readonly lowWatermark?: number
  /** Milliseconds after which MQTT 3 is sent again what it has not acknowledged; 0 is never. */
  readonly retryInterval?: number
  /** Milliseconds that a QoS 2 message of MQTT 3 may take to be released; 0 is for ever. */
  readonly awaitRelTimeout?: number
}
