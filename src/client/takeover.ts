/**
 * One client of an id comes in at a time: the next waits until this one is in or gone, and then takes its
 * place. Only a client that has shown that it may come in gets a turn, so that nobody else can hold up a client.
 */

/** A client that wants a client id. */
export interface Contender {
  readonly clientId: string
  /** Its connection is over. */
  readonly isClosed: boolean
  /** Where it comes from: `127.0.0.1:36380 on tcp:external`. */
  readonly from: string
  /** Ends its connection: another client takes its place. */
  giveWayTo(next: Contender): void
}

/** The client that comes in under a client id, and those behind. */
interface Turn<C> {
  client: C
  readonly behind: { readonly client: C; readonly go: () => void }[]
}

export class Takeover<C extends Contender> {
  /** By client id. */
  readonly #turns = new Map<string, Turn<C>>()
  /** The client that has the place of a client id. */
  readonly #holders = new Map<string, C>()
  /** What goes on when a client has left its place. */
  readonly #leaving = new Map<C, () => void>()

  /** The place is the client's now. */
  placed(client: C): void {
    if (!client.isClosed) this.#holders.set(client.clientId, client)
  }

  /** The place is free. */
  left(client: C): void {
    if (this.#holders.get(client.clientId) !== client) return
    this.#holders.delete(client.clientId)
    this.#leaving.get(client)?.()
    this.#leaving.delete(client)
  }

  /** Undefined: it is this client's turn now. */
  take(client: C): undefined | Promise<void> {
    if (client.isClosed) return undefined
    const turn = this.#turns.get(client.clientId)
    if (turn === undefined) {
      this.#turns.set(client.clientId, { client, behind: [] })
      return this.#takeOver(client)
    }
    const mine = new Promise<void>(go => turn.behind.push({ client, go }))
    return mine.then(() => (client.isClosed ? undefined : this.#takeOver(client)))
  }

  /** The client is in, or gone: the next may. */
  over(client: C): void {
    const turn = this.#turns.get(client.clientId)
    if (turn?.client !== client) return
    while (turn.client.isClosed || turn.client === client) {
      const next = turn.behind.shift()
      if (next === undefined) return void this.#turns.delete(client.clientId)
      turn.client = next.client
      next.go()
    }
  }

  /**
   * Ends the connection that has the client id now [MQTT-3.1.4-2] and waits until its place is free: a client that is
   * still leaving when the next one is placed would take that one's place with it.
   */
  #takeOver(client: C): undefined | Promise<void> {
    const holder = this.#holders.get(client.clientId)
    if (holder === undefined) return undefined
    const gone = new Promise<void>(resolve => this.#leaving.set(holder, resolve))
    holder.giveWayTo(client)
    return gone
  }
}
