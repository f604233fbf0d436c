/** What a client is known by: bans, acl.conf, traces and explanations look at no more of it. */
export interface ClientRef {
  readonly clientId: string
  readonly username: string | undefined
  /** IP address, without IPv4-in-IPv6 dressing; '' when unknown. */
  readonly address: string
}
