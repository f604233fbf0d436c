/**
 * One client of an id comes in at a time: the next waits until this one is in or gone, and then takes its
 * place. Only who has shown that he may come in gets a turn, so that nobody else can hold up a client.
 */
import type { Front } from './channel.js'

/** Who comes in under a client id, and those behind. */
interface Turn {
  front: Front
  readonly behind: { readonly front: Front; readonly go: () => void }[]
}

export class Turns {
  /** By client id. */
  readonly #turns = new Map<string, Turn>()
  /** Who aedes has under a client id. */
  readonly #registered = new Map<string, Front>()
  /** Who waits for it to be gone from there. */
  readonly #leaving = new Map<Front, () => void>()

  /** aedes has it now. */
  registered(front: Front): void {
    if (!front.connection.closed) this.#registered.set(front.clientId, front)
  }

  /** aedes has forgotten it. */
  unregistered(front: Front): void {
    if (this.#registered.get(front.clientId) !== front) return
    this.#registered.delete(front.clientId)
    this.#leaving.get(front)?.()
    this.#leaving.delete(front)
  }

  /** Undefined: it is this one's turn now. */
  take(front: Front): undefined | Promise<void> {
    if (front.connection.closed) return undefined
    const turn = this.#turns.get(front.clientId)
    if (turn === undefined) {
      this.#turns.set(front.clientId, { front, behind: [] })
      return this.#takeOver(front)
    }
    const mine = new Promise<void>(go => turn.behind.push({ front, go }))
    return mine.then(() => (front.connection.closed ? undefined : this.#takeOver(front)))
  }

  /** The front is in, or gone: the next may. */
  over(front: Front): void {
    const turn = this.#turns.get(front.clientId)
    if (turn?.front !== front) return
    while (turn.front.connection.closed || turn.front === front) {
      const next = turn.behind.shift()
      if (next === undefined) return void this.#turns.delete(front.clientId)
      turn.front = next.front
      next.go()
    }
  }

  /**
   * Ends the connection that has the client id now [MQTT-3.1.4-2] and waits until aedes has forgotten it:
   * a client that is still leaving when the next one registers takes that one's entry with it.
   */
  #takeOver(front: Front): undefined | Promise<void> {
    const holder = this.#registered.get(front.clientId)
    if (holder === undefined) return undefined
    const gone = new Promise<void>(resolve => this.#leaving.set(holder, resolve))
    holder.why ??= `by ${front.peername} on ${front.connection.origin.listener}`
    holder.connection.hangUp('takeover')
    return gone
  }
}
