/** What is told of a listener, and what an operator can do with one, whatever it speaks. */

export interface ListenerInfo {
  /** `tcp:external`. */
  readonly name: string
  readonly transport: string
  /** As configured, with the port in force: `0.0.0.0:1883`, `8883`. */
  readonly bind: string
  readonly port: number
  readonly maxClients: number
  readonly currentClients: number
  /** How often connections ended, by why; those that the client ended itself left out. */
  readonly shutdownCount: Readonly<Record<string, number>>
}

export interface ManagedListener {
  readonly name: string
  readonly listening: boolean
  info(): ListenerInfo
  /** Whether it is meant by `1883`, `127.0.0.1:1883` or what else info() says of where it listens. */
  answersTo(where: string): boolean
  open(): Promise<void>
  /** @param how `goodbyes`: clients are told why before their sockets are closed. */
  close(how?: { readonly goodbyes?: boolean }): Promise<void>
}
