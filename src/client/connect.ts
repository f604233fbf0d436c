/**
 * CONNECT as far as it can be judged by itself, and what CONNACK says: with which code a
 * client is refused, and what one of MQTT 5 is promised. All of it is in the client's own
 * version: MQTT 3 has fewer words, and for some refusals none.
 */
import { isUtf8 } from 'node:buffer'
import type { ClientInfo } from '../base/client-info.js'
import { strayFlags } from '../wire/frame.js'
import type { Connect, Version } from '../wire/packets.js'
import type { Properties } from '../wire/properties.js'
import { malformed, PacketError, Reason, type ReasonCode } from '../wire/reason-codes.js'
import type { ChannelOptions } from './options.js'

/** The version that a CONNECT names which is wrong further on; undefined when it names none. */
export function versionSpoken(bytes: Buffer, at: number, end: number): Version | undefined {
  if (end - at < 7) return undefined
  const nameEnd = at + 2 + bytes.readUInt16BE(at)
  if (nameEnd >= end) return undefined
  const name = bytes.toString('latin1', at + 2, nameEnd)
  const level = bytes[nameEnd]! & 0x7f
  if (name === 'MQTT') return level >= 5 ? 5 : 4 // a later one is told in MQTT 5's words [MQTT-3.1.2-2]
  return name === 'MQIsdp' ? 3 : undefined
}

/** What is wrong with a CONNECT that could be read. @param header its first byte. */
export function faultOf(
  { clientId, version, cleanStart, will }: Connect,
  header: number,
  { checkPayloadFormat, maxClientidLen }: ChannelOptions
): PacketError | undefined {
  if (checkPayloadFormat && will?.properties.payloadFormatIndicator === 1 && !isUtf8(will.payload)) {
    return new PacketError(Reason.PAYLOAD_FORMAT_INVALID, 'payload of the will')
  }
  if (version !== 3 && strayFlags(header)) return malformed('flags of CONNECT')
  const idTooLong = Buffer.byteLength(clientId) > maxClientidLen
  if (idTooLong || (clientId === '' && (version === 3 || (version === 4 && !cleanStart)))) {
    return new PacketError(Reason.CLIENT_IDENTIFIER_NOT_VALID, 'client identifier')
  }
  return undefined
}

/** What CONNACK says of a refusal; undefined: the connection is closed without one. @param version if it is known. */
export function refusalCode(reason: ReasonCode, version: number | undefined): number | undefined {
  return version === 5 ? reason : codeOfReason.get(reason)
}

/** MQTT 3 has a return code for these. */
const codeOfReason = new Map<ReasonCode, number>([
  [Reason.UNSUPPORTED_PROTOCOL_VERSION, 1],
  [Reason.CLIENT_IDENTIFIER_NOT_VALID, 2],
  [Reason.BANNED, 5]
])

/** MQTT 3's return codes, as aedes has them, and MQTT 5's words for the same. */
const connackReason = new Map<number, ReasonCode>([
  [2, Reason.CLIENT_IDENTIFIER_NOT_VALID],
  [3, Reason.SERVER_UNAVAILABLE],
  [4, Reason.BAD_USER_NAME_OR_PASSWORD],
  [5, Reason.NOT_AUTHORIZED]
])

export const reasonOfCode = (code: number): ReasonCode => connackReason.get(code) ?? Reason.NOT_AUTHORIZED

/** Seconds that the client wants its session to outlive the connection. */
export function expiryAsked({ version, cleanStart, properties }: Connect, { sessionExpiry }: ChannelOptions): number {
  return version === 5 ? (properties.sessionExpiryInterval ?? 0) : cleanStart ? 0 : sessionExpiry
}

/** Seconds: the client's, but of MQTT 5 not over the limit; 0 is over any. */
export function keepAliveOf({ keepAlive, version }: Connect, { maxKeepalive }: ChannelOptions): number {
  if (version !== 5 || maxKeepalive === 0) return keepAlive
  return keepAlive === 0 ? maxKeepalive : Math.min(keepAlive, maxKeepalive)
}

/** @param pattern the listener's. */
export function mountpointOf(pattern: string, { clientId, username = '%u' }: ClientInfo): string {
  return pattern.replace(/%[cu]/g, name => (name === '%c' ? clientId : username))
}

/**
 * What CONNACK tells a client of MQTT 5: where we have less than it may take for granted.
 * @param clientId the one it has now.
 */
export function promisesOf(
  connect: Connect,
  options: ChannelOptions,
  clientId: string,
  askedExpiry: number,
  expiry: number
): Properties {
  const { receiveMaximum, maxPacketSize, topicAliasMaximum } = options
  const keepAlive = keepAliveOf(connect, options)
  return {
    ...(expiry === askedExpiry ? {} : { sessionExpiryInterval: expiry }),
    ...(keepAlive === connect.keepAlive ? {} : { serverKeepAlive: keepAlive }), // [MQTT-3.1.2-21]
    ...(connect.clientId === '' ? { assignedClientIdentifier: clientId } : {}),
    ...(receiveMaximum < 65_535 ? { receiveMaximum } : {}),
    maximumPacketSize: maxPacketSize,
    ...(topicAliasMaximum > 0 ? { topicAliasMaximum } : {})
  }
}
