/**
 * What an operator asks of a client, which may be there or made up: may it do this, would it
 * come in, why did it not get that. The answers are those that the client would meet, and
 * nothing comes of asking.
 */
import type { Access, AclExplanation, Identity, LoginTrial } from '../../access/access.js'
import type { Action, ClientInfo } from '../../base/client-info.js'
import type { ClientRef } from '../../base/client-ref.js'
import { BrokerError } from '../../base/errors.js'
import type { Ingress } from '../../delivery/ingress.js'
import type { Session } from '../../delivery/session/session.js'
import { addressIn, isLoopback } from '../../net/peer.js'
import { explainMessage, type MessageExplanation, type MessageQuestion } from './message.js'

/** A client that is connected. */
export interface OnlineClient {
  readonly identity: Identity | undefined
  readonly mountpoint: string
}

export interface ExplainDeps {
  readonly access: Access
  readonly ingress: Ingress
  readonly sessions: { get(clientId: string): Session | undefined }
  online(clientId: string): OnlineClient | undefined
}

export class Explain {
  readonly #deps: ExplainDeps

  constructor(deps: ExplainDeps) {
    this.#deps = deps
  }

  /** Why a client may or may not do something; one that is not connected is made up of what is said of it. */
  async explainAcl(who: Partial<ClientRef>, action: Action, topic: string): Promise<AclExplanation> {
    const { access, online } = this.#deps
    const channel = who.clientId === undefined ? undefined : online(who.clientId)
    const isReal = channel !== undefined && who.username === undefined && who.address === undefined
    const identity = isReal ? channel.identity! : access.identity(madeUp(who), false)
    return await access.explain(identity, action, topic)
  }

  /** Why a client did not get a message, or would not. */
  async whyMessage(question: MessageQuestion): Promise<MessageExplanation> {
    const { clientId, topic } = question
    const { ingress, sessions, online } = this.#deps
    if (!ingress.isTopic(topic)) throw new BrokerError('BAD_REQUEST', `not a topic: "${topic}"`)
    return await explainMessage(question, {
      ingress,
      session: sessions.get(clientId),
      mountpoint: online(clientId)?.mountpoint ?? '',
      isOnline: id => online(id) !== undefined,
      acl: (id, action, what) => this.explainAcl({ clientId: id }, action, what)
    })
  }

  /** What a login would come to. */
  async tryLogin(who: Partial<ClientRef>, password: string | undefined): Promise<LoginTrial> {
    return await this.#deps.access.tryLogin(madeUp(who), password === undefined ? undefined : Buffer.from(password))
  }
}

/** A client that might be. */
function madeUp({ clientId = '', username, address = '127.0.0.1' }: Partial<ClientRef>): ClientInfo {
  const spelled = addressIn(address)
  if (spelled === undefined) throw new BrokerError('BAD_REQUEST', `expected an IP address, got "${address}"`)
  return {
    clientId,
    username,
    peer: { address: spelled, port: 0 },
    local: isLoopback(spelled),
    listener: 'tcp:none',
    cleanSession: true,
    keepAlive: 0,
    protocolVersion: 4,
    connectedAt: new Date()
  }
}
