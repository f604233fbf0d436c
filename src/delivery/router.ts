/**
 * Who gets a message: filters without wildcards in a map, the others in a trie of
 * levels, and what a topic matches remembered until a subscription changes. A broker
 * may have a million filters, most of them one client's own: such a one is kept as
 * its subscription and nothing else.
 *
 * A client whose filters overlap gets a message once, at the highest QoS that one of
 * them grants, with the identifiers of all (MQTT 5, section 3.3.4). Of a shared
 * subscription's group one member gets it.
 */

import type { QoS } from '../wire/frame.js'
import { splitShared } from '../wire/topic.js'

/** What a client asked for with one filter. */
export interface Subscription<S> {
  readonly subscriber: S
  /** As the client wrote it: `$share/g/a/#`. */
  readonly filter: string
  readonly qos: QoS
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  /** 0 is none. */
  readonly identifier: number
}

/** What all of a subscriber's filters that match make together. */
export interface Route<S> {
  readonly subscriber: S
  readonly qos: QoS
  /** Only if every one of them is no-local is the subscriber spared its own message. */
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly identifiers: readonly number[] | undefined
  /** What those make that are not no-local, for its own messages [MQTT-3.8.3-3]; undefined where it makes no difference. */
  readonly withoutNoLocal: Route<S> | undefined
}

export interface ShareGroup<S> {
  readonly name: string
  /** As its members wrote it: `$share/g/a/#`. */
  readonly filter: string
  readonly members: Subscription<S>[]
  /** Where the strategy stands; its meaning is the strategy's. */
  cursor: number
}

export interface Match<S> {
  readonly routes: readonly Route<S>[]
  readonly groups: readonly ShareGroup<S>[]
}

/** All that is subscribed under one filter, where that is more than one plain subscription. */
class SubscriberSet<S> {
  readonly plain = new Map<S, Subscription<S>>()
  /** Those that were written `$local/…`, which are others of the same client. */
  readonly local = new Map<S, Subscription<S>>()
  readonly groups = new Map<string, ShareGroup<S>>()

  /** Where a subscription that is not shared belongs. */
  alike(written: string): Map<S, Subscription<S>> {
    return written.startsWith('$local/') ? this.local : this.plain
  }

  get empty(): boolean {
    return this.plain.size === 0 && this.local.size === 0 && this.groups.size === 0
  }
}

type Entry<S> = Subscription<S> | SubscriberSet<S>

interface Node<S> {
  /** Made when there is a first one: most nodes are leaves. */
  children: Map<string, Node<S>> | undefined
  /** What ends at this level. */
  entry: Entry<S> | undefined
}

const maxCached = 100_000

export class Router<S> {
  readonly #exact = new Map<string, Entry<S>>()
  readonly #root: Node<S> = node()
  readonly #cache = new Map<string, Match<S>>()
  /** Goes up with every change, so that a caller that remembers a match knows when to ask again. */
  version = 0
  /** Subscriptions in all. */
  size = 0
  /** Filters that somebody subscribes to. */
  topics = 0

  /** True when the subscription is new; one under the same filter is replaced. */
  add(subscription: Subscription<S>): boolean {
    const { group, filter } = splitShared(subscription.filter)
    this.#changed(filter)
    const there = this.#find(filter)
    if (there === undefined) this.topics++
    if (group === undefined && (there === undefined || isSame(there, subscription.subscriber, subscription.filter))) {
      this.#put(filter, subscription)
      if (there === undefined) this.size++
      return there === undefined
    }
    const subscribers = there instanceof SubscriberSet ? there : this.#gather(filter, there)
    const isNew =
      group === undefined ? joinPlain(subscribers, subscription) : joinGroup(subscribers, group, subscription)
    if (isNew) this.size++
    return isNew
  }

  /** True when there was such a subscription. */
  remove(subscriber: S, written: string): boolean {
    const { group, filter } = splitShared(written)
    const there = this.#find(filter)
    if (there === undefined) return false
    if (there instanceof SubscriberSet) {
      const was =
        group === undefined ? there.alike(written).delete(subscriber) : leaveGroup(there, group, subscriber, written)
      if (!was) return false
      if (there.empty) this.#prune(filter)
    } else {
      if (!isSame(there, subscriber, written)) return false
      this.#prune(filter)
    }
    this.size--
    this.#changed(filter)
    return true
  }

  /** Of the members' filter as they write it; undefined when it has none. */
  group(written: string): ShareGroup<S> | undefined {
    const { group = '', filter } = splitShared(written)
    const entry = this.#find(filter)
    return entry instanceof SubscriberSet ? entry.groups.get(group) : undefined
  }

  match(topic: string): Match<S> {
    const known = this.#cache.get(topic)
    if (known !== undefined) return known
    const made = this.matchOnce(topic)
    if (this.#cache.size >= maxCached) this.#cache.clear()
    this.#cache.set(topic, made)
    return made
  }

  /** The same for a topic that is not to come again, and not to be remembered. */
  matchOnce(topic: string): Match<S> {
    const found: Entry<S>[] = []
    const exact = this.#exact.get(topic)
    if (exact !== undefined) found.push(exact)
    if (this.#root.children !== undefined) this.#walk(this.#root, topic.split('/'), 0, found)
    return merge(found)
  }

  /** Whether somebody subscribes to the very filter. */
  has(filter: string): boolean {
    return this.#find(filter) !== undefined
  }

  /** Every filter that somebody subscribes to, without `$share/…`. It may be read over several turns of the event loop. */
  *filters(): Generator<string> {
    yield* this.#exact.keys()
    yield* below(this.#root, '')
  }

  #walk(node: Node<S>, levels: readonly string[], at: number, found: Entry<S>[]): void {
    // [MQTT-4.7.2-1]: a wildcard at the first level does not meet a topic that begins with $
    const wild = at > 0 || levels[0]!.charCodeAt(0) !== 0x24
    if (wild) {
      const hash = node.children?.get('#')
      if (hash?.entry !== undefined) found.push(hash.entry)
    }
    if (at === levels.length) {
      if (node.entry !== undefined) found.push(node.entry)
      return
    }
    if (node.children === undefined) return
    if (wild) {
      const plus = node.children.get('+')
      if (plus !== undefined) this.#walk(plus, levels, at + 1, found)
    }
    const level = levels[at]!
    const child = level === '+' || level === '#' ? undefined : node.children.get(level)
    if (child !== undefined) this.#walk(child, levels, at + 1, found)
  }

  #put(filter: string, entry: Entry<S>): void {
    if (!isWild(filter)) {
      this.#exact.set(filter, entry)
      return
    }
    let at = this.#root
    for (const level of filter.split('/')) {
      at.children ??= new Map()
      let child = at.children.get(level)
      if (child === undefined) {
        child = node()
        at.children.set(level, child)
      }
      at = child
    }
    at.entry = entry
  }

  #gather(filter: string, first: Subscription<S> | undefined): SubscriberSet<S> {
    const subscribers = new SubscriberSet<S>()
    if (first !== undefined) subscribers.alike(first.filter).set(first.subscriber, first)
    this.#put(filter, subscribers)
    return subscribers
  }

  #find(filter: string): Entry<S> | undefined {
    if (!isWild(filter)) return this.#exact.get(filter)
    let node: Node<S> | undefined = this.#root
    for (const level of filter.split('/')) node = node?.children?.get(level)
    return node?.entry
  }

  /** Takes away what has become empty, so that filters that come and go leave nothing. */
  #prune(filter: string): void {
    this.topics--
    if (!isWild(filter)) {
      this.#exact.delete(filter)
      return
    }
    const levels = filter.split('/')
    const path = [this.#root]
    for (const level of levels) path.push(path.at(-1)!.children!.get(level)!)
    path.at(-1)!.entry = undefined
    for (let i = levels.length; i > 0; i--) {
      const node = path[i]!
      if (node.entry !== undefined || node.children !== undefined) return
      const before = path[i - 1]!
      before.children!.delete(levels[i - 1]!)
      if (before.children!.size === 0) before.children = undefined
    }
  }

  #changed(filter: string): void {
    this.version++
    if (isWild(filter)) this.#cache.clear()
    else this.#cache.delete(filter)
  }
}

function* below<S>(node: Node<S>, path: string): Generator<string> {
  if (node.children === undefined) return
  for (const [level, child] of node.children) {
    if (child.entry !== undefined) yield path + level
    yield* below(child, `${path}${level}/`)
  }
}

const node = <S>(): Node<S> => ({ children: undefined, entry: undefined })
const isWild = (filter: string): boolean => filter.includes('+') || filter.includes('#')

const isSame = <S>(entry: Entry<S>, subscriber: S, written: string): boolean =>
  !(entry instanceof SubscriberSet) && entry.subscriber === subscriber && entry.filter === written

function joinPlain<S>(subscribers: SubscriberSet<S>, subscription: Subscription<S>): boolean {
  const alike = subscribers.alike(subscription.filter)
  const before = alike.size
  return alike.set(subscription.subscriber, subscription).size > before
}

const memberAt = <S>({ members }: ShareGroup<S>, subscriber: S, written: string): number =>
  members.findIndex(m => m.subscriber === subscriber && m.filter === written)

function joinGroup<S>({ groups }: SubscriberSet<S>, name: string, subscription: Subscription<S>): boolean {
  const group = groups.get(name)
  if (group === undefined) {
    groups.set(name, { name, filter: subscription.filter, members: [subscription], cursor: 0 })
    return true
  }
  const at = memberAt(group, subscription.subscriber, subscription.filter)
  if (at === -1) group.members.push(subscription)
  else group.members[at] = subscription
  return at === -1
}

function leaveGroup<S>({ groups }: SubscriberSet<S>, name: string, subscriber: S, written: string): boolean {
  const group = groups.get(name)
  const at = group === undefined ? -1 : memberAt(group, subscriber, written)
  if (group === undefined || at === -1) return false
  group.members.splice(at, 1)
  if (at < group.cursor) group.cursor-- // it stays with the member that it stood at
  if (group.members.length === 0) groups.delete(name)
  return true
}

function merge<S>(entries: readonly Entry<S>[]): Match<S> {
  const groups = entries.flatMap(entry => (entry instanceof SubscriberSet ? [...entry.groups.values()] : []))
  const routes = new Map<S, Route<S>>()
  let sparing = false
  for (const entry of entries) {
    for (const subscription of subscribed(entry)) {
      sparing ||= subscription.noLocal
      routes.set(subscription.subscriber, joined(routes.get(subscription.subscriber), subscription))
    }
  }
  if (sparing) {
    for (const [subscriber, route] of routes) {
      const mine = entries.flatMap(entry => subscribedBy(subscriber, entry))
      const heard = mine.filter(({ noLocal }) => !noLocal)
      if (heard.length === 0 || heard.length === mine.length) continue
      routes.set(subscriber, { ...route, withoutNoLocal: heard.reduce<Route<S> | undefined>(joined, undefined) })
    }
  }
  return { routes: [...routes.values()], groups }
}

/** All that is subscribed to for oneself. */
function subscribed<S>(entry: Entry<S>): Iterable<Subscription<S>> {
  if (!(entry instanceof SubscriberSet)) return [entry]
  return entry.local.size === 0 ? entry.plain.values() : [...entry.plain.values(), ...entry.local.values()]
}

function subscribedBy<S>(subscriber: S, entry: Entry<S>): Subscription<S>[] {
  if (!(entry instanceof SubscriberSet)) return entry.subscriber === subscriber ? [entry] : []
  return [entry.plain, entry.local].flatMap(map => map.get(subscriber) ?? [])
}

function joined<S>(so: Route<S> | undefined, subscription: Subscription<S>): Route<S> {
  const { subscriber, qos, noLocal, retainAsPublished, identifier } = subscription
  return {
    subscriber,
    qos: so === undefined || qos > so.qos ? qos : so.qos,
    noLocal: noLocal && (so?.noLocal ?? true),
    retainAsPublished: retainAsPublished || (so?.retainAsPublished ?? false),
    identifiers: identifier === 0 ? so?.identifiers : [...(so?.identifiers ?? []), identifier],
    withoutNoLocal: undefined
  }
}
