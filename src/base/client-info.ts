/**
 * Who a client is, what it may ask for and how its connection ends, in the words of hooks, logs and lists. Everything
 * above wire/ speaks of clients in these types.
 */

export interface Peer {
  /** IP address, without IPv4-in-IPv6 dressing. */
  readonly address: string
  readonly port: number
}

export interface ClientInfo {
  readonly clientId: string
  readonly username: string | undefined
  readonly peer: Peer
  /** Whether the peer is this host; a web page of another site in a browser here is not. */
  readonly local: boolean
  /** Which listener it came through: `tcp:external`. */
  readonly listener: string
  readonly cleanSession: boolean
  /** Seconds; 0 is none. */
  readonly keepAlive: number
  /** 3 is MQTT 3.1, 4 is MQTT 3.1.1. */
  readonly protocolVersion: number
  readonly connectedAt: Date
}

export type Action = 'publish' | 'subscribe'

/** Why a connection ended, in the words of the log, `listeners` and the `client.disconnected` hook. */
export type EndReason =
  | 'normal' // the client sent DISCONNECT
  | 'closed' // the peer closed the connection
  | 'keepalive_timeout'
  | 'idle_timeout' // no CONNECT within mqtt.client.idle_timeout
  | 'send_timeout' // the peer does not read
  | 'takeover' // another connection with the same client id
  | 'kicked'
  | 'banned' // while it was connected
  | 'listener_closed' // the listener it came through was taken out of the configuration
  | 'protocol_error'
  | 'packet_too_large'
  | 'not_authorized' // by the ACL, where mqtt.acl_deny_action = disconnect; or a re-authentication that failed
  | 'refused' // CONNECT was answered with a code other than 0
  | 'shutdown'
  | 'error'
