/** Who a client is, or says that it is: for the log, traces, bans and the history of connections. */
import type { Identity } from '../access/access.js'
import type { ClientRef } from '../base/client-ref.js'
import type { Origin } from '../net/connection.js'

export class ClientCard {
  readonly origin: Origin
  /** MQTT version; 0 before CONNECT. */
  version = 0
  /** In its CONNECT; '' before, or where it says none. */
  claimedId = ''
  claimedUsername: string | undefined
  /** The one it has; '' until its CONNECT is accepted as far as that. */
  clientId = ''
  /** Whom it was let in as. */
  identity: Identity | undefined
  /** What more there is to say of the end of its connection. */
  why: string | undefined

  constructor(origin: Origin) {
    this.origin = origin
  }

  /** What a ban or a trace looks for. */
  get ref(): ClientRef {
    const { peer, certificateName } = this.origin
    const username = this.identity?.client.username ?? certificateName ?? this.claimedUsername
    return { clientId: this.clientId, username, address: peer.address }
  }

  /** `127.0.0.1:36380` */
  get peername(): string {
    const { peer } = this.origin
    return `${peer.address}:${peer.port}`
  }

  /** Fields of a line in the log. */
  get fields(): object {
    const id = this.clientId === '' ? {} : { clientId: this.clientId }
    return { peer: this.peername, listener: this.origin.listener, ...id }
  }
}
