/**
 * With which reason code DISCONNECT tells a client of MQTT 5 why its connection ends. An end
 * that is not here goes without one, unless a fault of the client's brought it about.
 */
import type { EndReason } from '../base/client-info.js'
import type { FrameFault } from '../wire/frame.js'
import { Reason, type ReasonCode } from '../wire/reason-codes.js'

export const reasonOfEnd: Partial<Record<EndReason, ReasonCode>> = {
  keepalive_timeout: Reason.KEEP_ALIVE_TIMEOUT,
  takeover: Reason.SESSION_TAKEN_OVER,
  kicked: Reason.ADMINISTRATIVE_ACTION,
  banned: Reason.BANNED,
  listener_closed: Reason.ADMINISTRATIVE_ACTION,
  shutdown: Reason.SERVER_SHUTTING_DOWN,
  packet_too_large: Reason.PACKET_TOO_LARGE,
  not_authorized: Reason.NOT_AUTHORIZED
}

export const reasonOfFault: Record<FrameFault, ReasonCode> = {
  malformed: Reason.MALFORMED_PACKET,
  unexpected: Reason.PROTOCOL_ERROR,
  too_large: Reason.PACKET_TOO_LARGE
}
