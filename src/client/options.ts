/** `mqtt.*` as the parts that live by it have it. */

import type { Rate } from '../base/rate-limit.js'
import type { MqttOptions } from '../config/broker-keys.js'
import type { DispatcherOptions } from '../delivery/dispatcher.js'
import type { IngressOptions } from '../delivery/ingress.js'
import { Priorities } from '../delivery/session/mqueue.js'
import type { SessionLimits } from '../delivery/session/session-limits.js'

export interface ChannelOptions {
  /** Bytes. */
  readonly maxClientidLen: number
  readonly maxPacketSize: number
  readonly keepaliveBackoff: number
  /** Seconds; 0 is no limit. For MQTT 5 alone, since the others cannot be told. */
  readonly maxKeepalive: number
  /** Messages that one connection may send. */
  readonly maxPublishRate: Rate | undefined
  readonly checkPayloadFormat: boolean
  /** Seconds that a session of MQTT 3 with clean session 0 lives on; the most that MQTT 5 may ask for. */
  readonly sessionExpiry: number
  readonly maxSubscriptions: number
  readonly receiveMaximum: number
  readonly topicAliasMaximum: number
  readonly maxTopicLevels: number
}

export function channelOptionsOf({ session, client, ...options }: MqttOptions): ChannelOptions {
  return {
    maxClientidLen: options.maxClientidLen,
    maxPacketSize: options.maxPacketSize,
    keepaliveBackoff: options.keepaliveBackoff,
    maxKeepalive: Math.floor(options.maxKeepalive / 1000),
    maxPublishRate: client.maxPublishRate,
    checkPayloadFormat: options.checkPayloadFormat,
    sessionExpiry: Math.floor(session.expiryInterval / 1000),
    maxSubscriptions: session.maxSubscriptions,
    receiveMaximum: session.maxAwaitingRel,
    topicAliasMaximum: options.maxTopicAlias,
    maxTopicLevels: options.maxTopicLevels
  }
}

export function dispatcherOptionsOf({ sharedSubscriptionStrategy, session }: MqttOptions): DispatcherOptions {
  return {
    shareStrategy: sharedSubscriptionStrategy,
    ignoreLoopDeliver: session.ignoreLoopDeliver,
    upgradeQos: session.upgradeQos
  }
}

export function ingressOptionsOf({ maxTopicLevels, retain }: MqttOptions): IngressOptions {
  return {
    maxTopicLevels,
    maxRetained: retain.maxMessageNum,
    maxRetainedPayload: retain.maxPayloadSize,
    retainExpiry: retain.expiryInterval
  }
}

export function limitsOf({ session, mqueue }: MqttOptions): SessionLimits {
  const { type, priority, maxLength, lowWatermark, highWatermark, storeQos0 } = mqueue
  const marks = {
    lowWatermark: Math.floor(maxLength * lowWatermark),
    highWatermark: Math.floor(maxLength * highWatermark)
  }
  return {
    maxInflight: session.maxInflight,
    maxQueued: maxLength,
    storeQos0,
    priorities: type === 'priority' ? new Priorities(priority ?? new Map()) : undefined,
    ...(maxLength === 0 ? {} : marks), // of a queue without a limit there is no percentage
    retryInterval: session.retryInterval,
    awaitRelTimeout: session.awaitRelTimeout
  }
}
