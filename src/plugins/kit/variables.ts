/**
 * The variables that an operator writes into queries, and what each is of a client: `%u`, `%c` and `%a`, emqttd's.
 *
 * A value is data: whoever fills it in binds it, or passes it as an argument of its own, and never writes it into
 * a text that is read again, since a client calls itself what it likes.
 */
import type { ClientInfo } from '../../base/client-info.js'

/** A client, as far as its variables go. */
export type VariableClient = Pick<ClientInfo, 'clientId' | 'username'> & { readonly peer: { readonly address: string } }

const values = {
  /** The user name; undefined for a client without one. */
  u: ({ username }: VariableClient): string | undefined => username,
  /** The client id. */
  c: ({ clientId }: VariableClient): string => clientId,
  /** Its IP address. */
  a: ({ peer }: VariableClient): string => peer.address
}

/** A variable without its %-sign. */
export type Variable = keyof typeof values

export const variables = Object.keys(values) as readonly Variable[]

/** What a variable is of this client; undefined when the client has no such thing. */
export const variableValue = (variable: Variable, client: VariableClient): string | undefined =>
  values[variable](client)

/** A client of no name, whom no row means: to try whether a query can be asked at all. */
export const nobody: VariableClient = { username: '', clientId: '', peer: { address: '' } }
