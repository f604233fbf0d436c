/** What a client is known by: bans, traces and explanations look at no more of it. */
export interface ClientRef {
  readonly clientId: string
  readonly username: string | undefined
  readonly address: string
}
