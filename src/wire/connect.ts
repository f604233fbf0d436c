/**
 * The front of a CONNECT packet: as much as decides, before anything else looks
 * at it, which protocol the client speaks and whether its identifier will do.
 */

export interface ConnectFront {
  /** `MQTT`, or `MQIsdp` of MQTT 3.1. */
  readonly protocolName: string
  /** 3 is MQTT 3.1, 4 is MQTT 3.1.1, 5 is MQTT 5. */
  readonly protocolLevel: number
  readonly cleanSession: boolean
  /** In bytes; undefined when the protocol is not one whose layout is known. */
  readonly clientIdLength: number | undefined
}

/** Undefined: the packet is malformed. */
export function readConnectFront(frame: Buffer): ConnectFront | undefined {
  let at = 1
  while (frame[at]! >= 128) at++
  at++
  const name = text(frame, at)
  if (name === undefined) return undefined
  at += 2 + name.length
  const level = frame[at]
  const flags = frame[at + 1]
  if (level === undefined || flags === undefined) return undefined
  const protocolName = name.toString('latin1')
  const protocolLevel = level & 0x7f // a bridge sets the top bit
  const front = { protocolName, protocolLevel, cleanSession: (flags & 2) !== 0 }
  if (protocolLevel > 4 || frame.length < at + 6) return { ...front, clientIdLength: undefined }
  return { ...front, clientIdLength: frame.readUInt16BE(at + 4) }
}

/** Return codes of a 3.1.1 CONNACK, table 3.1. */
export const ConnackCode = {
  ACCEPTED: 0,
  UNACCEPTABLE_PROTOCOL: 1,
  IDENTIFIER_REJECTED: 2,
  SERVER_UNAVAILABLE: 3,
  BAD_USERNAME_OR_PASSWORD: 4,
  NOT_AUTHORIZED: 5
} as const

export const connack = (code: number): Buffer => Buffer.from([0x20, 2, 0, code])

/** CONNACK of MQTT 5 with reason code 0x84, Unsupported Protocol Version, and no properties. */
export const connackUnsupportedVersion5 = Buffer.from([0x20, 3, 0, 0x84, 0])

function text(frame: Buffer, at: number): Buffer | undefined {
  if (frame.length < at + 2) return undefined
  const end = at + 2 + frame.readUInt16BE(at)
  return end <= frame.length ? frame.subarray(at + 2, end) : undefined
}
