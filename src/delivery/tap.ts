/**
 * A subscriber inside the program that the broker is embedded in. To the router it is
 * a session like any other; what it is given is handed on at once, and after what is
 * being routed is with everybody.
 */
import type { QoS } from '../wire/frame.js'
import type { Message } from './message.js'
import { Session } from './session.js'

const limits = { maxInflight: 0, maxQueued: 0, storeQos0: false }

export class Tap extends Session {
  readonly #take: (message: Message, qos: QoS, retain: boolean) => void

  constructor(take: (message: Message, qos: QoS, retain: boolean) => void) {
    super('$embedded', limits)
    this.#take = take
  }

  override get online(): boolean {
    return true
  }

  override get ready(): boolean {
    return true
  }

  override deliver(message: Message, qos: QoS, retain: boolean): void {
    const kept = message.kept()
    queueMicrotask(() => this.#take(kept, qos, retain))
  }
}
