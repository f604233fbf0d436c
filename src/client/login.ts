/** Who a client is: from its CONNECT, by password, certificate or enhanced authentication, to the identity it gets. */
import type { Admission, Identity } from '../access/access.js'
import type { ClientInfo } from '../base/client-info.js'
import type { Connect } from '../wire/packets.js'
import type { PacketError } from '../wire/reason-codes.js'
import type { ClientCard } from './card.js'
import type { ChannelDeps } from './channel-deps.js'
import { keepAliveOf } from './connect.js'
import { type AuthPeer, EnhancedAuth } from './enhanced-auth.js'

export type LoginDeps = Pick<ChannelDeps<unknown>, 'options' | 'auth' | 'log' | 'authenticate' | 'refused'>

/** The client's side of an exchange, and what is done when the client authenticates anew later. */
export interface LoginPeer extends Omit<AuthPeer, 'admitted' | 'refused'> {
  provedAnew(identity: Identity): void
  /** The connection is to be ended. */
  failedAnew(err: PacketError): void
}

export class Login {
  /** Of a client that named a method; it lasts as long as the connection. */
  exchange: EnhancedAuth | undefined
  readonly #connect: Connect
  readonly #card: ClientCard
  readonly #deps: LoginDeps

  constructor(connect: Connect, card: ClientCard, deps: LoginDeps) {
    this.#connect = connect
    this.#card = card
    this.#deps = deps
  }

  /**
   * Begins the exchange of the method that CONNECT names; throws a PacketError when nobody has it. Resolves when the client
   * has shown who it is; rejects with a PacketError when it has not.
   */
  prove(method: string, data: Buffer | undefined, peer: LoginPeer): Promise<Identity> {
    let isDone = false
    const once =
      <T>(first: (value: T) => void, later: (value: T) => void) =>
      (value: T): void => {
        if (isDone) return later(value)
        isDone = true
        first(value)
      }
    let admitted!: (identity: Identity) => void
    let refused!: (err: PacketError) => void
    const proved = new Promise<Identity>((resolve, reject) => {
      admitted = once<Identity>(resolve, identity => peer.provedAnew(identity))
      refused = once<PacketError>(reject, err => peer.failedAnew(err))
    })
    this.exchange = new EnhancedAuth(method, this.#deps.auth, { ...peer, admitted, refused })
    this.exchange.connect(this.#info(this.#connect.username), data)
    return proved
  }

  /** Undefined when the client may come in; else the return code of CONNACK, in MQTT 3.1.1's numbers. */
  authenticate(): number | undefined | Promise<number | undefined> {
    const proved = this.exchange?.proved
    if (proved !== undefined) return this.#admit(proved.client, proved)
    const { username, password } = this.#connect
    // MQTT 5 has passwords without a user name; they are asked for like those of an empty one.
    const client = this.#info(username ?? (password === undefined ? undefined : ''))
    const admission = this.#deps.authenticate(client, password)
    if (!(admission instanceof Promise)) return this.#admit(client, admission)
    return admission.then(it => this.#admit(client, it))
  }

  #admit(client: ClientInfo, admission: Admission): number | undefined {
    if (typeof admission !== 'string') {
      this.#card.identity = admission
      return undefined
    }
    this.#card.why = admission === 'refused' ? 'wrong user name or password' : 'an authenticator failed'
    this.#deps.log.warning('login refused', { ...this.#card.fields, username: client.username, why: admission })
    const code = admission === 'refused' ? 4 : 3
    this.#deps.refused(client, code)
    return code
  }

  /** What CONNECT says of the client, for those who judge it. */
  #info(username: string | undefined): ClientInfo {
    const { peer, local, listener, certificateName } = this.#card.origin
    const { cleanStart, version } = this.#connect
    return {
      clientId: this.#card.clientId,
      username: certificateName ?? username,
      peer,
      local,
      listener,
      cleanSession: cleanStart,
      keepAlive: keepAliveOf(this.#connect, this.#deps.options),
      protocolVersion: version,
      connectedAt: new Date()
    }
  }
}
