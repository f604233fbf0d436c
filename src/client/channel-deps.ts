/** What a channel needs of the broker: who judges, where sessions and messages go, and who is told. */
import type { Admission, Identity } from '../access/access.js'
import type { Action, ClientInfo } from '../base/client-info.js'
import type { ClientRef } from '../base/client-ref.js'
import type { Log } from '../base/log/log.js'
import type { Ingress } from '../delivery/ingress.js'
import type { ConnectionPolicy } from './aedes/policy.js'
import type { EnhancedAuthDeps } from './enhanced-auth.js'
import type { ChannelOptions } from './options.js'
import type { Sessions } from './sessions.js'

/** @template C the channel. */
export interface ChannelDeps<C> {
  readonly options: ChannelOptions
  readonly ingress: Ingress
  readonly sessions: Sessions
  readonly policy: ConnectionPolicy
  readonly auth: EnhancedAuthDeps
  readonly log: Log
  /** Who a client with a password is. */
  authenticate(client: ClientInfo, password: Buffer | undefined): Admission | Promise<Admission>
  authorize(identity: Identity, action: Action, topic: string): boolean | Promise<boolean>
  /** Why a client may not come in, whoever it proves to be. */
  banned(client: ClientRef): string | undefined
  /** A publish was denied: true when the connection is to be ended for it. */
  readonly denyDisconnects: boolean
  /** The client may not come in; `code` is that of its CONNACK, in MQTT 3.1.1's numbers. */
  refused(client: ClientInfo, code: number): void
  connected(channel: C): void
  /** Once, when its connection is over. */
  closed(channel: C): void
  subscribed(client: ClientInfo, filter: string, qos: number): void
  unsubscribed(client: ClientInfo, filter: string): void
}
