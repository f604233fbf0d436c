/**
 * The retained messages, in a trie of topic levels: a subscription with wildcards
 * costs what it returns, not what there is.
 */
import type { Message } from './message.js'

interface Node {
  /** Made when there is a first one: most nodes are leaves. */
  children: Map<string, Node> | undefined
  message: Message | undefined
}

const node = (): Node => ({ children: undefined, message: undefined })

export class RetainedMessages {
  readonly #root = node()
  #size = 0

  get size(): number {
    return this.#size
  }

  /** Keeps the message for its topic; one without a payload removes what was kept [MQTT-3.3.1-6], [MQTT-3.3.1-7].
   * @param expiryMs how long one without an expiry of its own is kept; 0 is for ever.
   */
  set(message: Message, expiryMs = 0): void {
    if (message.payloadLength === 0) return this.#remove(message.topic)
    const kept = expiryMs > 0 && message.expiresAt === 0 ? message.until(Date.now() + expiryMs) : message.kept()
    this.put(message.topic, kept)
  }

  /** Undefined removes it. */
  put(topic: string, message: Message | undefined): void {
    if (message === undefined) return this.#remove(topic)
    let at = this.#root
    for (const level of topic.split('/')) {
      at.children ??= new Map()
      let child = at.children.get(level)
      if (child === undefined) {
        child = node()
        at.children.set(level, child)
      }
      at = child
    }
    if (at.message === undefined) this.#size++
    at.message = message
  }

  get(topic: string): Message | undefined {
    let at: Node | undefined = this.#root
    for (const level of topic.split('/')) at = at?.children?.get(level)
    return at?.message
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

  *#walk(at: Node, levels: readonly string[], depth: number): Generator<Message> {
    const level = levels[depth]
    if (level === undefined) {
      if (at.message !== undefined) yield at.message
    } else if (level === '#') {
      if (at.message !== undefined && depth > 0) yield at.message // `a/#` has `a` too
      for (const child of open(at, depth)) yield* this.#all(child)
    } else if (level === '+') {
      for (const child of open(at, depth)) yield* this.#walk(child, levels, depth + 1)
    } else {
      const child = at.children?.get(level)
      if (child !== undefined) yield* this.#walk(child, levels, depth + 1)
    }
  }

  *#all(at: Node): Generator<Message> {
    if (at.message !== undefined) yield at.message
    if (at.children === undefined) return
    for (const child of [...at.children.values()]) yield* this.#all(child)
  }

  #remove(topic: string): void {
    const levels = topic.split('/')
    const path = [this.#root]
    for (const level of levels) {
      const child = path.at(-1)!.children?.get(level)
      if (child === undefined) return
      path.push(child)
    }
    const last = path.at(-1)!
    if (last.message === undefined) return
    last.message = undefined
    this.#size--
    for (let i = levels.length; i > 0; i--) {
      const { message, children } = path[i]!
      if (message !== undefined || (children?.size ?? 0) > 0) return
      path[i - 1]!.children!.delete(levels[i - 1]!)
    }
  }
}

/** Children that a wildcard meets: at the first level not those that begin with $ [MQTT-4.7.2-1]. A copy: reading may remove. */
function open({ children }: Node, depth: number): Node[] {
  if (children === undefined) return []
  return [...children].flatMap(([level, child]) => (depth > 0 || level.charCodeAt(0) !== 0x24 ? [child] : []))
}
