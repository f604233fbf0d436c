/**
 * The middle of the data plane: a message goes in, and is with every subscriber that
 * wants it when route() returns.
 */

import { Metrics } from '../observe/metrics.js'
import type { Persistence } from '../persistence/persistence.js'
import type { QoS } from '../wire/frame.js'
import { splitShared } from '../wire/topic.js'
import type { Message } from './message.js'
import { RetainedMessages } from './retained.js'
import { type Match, type Route, Router, type ShareGroup, type Subscription } from './router.js'
import { Outgoing } from './session/outgoing.js'
import type { EndingSubscriber, Subscriber, Undelivered } from './subscriber.js'

/** emqttd's word and EMQX's: which member of a shared subscription's group gets a message. */
export type ShareStrategy = 'random' | 'round_robin' | 'sticky' | 'hash_clientid' | 'hash_topic'

export interface DispatcherOptions {
  readonly shareStrategy: ShareStrategy
  /** Whether a client's own message is not sent back to it, in MQTT 3 too (mqtt.session.ignore_loop_deliver). */
  readonly ignoreLoopDeliver: boolean
  /** Whether a message goes out at the higher of its QoS and the subscription's; MQTT has the lower. */
  readonly upgradeQos: boolean
}

export class Dispatcher {
  readonly router = new Router<Subscriber>()
  readonly retained = new RetainedMessages()
  /** Undefined where nothing outlives the process. */
  readonly persistence: Persistence | undefined
  readonly metrics: Metrics
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

  /** True when the subscription is new; one under the same filter is replaced. */
  subscribe(subscription: Subscription<Subscriber>): boolean {
    const isNew = this.router.add(subscription)
    subscription.subscriber.subscribed(subscription)
    this.metrics.peak('subscriptions', this.router.size)
    this.metrics.peak('topics', this.router.topics)
    return isNew
  }

  unsubscribe(subscriber: Subscriber, filter: string): boolean {
    subscriber.unsubscribed(filter)
    return this.router.remove(subscriber, filter)
  }

  /** Ends a subscriber: its subscriptions go, and what a group gave it goes to another member. */
  end<U extends Undelivered>(subscriber: EndingSubscriber<U>): void {
    for (const filter of subscriber.filters) this.router.remove(subscriber, filter)
    const left = subscriber.end()
    if (this.persistence === undefined) this.#redeliver(left)
    else this.persistence.move(() => this.#redeliver(left))
    subscriber.ended(left)
  }

  #redeliver(left: readonly Undelivered[]): void {
    const now = Date.now()
    for (const { message, group, qos, isSent } of left) {
      if (group === undefined || message.expiredAt(now)) continue // [MQTT-3.3.2-5]
      if (qos < 2 || !isSent) this.#share(group, message) // it may have the other already [MQTT-4.8.2-5]
    }
  }

  /** What is retained under the filter, for a new subscription to it. */
  *retainedFor({ subscriber, filter, qos, noLocal, identifier }: Subscription<Subscriber>): Generator<Outgoing> {
    const identifiers = identifier === 0 ? undefined : [identifier]
    for (const message of this.retained.match(splitShared(filter).filter)) {
      if (noLocal && message.from === subscriber.clientId) continue // [MQTT-3.8.3-3]
      const granted = this.granted(qos, message.qos)
      yield new Outgoing(message, granted, true, identifiers, undefined)
    }
  }

  /** Whether a subscriber's own message comes back to it. */
  reaches({ noLocal, withoutNoLocal, subscriber }: Route<Subscriber>, { from }: Message): boolean {
    return (
      subscriber.clientId !== from || !(this.#options.ignoreLoopDeliver || (noLocal && withoutNoLocal === undefined))
    )
  }

  /** Who of a group would get a message now; undefined when that is left to chance. */
  next(group: ShareGroup<Subscriber>, message: Message): Subscriber | undefined {
    if (this.#options.shareStrategy === 'random') return undefined
    return group.members[this.#choose(group, message)]?.subscriber
  }

  /** The QoS at which a message goes to a subscription. */
  granted(subscribed: QoS, published: QoS): QoS {
    return (this.#options.upgradeQos ? Math.max(subscribed, published) : Math.min(subscribed, published)) as QoS
  }

  /** Whether acknowledging it takes the store: it is to be kept for a stored session, or retained. */
  isKept(message: Message, match: Match<Subscriber> = this.router.match(message.topic)): boolean {
    const isKept = ({ subscriber, qos }: { subscriber: Subscriber; qos: QoS }): boolean =>
      subscriber.isStored && this.granted(qos, message.qos) > 0
    return message.retain || match.routes.some(isKept) || match.groups.some(({ members }) => members.some(isKept))
  }

  /** Delivers to every subscriber that wants it; tells how many. @param match what the router said of the topic, if known. */
  route(message: Message, match: Match<Subscriber> = this.router.match(message.topic)): number {
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
      subscriber.deliver(message, this.granted(qos, message.qos), retainAsPublished && message.retain, identifiers)
    }
    for (let i = 0; i < groups.length; i++) if (this.#share(groups[i]!, message)) count++
    if (count === 0) this.metrics.unwanted += message.counts
    return count
  }

  /**
   * Gives it to one member: the strategy's, or the next that can take it now; when none can, it waits in the
   * queue of the next that is there at least, and only with nobody there in that of one that may never come back.
   */
  #share(group: ShareGroup<Subscriber>, message: Message): boolean {
    const { members } = group
    if (members.length === 0) return false
    const chosen = this.#choose(group, message)
    group.cursor = chosen
    const { subscriber, qos, retainAsPublished, identifier } = members[chosen]!
    const identifiers = identifier === 0 ? undefined : [identifier]
    const granted = this.granted(qos, message.qos)
    subscriber.deliver(message, granted, retainAsPublished && message.retain, identifiers, group)
    return true
  }

  #choose(group: ShareGroup<Subscriber>, message: Message): number {
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

  #first({ members, cursor }: ShareGroup<Subscriber>, { from = '', topic }: Message): number {
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
