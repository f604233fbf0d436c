/**
 * One client of an id comes in at a time: the next waits until this one is in or gone, and then takes its
 * place. Only who has shown that he may come in gets a turn, so that nobody else can hold up a client.
 */
import type { Channel } from './channel.js'

/** Who comes in under a client id, and those behind. */
interface Turn {
  channel: Channel
  readonly behind: { readonly channel: Channel; readonly go: () => void }[]
}

export class Takeover {
  /** By client id. */
  readonly #turns = new Map<string, Turn>()
  /** Who aedes has under a client id. */
  readonly #registered = new Map<string, Channel>()
  /** Who waits for it to be gone from there. */
  readonly #leaving = new Map<Channel, () => void>()

  /** aedes has it now. */
  registered(channel: Channel): void {
    if (!channel.connection.closed) this.#registered.set(channel.clientId, channel)
  }

  /** aedes has forgotten it. */
  unregistered(channel: Channel): void {
    if (this.#registered.get(channel.clientId) !== channel) return
    this.#registered.delete(channel.clientId)
    this.#leaving.get(channel)?.()
    this.#leaving.delete(channel)
  }

  /** Undefined: it is this one's turn now. */
  take(channel: Channel): undefined | Promise<void> {
    if (channel.connection.closed) return undefined
    const turn = this.#turns.get(channel.clientId)
    if (turn === undefined) {
      this.#turns.set(channel.clientId, { channel, behind: [] })
      return this.#takeOver(channel)
    }
    const mine = new Promise<void>(go => turn.behind.push({ channel, go }))
    return mine.then(() => (channel.connection.closed ? undefined : this.#takeOver(channel)))
  }

  /** The channel is in, or gone: the next may. */
  over(channel: Channel): void {
    const turn = this.#turns.get(channel.clientId)
    if (turn?.channel !== channel) return
    while (turn.channel.connection.closed || turn.channel === channel) {
      const next = turn.behind.shift()
      if (next === undefined) return void this.#turns.delete(channel.clientId)
      turn.channel = next.channel
      next.go()
    }
  }

  /**
   * Ends the connection that has the client id now [MQTT-3.1.4-2] and waits until aedes has forgotten it:
   * a client that is still leaving when the next one registers takes that one's entry with it.
   */
  #takeOver(channel: Channel): undefined | Promise<void> {
    const holder = this.#registered.get(channel.clientId)
    if (holder === undefined) return undefined
    const gone = new Promise<void>(resolve => this.#leaving.set(holder, resolve))
    holder.why ??= `by ${channel.peername} on ${channel.connection.origin.listener}`
    holder.connection.hangUp('takeover')
    return gone
  }
}
