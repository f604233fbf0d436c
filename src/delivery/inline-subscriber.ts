/**
 * A subscriber inside the program that the broker is embedded in. It has no session: what it is given is handed on at
 * once, after what is being routed is with everybody.
 */
import type { QoS } from '../wire/frame.js'
import { splitShared } from '../wire/topic.js'
import type { Dispatcher } from './dispatcher.js'
import type { Message } from './message.js'
import type { Subscriber } from './subscriber.js'

type Take = (message: Message, qos: QoS, retain: boolean) => void

/** What is retained under the filter comes first. Returns what ends the subscription: nothing is handed on after that. */
export function subscribeInline(dispatcher: Dispatcher, filter: string, take: Take): () => void {
  let isOver = false
  const subscriber = new InlineSubscriber((message, qos, retain) => {
    if (!isOver) take(message, qos, retain)
  })
  const options = { noLocal: false, retainAsPublished: true, identifier: 0 }
  const subscription = { subscriber, filter, qos: 2 as const, ...options }
  dispatcher.subscribe(subscription)
  if (splitShared(filter).group === undefined) {
    for (const { message, qos } of dispatcher.retainedFor(subscription)) subscriber.deliver(message, qos, true)
  }
  return () => {
    isOver = true
    dispatcher.unsubscribe(subscriber, filter)
  }
}

class InlineSubscriber implements Subscriber {
  readonly clientId = '$embedded'
  readonly online = true
  readonly ready = true
  readonly isStored = false
  readonly #take: Take

  constructor(take: Take) {
    this.#take = take
  }

  subscribed(): void {}

  unsubscribed(): void {}

  deliver(message: Message, qos: QoS, retain: boolean): void {
    const owned = message.owned()
    queueMicrotask(() => this.#take(owned, qos, retain))
  }
}
