/**
 * Retained messages in the store: the last one of each topic. Changes of one topic that wait together are one write.
 */
import type { Message } from '../delivery/message.js'
import type { Batch } from '../store/store.js'
import type { Change } from '../store/write-queue.js'
import type { Durability } from './durability.js'
import type { Persistence } from './persistence.js'
import { messageRecord, textKey } from './records.js'

/** @param wasWritten the disk may have `message` though it failed. */
type Undo = (message: Message | undefined, wasWritten: boolean) => void

export class RetainedLog {
  readonly #persistence: Persistence
  readonly #pending = new Map<string, RetainedChange>()

  constructor(persistence: Persistence) {
    this.#persistence = persistence
  }

  /**
   * A topic's retained message has changed.
   * @param undo puts back what was there in place of `message`, for a publisher that is told that it was not kept.
   */
  write(topic: string, message: Message | undefined, undo: Undo): void {
    const { queue } = this.#persistence
    const durability = this.#persistence.awaited()
    const pending = this.#pending.get(topic)
    if (pending?.isOpen) {
      pending.message = message
      if (durability === undefined) return
      pending.durabilities.push(durability)
      queue.expedite()
      return
    }
    const change = new RetainedChange(topic, message, undo, this.#pending)
    if (durability !== undefined) change.durabilities.push(durability)
    this.#pending.set(topic, change)
    queue.write(change, durability === undefined ? 'lazy' : 'awaited')
  }

  /** Whether the topic's last change is not on disk yet. */
  isPending(topic: string): boolean {
    return this.#pending.has(topic)
  }
}

class RetainedChange implements Change {
  readonly durabilities: Durability[] = []
  message: Message | undefined
  /** Others of the topic may join it: it is not being written yet. */
  isOpen = true
  readonly #topic: string
  readonly #undo: Undo
  /** The newest of each topic. */
  readonly #pending: Map<string, RetainedChange>

  constructor(topic: string, message: Message | undefined, undo: Undo, pending: Map<string, RetainedChange>) {
    this.#topic = topic
    this.message = message
    this.#undo = undo
    this.#pending = pending
  }

  write(batch: Batch): void {
    this.isOpen = false
    const key = textKey(this.#topic)
    if (this.message === undefined) batch.delete('retained', key)
    else batch.put('retained', key, messageRecord(this.message))
  }

  committed(): void {
    if (this.#pending.get(this.#topic) === this) this.#pending.delete(this.#topic)
    for (const durability of this.durabilities) durability.settle()
  }

  failed(): boolean {
    const pending = this.#pending.get(this.#topic)
    const isNewest = pending === undefined || pending === this
    if (this.durabilities.length === 0) {
      if (isNewest) this.#pending.set(this.#topic, this)
      this.isOpen = isNewest
      return isNewest
    }
    if (isNewest) {
      this.#pending.delete(this.#topic)
      this.#undo(this.message, !this.isOpen)
    }
    for (const durability of this.durabilities) durability.fail()
    return false
  }
}
