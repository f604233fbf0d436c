/**
 * The retained messages, in a trie of topic levels: a subscription with wildcards
 * costs what it returns, not what there is.
 */
import { Message } from './message.js'

interface Node {
  readonly children: Map<string, Place>
  message: Message | undefined
}

/** What is under a level: most are leaves, which are their message and nothing more. */
type Place = Node | Message

const childrenOf = (place: Place | undefined): Map<string, Place> | undefined =>
  place === undefined || place instanceof Message ? undefined : place.children
const messageOf = (place: Place | undefined): Message | undefined => (place instanceof Message ? place : place?.message)

export class RetainedMessages {
  readonly #root: Node = { children: new Map(), message: undefined }
  #size = 0

  get size(): number {
    return this.#size
  }

  /** Keeps the message for its topic; one without a payload removes what was kept [MQTT-3.3.1-6], [MQTT-3.3.1-7].
   * @param expiryMs how long one without an expiry of its own is kept; 0 is for ever.
   */
  set(message: Message, expiryMs = 0): void {
    if (message.payloadLength === 0) return this.#remove(message.topic)
    const kept = expiryMs > 0 && message.expiresAt === 0 ? message.until(Date.now() + expiryMs) : message.owned()
    this.put(message.topic, kept)
  }

  /** Undefined removes it. */
  put(topic: string, message: Message | undefined): void {
    if (message === undefined) return this.#remove(topic)
    const levels = topic.split('/')
    const last = levels.pop()!
    let { children } = this.#root
    for (const level of levels) {
      let place = children.get(level)
      if (place === undefined || place instanceof Message) {
        place = { children: new Map(), message: place }
        children.set(level, place)
      }
      children = place.children
    }
    const before = children.get(last)
    if (messageOf(before) === undefined) this.#size++
    if (before === undefined || before instanceof Message) children.set(last, message)
    else before.message = message
  }

  get(topic: string): Message | undefined {
    let at: Place | undefined = this.#root
    for (const level of topic.split('/')) at = childrenOf(at)?.get(level)
    return messageOf(at)
  }

  /** Every retained message that the filter matches and that has not expired at `now`. */
  *match(filter: string, now = Date.now()): Generator<Message> {
    for (const message of this.#walk(this.#root, filter.split('/'), 0)) {
      if (!message.expiredAt(now)) yield message
      else this.#remove(message.topic)
    }
  }

  /** Every retained message, those of $SYS included. It may be read over several turns of the event loop. */
  all(): Generator<Message> {
    return this.#all(this.#root)
  }

  *#walk(at: Place, levels: readonly string[], depth: number): Generator<Message> {
    const level = levels[depth]
    const message = messageOf(at)
    if (level === undefined) {
      if (message !== undefined) yield message
    } else if (level === '#') {
      if (message !== undefined && depth > 0) yield message // `a/#` has `a` too
      for (const child of open(at, depth)) yield* this.#all(child)
    } else if (level === '+') {
      for (const child of open(at, depth)) yield* this.#walk(child, levels, depth + 1)
    } else {
      const child = childrenOf(at)?.get(level)
      if (child !== undefined) yield* this.#walk(child, levels, depth + 1)
    }
  }

  *#all(at: Place): Generator<Message> {
    const message = messageOf(at)
    if (message !== undefined) yield message
    for (const child of open(at, 1)) yield* this.#all(child)
  }

  #remove(topic: string): void {
    const levels = topic.split('/')
    const path = [this.#root.children]
    for (const level of levels.slice(0, -1)) {
      const children = childrenOf(path.at(-1)!.get(level))
      if (children === undefined) return
      path.push(children)
    }
    const last = levels.at(-1)!
    const place = path.at(-1)!.get(last)
    if (messageOf(place) === undefined) return
    this.#size--
    if (place instanceof Message) path.at(-1)!.delete(last)
    else place!.message = undefined
    for (let i = levels.length - 1; i > 0 && path[i]!.size === 0; i--) {
      const { message } = path[i - 1]!.get(levels[i - 1]!) as Node
      if (message === undefined) path[i - 1]!.delete(levels[i - 1]!)
      else path[i - 1]!.set(levels[i - 1]!, message) // a leaf again
    }
  }
}

/** Children that a wildcard meets: at the first level not those that begin with $ [MQTT-4.7.2-1]; those that come and go while it is read as they are then. */
function* open(at: Place, depth: number): Generator<Place> {
  const children = childrenOf(at)
  if (children === undefined) return
  for (const level of [...children.keys()]) {
    const child = children.get(level)
    if (child !== undefined && (depth > 0 || level.charCodeAt(0) !== 0x24)) yield child
  }
}
