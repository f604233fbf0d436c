/**
 * The middle of the data plane: a message goes in, and is with every session that
 * wants it when route() returns.
 */

import { Metrics } from '../observe/metrics.js'
import type { TopicSample } from '../observe/topic-sample.js'
import type { Persistence } from '../persistence/persistence.js'
import type { QoS } from '../wire/frame.js'
import { splitShared } from '../wire/topic.js'
import type { Message } from './message.js'
import { RetainedMessages } from './retained.js'
import { type Match, type Route, Router, type ShareGroup, type Subscription } from './router.js'
import { Outgoing } from './session/inflight.js'
import type { Session } from './session/session.js'

/** emqttd's word and EMQX's: which member of a shared subscription's group gets a message. */
export type ShareStrategy = 'random' | 'round_robin' | 'sticky' | 'hash_clientid' | 'hash_topic'

export interface DispatcherOptions {
  readonly shareStrategy: ShareStrategy
  /** Topics that are kept; 0 is no limit. */
  readonly maxRetained: number
  /** Bytes of a payload that is kept; 0 is no limit. */
  readonly maxRetainedPayload: number
  /** Whether a client's own message is not sent back to it, in MQTT 3 too (mqtt.session.ignore_loop_deliver). */
  readonly ignoreLoopDeliver: boolean
  /** Whether a message goes out at the higher of its QoS and the subscription's; MQTT has the lower. */
  readonly upgradeQos: boolean
  /** Milliseconds after which a retained message is forgotten that has no expiry of its own; 0 is never. */
  readonly retainExpiry: number
}

/** Subscribed anew or not, and what QoS was granted. */
export interface Subscribed {
  readonly isNew: boolean
}

export class Dispatcher {
  readonly router = new Router<Session>()
  readonly retained = new RetainedMessages()
  /** Undefined where nothing outlives the process. */
  readonly persistence: Persistence | undefined
  readonly metrics: Metrics
  /** There while somebody looks which topics have the most messages. */
  sample: TopicSample | undefined
  #options: DispatcherOptions

  constructor(options: DispatcherOptions, persistence?: Persistence, metrics = new Metrics()) {
    this.#options = options
    this.persistence = persistence
    this.metrics = metrics
  }

  /** Other options from now on; what is retained already keeps its time. */
  reconfigure(options: DispatcherOptions): void {
    this.#options = options
  }

  subscribe(subscription: Subscription<Session>): Subscribed {
    const { subscriber, filter } = subscription
    const isNew = this.router.add(subscription)
    subscriber.subscriptions.set(filter, subscription)
    subscriber.sessionLog?.subscribed(subscription)
    this.metrics.peak('subscriptions', this.router.size)
    this.metrics.peak('topics', this.router.topics)
    return { isNew }
  }

  unsubscribe(session: Session, filter: string): boolean {
    session.subscriptions.delete(filter)
    session.sessionLog?.unsubscribed(filter) // if there was none: its end may not be on disk yet
    return this.router.remove(session, filter)
  }

  /** Ends a session: its subscriptions go, and what a group gave it goes to another member. */
  end(session: Session): void {
    for (const filter of session.subscriptions.keys()) this.router.remove(session, filter)
    const now = Date.now()
    const left = session.end()
    this.#move(() => {
      for (const { message, group, qos, isSent } of left) {
        if (group === undefined || message.expiredAt(now)) continue // [MQTT-3.3.2-5]
        if (qos < 2 || !isSent) this.#share(group, message) // it may have the other already [MQTT-4.8.2-5]
      }
    })
    this.forget(session, left)
    session.subscriptions.clear()
    session.awaitingRel.clear()
    session.durabilities = undefined
  }

  /** The store no longer has the session: it is over, or ends with its connection from now on. */
  forget(session: Session, left: readonly Outgoing[]): void {
    for (const { stored } of left) stored?.forget()
    for (const filter of session.subscriptions.keys()) session.sessionLog?.unsubscribed(filter)
    for (const packetId of session.awaitingRel.keys()) session.sessionLog?.incomingReleased(packetId)
    session.sessionLog = undefined
  }

  #move(what: () => void): void {
    if (this.persistence === undefined) return what()
    this.persistence.isMoving = true
    what()
    this.persistence.isMoving = false
  }

  /** What is retained under the filter, for a new subscription to it. */
  *retainedFor({ subscriber, filter, qos, noLocal, identifier }: Subscription<Session>): Generator<Outgoing> {
    const identifiers = identifier === 0 ? undefined : [identifier]
    for (const message of this.retained.match(splitShared(filter).filter)) {
      if (noLocal && message.from === subscriber.clientId) continue // [MQTT-3.8.3-3]
      const granted = this.#granted(qos, message.qos)
      yield new Outgoing(message, granted, true, identifiers, undefined)
    }
  }

  /** False when the message is over the limits of what is retained; it is routed all the same. */
  retain(message: Message): boolean {
    if (this.overLimits(message) !== undefined) return false
    const { persistence } = this
    // What the broker tells of itself is told anew.
    if (persistence === undefined || message.topic.startsWith('$SYS/'))
      this.retained.set(message, this.#options.retainExpiry)
    else {
      const before = this.retained.get(message.topic)
      this.retained.set(message, this.#options.retainExpiry)
      const after = this.retained.get(message.topic)
      if (before === undefined && after === undefined && !persistence.isRetaining(message.topic)) return true
      persistence.retain(message.topic, after, (last, wasWritten) => {
        if (this.retained.get(message.topic) === last) this.retained.put(message.topic, before)
        if (wasWritten) persistence.retain(message.topic, this.retained.get(message.topic), () => {})
      })
    }
    this.metrics.peak('retained', this.retained.size)
    return true
  }

  /** The limit that keeps a message from being retained. */
  overLimits({ topic, payloadLength }: Message): string | undefined {
    const { maxRetained, maxRetainedPayload } = this.#options
    if (maxRetainedPayload > 0 && payloadLength > maxRetainedPayload) return 'mqtt.retain.max_payload_size'
    if (maxRetained === 0 || this.retained.size < maxRetained || payloadLength === 0) return undefined
    return this.retained.get(topic) === undefined ? 'mqtt.retain.max_message_num' : undefined
  }

  /** Whether a subscriber's own message comes back to it. */
  reaches({ noLocal, withoutNoLocal, subscriber }: Route<Session>, { from }: Message): boolean {
    return (
      subscriber.clientId !== from || !(this.#options.ignoreLoopDeliver || (noLocal && withoutNoLocal === undefined))
    )
  }

  granted(subscribed: QoS, published: QoS): QoS {
    return this.#granted(subscribed, published)
  }

  /** Who of a group would get a message now; undefined when that is left to chance. */
  next(group: ShareGroup<Session>, message: Message): Session | undefined {
    if (this.#options.shareStrategy === 'random') return undefined
    return group.members[this.#choose(group, message)]?.subscriber
  }

  #granted(subscribed: QoS, published: QoS): QoS {
    return (this.#options.upgradeQos ? Math.max(subscribed, published) : Math.min(subscribed, published)) as QoS
  }

  /** Keeps the message if it is to be retained, and delivers it. @param match as for route(). */
  publish(message: Message, match?: Match<Session>): number {
    if (message.retain) this.retain(message)
    if (this.sample !== undefined && message.counts > 0) this.sample.saw(message)
    return this.route(message, match)
  }

  /** Whether acknowledging it takes the store: it is to be kept for a stored session, or retained. */
  isKept(message: Message, match: Match<Session> = this.router.match(message.topic)): boolean {
    const isKept = ({ subscriber, qos }: { subscriber: Session; qos: QoS }): boolean =>
      subscriber.sessionLog !== undefined && this.#granted(qos, message.qos) > 0
    return message.retain || match.routes.some(isKept) || match.groups.some(({ members }) => members.some(isKept))
  }

  /** Delivers to every session that wants it; tells how many. @param match what the router said of the topic, if known. */
  route(message: Message, match: Match<Session> = this.router.match(message.topic)): number {
    const { routes, groups } = match
    let count = 0
    for (let i = 0; i < routes.length; i++) {
      let route = routes[i]!
      const { subscriber, noLocal, withoutNoLocal } = route
      if (
        (noLocal || withoutNoLocal !== undefined || this.#options.ignoreLoopDeliver) &&
        subscriber.clientId === message.from
      ) {
        if (withoutNoLocal === undefined || this.#options.ignoreLoopDeliver) continue
        route = withoutNoLocal
      }
      count++
      const { qos, retainAsPublished, identifiers } = route
      subscriber.deliver(message, this.#granted(qos, message.qos), retainAsPublished && message.retain, identifiers)
    }
    for (let i = 0; i < groups.length; i++) if (this.#share(groups[i]!, message)) count++
    if (count === 0) this.metrics.unwanted += message.counts
    return count
  }

  /**
   * Gives it to one member: the strategy's, or the next that can take it now; when none can, it waits in the
   * queue of the next that is there at least, and only with nobody there in that of one who may never come back.
   */
  #share(group: ShareGroup<Session>, message: Message): boolean {
    const { members } = group
    if (members.length === 0) return false
    const chosen = this.#choose(group, message)
    group.cursor = chosen
    const { subscriber, qos, retainAsPublished, identifier } = members[chosen]!
    const identifiers = identifier === 0 ? undefined : [identifier]
    const granted = this.#granted(qos, message.qos)
    subscriber.deliver(message, granted, retainAsPublished && message.retain, identifiers, group)
    return true
  }

  #choose(group: ShareGroup<Session>, message: Message): number {
    const { members } = group
    const first = this.#first(group, message)
    let chosen = first
    let isOnline = false
    for (let i = 0; i < members.length; i++) {
      const at = (first + i) % members.length
      const { subscriber } = members[at]!
      if (subscriber.ready) {
        chosen = at
        break
      }
      if (isOnline || !subscriber.online) continue
      isOnline = true
      chosen = at
    }
    return chosen
  }

  #first({ members, cursor }: ShareGroup<Session>, { from = '', topic }: Message): number {
    switch (this.#options.shareStrategy) {
      case 'random':
        return Math.floor(Math.random() * members.length)
      case 'round_robin':
        return (cursor + 1) % members.length
      case 'sticky':
        return cursor % members.length
      case 'hash_clientid':
        return hash(from) % members.length
      case 'hash_topic':
        return hash(topic) % members.length
    }
  }
}

/** FNV-1a. */
function hash(text: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  return h >>> 0
}
