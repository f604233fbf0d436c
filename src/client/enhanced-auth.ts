/**
 * Enhanced authentication of MQTT 5 (section 4.12): the exchange between a client
 * that named a method in its CONNECT and the plugin that has the method. CONNECT
 * waits for its outcome, and aedes hears of the client only after it has succeeded.
 *
 * Once the client is in, it may authenticate anew at any time; its messages go on
 * meanwhile under the identity that it has, until another takes its place.
 */
import type { Identity } from '../access/access.js'
import type { ClientInfo } from '../base/client-info.js'
import type { AuthStep, RunningExchange } from '../plugins/hooks.js'
import { type Auth, auth } from '../wire/packets.js'
import type { Properties } from '../wire/properties.js'
import { PacketError, protocolError, Reason, type ReasonCode } from '../wire/reason-codes.js'

/** What exchanges need of the broker. */
export interface EnhancedAuthDeps {
  beginExchange(method: string, gone: () => void): RunningExchange | undefined
  identity(client: ClientInfo, superuser: boolean): Identity
  /** Milliseconds that an exchange may take. */
  readonly timeLimit: number
}

/** The client's side of the connection. */
export interface AuthPeer {
  readonly maximumPacketSize: number
  /** What its certificate says, where the listener asks for one. */
  readonly certificateName: string | undefined
  gone(): boolean
  write(bytes: Buffer): void
  /** The client has shown who it is: CONNECT may go on, or the identity is another now. */
  admitted(identity: Identity): void
  /** The connection is to be ended. */
  refused(err: PacketError): void
}

/** What CONNACK says with 0x88 and 0x8C: DISCONNECT has neither (section 3.14.2.1). */
const inDisconnect = Reason.NOT_AUTHORIZED

export class EnhancedAuth {
  /** Who the client has shown itself to be, and what CONNACK says of it. */
  proved: Identity | undefined
  lastWords: Properties | undefined
  readonly #method: string
  readonly #deps: EnhancedAuthDeps
  readonly #peer: AuthPeer
  /** Under way, over who this client is, */
  #exchange: RunningExchange | undefined
  #client!: ClientInfo
  /** and who it is by now, if it is in. */
  #current: Identity | undefined
  #clientsTurn = false
  #late: NodeJS.Timeout | undefined

  constructor(method: string, deps: EnhancedAuthDeps, peer: AuthPeer) {
    this.#method = method
    this.#deps = deps
    this.#peer = peer
  }

  /** CONNECT has come; throws a PacketError when nobody has its method [MQTT-4.12.0-1]. */
  connect(client: ClientInfo, data: Buffer | undefined): void {
    this.#begin(client, data && Buffer.from(data), undefined)
  }

  /**
   * AUTH has come; throws a PacketError when it is out of place.
   * @param current who the client is; undefined while CONNECT waits.
   */
  auth({ reason, method, data }: Auth, current: Identity | undefined): void {
    if (method !== this.#method) throw protocolError('AUTH with another method than CONNECT') // [MQTT-4.12.0-5]
    if (reason === Reason.REAUTHENTICATE) {
      if (current === undefined) throw protocolError('re-authentication before CONNACK') // [MQTT-4.12.1-1]
      if (this.#exchange !== undefined) throw protocolError('re-authentication within an exchange')
      this.#begin(current.client, data, current)
      return
    }
    if (this.#exchange === undefined || !this.#clientsTurn) throw protocolError('AUTH out of turn') // [MQTT-4.12.0-3]
    this.#clientsTurn = false
    this.#hear(this.#exchange.next(data))
  }

  /** The connection is gone, or the exchange is over. */
  end(): void {
    clearTimeout(this.#late)
    const exchange = this.#exchange
    this.#exchange = undefined
    this.#clientsTurn = false
    exchange?.end()
  }

  #begin(client: ClientInfo, data: Buffer | undefined, current: Identity | undefined): void {
    const gone = (): void => this.#refuse(Reason.SERVER_UNAVAILABLE, 'its authenticator was unloaded')
    const exchange = this.#deps.beginExchange(this.#method, gone)
    if (exchange === undefined)
      throw new PacketError(current ? inDisconnect : Reason.BAD_AUTHENTICATION_METHOD, 'no such authentication method')
    this.#exchange = exchange
    this.#client = client
    this.#current = current
    const late = (): void => this.#refuse(Reason.NOT_AUTHORIZED, 'the exchange takes too long')
    // While CONNECT waits, the connection's own limit stands.
    if (current !== undefined) this.#late = setTimeout(late, this.#deps.timeLimit)
    this.#hear(exchange.start(client, data, current !== undefined))
  }

  #hear(answer: Promise<AuthStep | 'failed'>): void {
    const exchange = this.#exchange
    void answer.then(turn => {
      if (exchange === this.#exchange && !this.#peer.gone()) this.#answered(turn) // else it was over meanwhile
    })
  }

  #answered(turn: AuthStep | 'failed'): void {
    if (turn === 'failed') return this.#refuse(Reason.SERVER_UNAVAILABLE, 'its authenticator failed')
    if (turn.result === 'refuse') return this.#refuse(Reason.NOT_AUTHORIZED, `refused by ${this.#method}`)
    const words = this.#words(turn.data)
    if (turn.result === 'continue') {
      if (!this.#say(Reason.CONTINUE_AUTHENTICATION, words)) return // [MQTT-4.12.0-2]
      this.#clientsTurn = true
      return
    }
    this.#succeeded(turn, words)
  }

  #succeeded({ username, superuser }: AuthStep & { result: 'success' }, words: Properties): void {
    const before = this.#current
    if (before === undefined) {
      // What CONNECT calls the client was not proved by anybody.
      const client = { ...this.#client, username: username ?? this.#peer.certificateName }
      this.lastWords = words
      return this.#admit(client, superuser)
    }
    // Its session and its topics are its user's: a client that wants to be somebody else connects anew.
    if (username !== undefined && username !== before.client.username) {
      return this.#refuse(Reason.NOT_AUTHORIZED, 're-authentication as another user')
    }
    if (!this.#say(Reason.SUCCESS, words)) return
    this.#admit(before.client, superuser)
  }

  #admit(client: ClientInfo, superuser = false): void {
    this.end()
    this.proved = this.#deps.identity(client, superuser === true)
    this.#peer.admitted(this.proved)
  }

  /** [MQTT-4.12.0-5] */
  #words(data: Uint8Array | undefined): Properties {
    const method = { authenticationMethod: this.#method }
    return data === undefined ? method : { ...method, authenticationData: Buffer.from(data) }
  }

  /** False when the client takes no packet of that size [MQTT-3.1.2-24], and so cannot go on. */
  #say(reason: ReasonCode, words: Properties): boolean {
    const bytes = auth(reason, words)
    if (bytes.length <= this.#peer.maximumPacketSize) {
      this.#peer.write(bytes)
      return true
    }
    this.#refuse(Reason.PACKET_TOO_LARGE, 'AUTH is over the maximum packet size of the client')
    return false
  }

  #refuse(reason: ReasonCode, why: string): void {
    if (this.#exchange === undefined || this.#peer.gone()) return
    const told = this.#current !== undefined && reason === Reason.SERVER_UNAVAILABLE ? inDisconnect : reason
    this.end()
    this.#peer.refused(new PacketError(told, why))
  }
}
