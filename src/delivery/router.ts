/**
 * Who gets a message: filters without wildcards in a map, the others in a trie of
 * levels, and what a topic matches remembered until a subscription changes.
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
  readonly own: Route<S> | undefined
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

/** All that is subscribed under one filter. */
interface Entry<S> {
  readonly plain: Map<S, Subscription<S>>
  /** Those that were written `$local/…`, which are others of the same client. */
  local: Map<S, Subscription<S>> | undefined
  readonly groups: Map<string, ShareGroup<S>>
}

interface Node<S> {
  readonly children: Map<string, Node<S>>
  /** What ends at this level. */
  entry: Entry<S> | undefined
}

const maxCached = 100_000

export class Router<S> {
  readonly #exact = new Map<string, Entry<S>>()
  readonly #root: Node<S> = { children: new Map(), entry: undefined }
  readonly #cache = new Map<string, Match<S>>()
  /** Goes up with every change, so that who remembers a match knows when to ask again. */
  version = 0
  /** Subscriptions in all. */
  size = 0

  /** True when the subscription is new; one under the same filter is replaced. */
  add(subscription: Subscription<S>): boolean {
    const { group, filter } = splitShared(subscription.filter)
    const entry = this.#entryOf(filter)
    this.#changed(filter)
    let isNew: boolean
    if (group === undefined) {
      const local = isLocal(subscription.filter)
      if (local) entry.local ??= new Map()
      const plain = local ? entry.local! : entry.plain
      isNew = !plain.has(subscription.subscriber)
      plain.set(subscription.subscriber, subscription)
    } else {
      const shared = entry.groups.get(group)
      if (shared === undefined) {
        entry.groups.set(group, { name: group, filter: subscription.filter, members: [subscription], cursor: 0 })
        isNew = true
      } else {
        const at = memberAt(shared, subscription.subscriber, subscription.filter)
        isNew = at === -1
        if (isNew) shared.members.push(subscription)
        else shared.members[at] = subscription
      }
    }
    if (isNew) this.size++
    return isNew
  }

  /** True when there was such a subscription. */
  remove(subscriber: S, written: string): boolean {
    const { group, filter } = splitShared(written)
    const entry = this.#find(filter)
    if (entry === undefined) return false
    let was = false
    if (group === undefined) {
      was = (isLocal(written) ? entry.local : entry.plain)?.delete(subscriber) ?? false
    } else {
      const shared = entry.groups.get(group)
      const at = shared === undefined ? -1 : memberAt(shared, subscriber, written)
      was = at !== -1
      if (was) {
        shared!.members.splice(at, 1)
        if (at < shared!.cursor) shared!.cursor-- // it stays with the member that it stood at
      }
      if (shared?.members.length === 0) entry.groups.delete(group)
    }
    if (!was) return false
    this.size--
    this.#changed(filter)
    if (entry.local?.size === 0) entry.local = undefined
    if (entry.plain.size === 0 && entry.local === undefined && entry.groups.size === 0) this.#prune(filter)
    return true
  }

  /** Of the members' filter as they write it; undefined when it has none. */
  group(written: string): ShareGroup<S> | undefined {
    const { group = '', filter } = splitShared(written)
    return this.#find(filter)?.groups.get(group)
  }

  match(topic: string): Match<S> {
    const known = this.#cache.get(topic)
    if (known !== undefined) return known
    const found: Entry<S>[] = []
    const exact = this.#exact.get(topic)
    if (exact !== undefined) found.push(exact)
    if (this.#root.children.size > 0) this.#walk(this.#root, topic.split('/'), 0, found)
    const made = merge(found)
    if (this.#cache.size >= maxCached) this.#cache.clear()
    this.#cache.set(topic, made)
    return made
  }

  #walk(node: Node<S>, levels: readonly string[], at: number, found: Entry<S>[]): void {
    // [MQTT-4.7.2-1]: a wildcard at the first level does not meet a topic that begins with $
    const wild = at > 0 || levels[0]!.charCodeAt(0) !== 0x24
    if (wild) {
      const hash = node.children.get('#')
      if (hash?.entry !== undefined) found.push(hash.entry)
    }
    if (at === levels.length) {
      if (node.entry !== undefined) found.push(node.entry)
      return
    }
    if (wild) {
      const plus = node.children.get('+')
      if (plus !== undefined) this.#walk(plus, levels, at + 1, found)
    }
    const level = levels[at]!
    const child = level === '+' || level === '#' ? undefined : node.children.get(level)
    if (child !== undefined) this.#walk(child, levels, at + 1, found)
  }

  #entryOf(filter: string): Entry<S> {
    if (!isWild(filter)) {
      const there = this.#exact.get(filter)
      if (there !== undefined) return there
      const made = empty<S>()
      this.#exact.set(filter, made)
      return made
    }
    let node = this.#root
    for (const level of filter.split('/')) {
      let child = node.children.get(level)
      if (child === undefined) {
        child = { children: new Map(), entry: undefined }
        node.children.set(level, child)
      }
      node = child
    }
    node.entry ??= empty()
    return node.entry
  }

  #find(filter: string): Entry<S> | undefined {
    if (!isWild(filter)) return this.#exact.get(filter)
    let node: Node<S> | undefined = this.#root
    for (const level of filter.split('/')) node = node?.children.get(level)
    return node?.entry
  }

  /** Takes away what has become empty, so that filters that come and go leave nothing. */
  #prune(filter: string): void {
    if (!isWild(filter)) {
      this.#exact.delete(filter)
      return
    }
    const levels = filter.split('/')
    const path = [this.#root]
    for (const level of levels) path.push(path.at(-1)!.children.get(level)!)
    path.at(-1)!.entry = undefined
    for (let i = levels.length; i > 0; i--) {
      const node = path[i]!
      if (node.entry !== undefined || node.children.size > 0) return
      path[i - 1]!.children.delete(levels[i - 1]!)
    }
  }

  #changed(filter: string): void {
    this.version++
    if (isWild(filter)) this.#cache.clear()
    else this.#cache.delete(filter)
  }
}

const empty = <S>(): Entry<S> => ({ plain: new Map(), local: undefined, groups: new Map() })
const isLocal = (written: string): boolean => written.startsWith('$local/')
const memberAt = <S>({ members }: ShareGroup<S>, subscriber: S, written: string): number =>
  members.findIndex(m => m.subscriber === subscriber && m.filter === written)
const isWild = (filter: string): boolean => filter.includes('+') || filter.includes('#')

function merge<S>(entries: readonly Entry<S>[]): Match<S> {
  const groups = entries.flatMap(entry => [...entry.groups.values()])
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
      const mine = entries.flatMap(({ plain, local }) => [plain, local].flatMap(map => map?.get(subscriber) ?? []))
      const heard = mine.filter(({ noLocal }) => !noLocal)
      if (heard.length === 0 || heard.length === mine.length) continue
      routes.set(subscriber, { ...route, own: heard.reduce<Route<S> | undefined>(joined, undefined) })
    }
  }
  return { routes: [...routes.values()], groups }
}

/** All that is subscribed to for oneself. */
const subscribed = <S>({ plain, local }: Entry<S>): Iterable<Subscription<S>> =>
  local === undefined ? plain.values() : [...plain.values(), ...local.values()]

function joined<S>(so: Route<S> | undefined, subscription: Subscription<S>): Route<S> {
  const { subscriber, qos, noLocal, retainAsPublished, identifier } = subscription
  return {
    subscriber,
    qos: so === undefined || qos > so.qos ? qos : so.qos,
    noLocal: noLocal && (so?.noLocal ?? true),
    retainAsPublished: retainAsPublished || (so?.retainAsPublished ?? false),
    identifiers: identifier === 0 ? so?.identifiers : [...(so?.identifiers ?? []), identifier],
    own: undefined
  }
}
