/**
 * The control packets that a client sends, read whole and checked against every
 * clause that their bytes can break; and those that are sent back. A packet that
 * passes here holds nothing that the rest of the broker need doubt.
 */

import { PacketType, type QoS } from './frame.js'
import { encodeProperties, In, lengthBytes, type Properties, readProperties } from './properties.js'
import { Reader } from './reader.js'
import { malformed, PacketError, protocolError, Reason, type ReasonCode } from './reason-codes.js'
import { isTopicFilter, isTopicName, splitShared } from './topic.js'

/** 3 is MQTT 3.1, 4 is MQTT 3.1.1. */
export type Version = 3 | 4 | 5

export interface Will {
  readonly topic: string
  readonly payload: Buffer
  readonly qos: QoS
  readonly retain: boolean
  /** To be sent with it; the delay is not among them. */
  readonly properties: Properties
  /** Seconds. */
  readonly delay: number
}

export interface Connect {
  readonly version: Version
  readonly clientId: string
  readonly cleanStart: boolean
  /** Seconds. */
  readonly keepAlive: number
  readonly will: Will | undefined
  readonly username: string | undefined
  readonly password: Buffer | undefined
  readonly properties: Properties
}

export interface SubscribeRequest {
  readonly filter: string
  readonly qos: QoS
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  /** 0: retained messages are sent; 1: only for a new subscription; 2: never. */
  readonly retainHandling: number
}

export interface Subscribe {
  readonly packetId: number
  readonly requests: readonly SubscribeRequest[]
  /** 0 is none. */
  readonly identifier: number
}

export interface Unsubscribe {
  readonly packetId: number
  readonly filters: readonly string[]
}

/** @param at where the packet's variable header begins. */
export function readConnect(bytes: Buffer, at: number, end: number): Connect {
  const reader = new Reader(bytes, at, end)
  const name = reader.text()
  const level = reader.byte() & 0x7f // a bridge sets the top bit
  if (name !== 'MQTT' && name !== 'MQIsdp') throw malformed(`no protocol of ours: ${JSON.stringify(name)}`)
  const version = name === 'MQIsdp' ? (level === 3 ? 3 : undefined) : level === 4 || level === 5 ? level : undefined
  if (version === undefined) {
    throw new PacketError(Reason.UNSUPPORTED_PROTOCOL_VERSION, `protocol ${name}, level ${level}`) // [MQTT-3.1.2-2]
  }
  const flags = reader.byte()
  if ((flags & 1) !== 0 && version !== 3) throw malformed('reserved flag of CONNECT') // [MQTT-3.1.2-3]
  const hasWill = (flags & 4) !== 0
  const willQoS = (flags >> 3) & 3
  if (willQoS === 3 || (!hasWill && (flags & 0x38) !== 0)) throw malformed('will flags of CONNECT') // [MQTT-3.1.2-11], [MQTT-3.1.2-14]
  if (version !== 5 && (flags & 0xc0) === 0x40) throw malformed('a password without a user name') // [MQTT-3.1.2-22]
  const keepAlive = reader.uint16()
  const properties = version === 5 ? readProperties(reader, In.CONNECT) : {}
  if (properties.authenticationData !== undefined && properties.authenticationMethod === undefined) {
    throw protocolError('authentication data without a method') // section 3.1.2.11.10
  }
  const clientId = reader.text()
  const will = hasWill ? readWill(reader, version, willQoS as QoS, (flags & 0x20) !== 0) : undefined
  const username = (flags & 0x80) !== 0 ? reader.text() : undefined
  const password = (flags & 0x40) !== 0 ? Buffer.from(reader.binary()) : undefined
  reader.done()
  return { version, clientId, cleanStart: (flags & 2) !== 0, keepAlive, will, username, password, properties }
}

function readWill(reader: Reader, version: Version, qos: QoS, retain: boolean): Will {
  const { willDelayInterval = 0, ...properties } = version === 5 ? readProperties(reader, In.WILL) : {}
  const topic = reader.text()
  if (!isTopicName(topic)) throw new PacketError(Reason.TOPIC_NAME_INVALID, 'will topic')
  checkResponseTopic(properties)
  return { topic, payload: Buffer.from(reader.binary()), qos, retain, properties, delay: willDelayInterval }
}

/** A response topic is a topic name [MQTT-3.3.2-14]. */
export function checkResponseTopic({ responseTopic }: Properties): void {
  if (responseTopic !== undefined && !isTopicName(responseTopic)) throw protocolError('response topic')
}

function packetId(reader: Reader): number {
  const id = reader.uint16()
  if (id === 0) throw protocolError('packet identifier 0') // [MQTT-2.2.1-3]
  return id
}

export function readSubscribe(bytes: Buffer, at: number, end: number, version: Version): Subscribe {
  const reader = new Reader(bytes, at, end)
  const id = packetId(reader)
  const { subscriptionIdentifier = 0 } = version === 5 ? readProperties(reader, In.SUBSCRIBE) : {}
  const requests: SubscribeRequest[] = []
  while (reader.left > 0) {
    const filter = reader.text()
    const options = reader.byte()
    if ((options & (version === 5 ? 0xc0 : 0xfc)) !== 0) {
      throw malformed('subscription options') // [MQTT-3.8.3-5], [MQTT-3-8.3-4]
    }
    if ((options & 3) === 3) throw protocolError('subscription of QoS 3') // section 3.8.3.1
    const retainHandling = (options >> 4) & 3
    if (retainHandling === 3) throw protocolError('retain handling 3')
    const noLocal = (options & 4) !== 0
    if (!isTopicFilter(filter)) throw malformed('topic filter') // [MQTT-4.7.1-2]; 0x8F is for one that is well-formed
    if (noLocal && splitShared(filter).group !== undefined) throw protocolError('no local on a shared subscription') // [MQTT-3.8.3-4]
    requests.push({
      filter,
      qos: (options & 3) as QoS,
      noLocal,
      retainAsPublished: (options & 8) !== 0,
      retainHandling
    })
  }
  if (requests.length === 0) throw protocolError('SUBSCRIBE without a filter') // [MQTT-3.8.3-2]
  return { packetId: id, requests, identifier: subscriptionIdentifier }
}

export function readUnsubscribe(bytes: Buffer, at: number, end: number, version: Version): Unsubscribe {
  const reader = new Reader(bytes, at, end)
  const id = packetId(reader)
  if (version === 5) readProperties(reader, In.UNSUBSCRIBE)
  const filters: string[] = []
  while (reader.left > 0) {
    const filter = reader.text()
    if (!isTopicFilter(filter)) throw malformed('topic filter')
    filters.push(filter)
  }
  if (filters.length === 0) throw protocolError('UNSUBSCRIBE without a filter') // [MQTT-3.10.3-2]
  return { packetId: id, filters }
}

/** Of PUBACK and PUBREC (3.4.2.1), then of PUBREL and PUBCOMP (3.6.2.1). */
const answers = new Set<number>([
  ...[Reason.SUCCESS, Reason.NO_MATCHING_SUBSCRIBERS, Reason.UNSPECIFIED_ERROR, Reason.IMPLEMENTATION_SPECIFIC_ERROR],
  ...[Reason.NOT_AUTHORIZED, Reason.TOPIC_NAME_INVALID, Reason.PACKET_IDENTIFIER_IN_USE],
  ...[Reason.QUOTA_EXCEEDED, Reason.PAYLOAD_FORMAT_INVALID]
])
const releases = new Set<number>([Reason.SUCCESS, Reason.PACKET_IDENTIFIER_NOT_FOUND])

/** PUBACK, PUBREC, PUBREL, PUBCOMP that say more than a packet identifier. */
export function readAck(
  type: number,
  bytes: Buffer,
  at: number,
  end: number,
  version: Version
): { packetId: number; reason: number } {
  const reader = new Reader(bytes, at, end)
  const id = packetId(reader)
  let reason = 0
  if (version === 5 && reader.left > 0) {
    reason = reader.byte()
    const known = type === PacketType.PUBACK || type === PacketType.PUBREC ? answers : releases
    if (!known.has(reason)) throw protocolError(`reason code ${reason}`) // [MQTT-3.4.2-1], [MQTT-3.6.2-1]
    if (reader.left > 0) readProperties(reader, In.ACK)
  }
  reader.done()
  return { packetId: id, reason }
}

export function readDisconnect(
  bytes: Buffer,
  at: number,
  end: number,
  version: Version
): { reason: number; properties: Properties } {
  const reader = new Reader(bytes, at, end)
  const reason = version === 5 && reader.left > 0 ? reader.byte() : 0
  const properties = version === 5 && reader.left > 0 ? readProperties(reader, In.DISCONNECT) : {}
  reader.done()
  return { reason, properties }
}

export interface Auth {
  readonly reason: number
  readonly method: string
  readonly data: Buffer | undefined
}

/** A client's AUTH; without a reason it is 0x00 (section 3.15.2.1), and so without the method that it must name. */
export function readAuth(bytes: Buffer, at: number, end: number): Auth {
  const reader = new Reader(bytes, at, end)
  const reason = reader.left > 0 ? reader.byte() : Reason.SUCCESS
  const properties = reader.left > 0 ? readProperties(reader, In.AUTH) : {}
  reader.done()
  const { authenticationMethod: method, authenticationData } = properties
  if (reason !== Reason.CONTINUE_AUTHENTICATION && reason !== Reason.REAUTHENTICATE) {
    throw protocolError(`AUTH with reason ${reason}`) // [MQTT-3.15.2-1]; 0x00 is the server's
  }
  if (method === undefined) throw protocolError('AUTH without a method') // section 3.15.2.2.2
  return { reason, method, data: authenticationData && Buffer.from(authenticationData) }
}

// ── what is sent back ────────────────────────────────────────────────────────

/** A whole packet: the header, the length and the body. */
export const packet = (header: number, ...body: Buffer[]): Buffer => {
  const length = body.reduce((sum, part) => sum + part.length, 0)
  return Buffer.concat([Buffer.from([header]), lengthBytes(length), ...body])
}

const withProperties = (properties: Properties): Buffer => {
  const bytes = encodeProperties(properties)
  return Buffer.concat([lengthBytes(bytes.length), bytes])
}

/** @param code a return code in 3.1 and 3.1.1, a reason code in MQTT 5. */
export function connack(version: Version, sessionPresent: boolean, code: number, properties: Properties = {}): Buffer {
  const head = Buffer.from([sessionPresent && code === 0 ? 1 : 0, code]) // [MQTT-3.2.2-6]
  return version === 5 ? packet(0x20, head, withProperties(properties)) : packet(0x20, head)
}

export function suback(version: Version, id: number, codes: readonly number[]): Buffer {
  return acknowledgement(0x90, version, id, codes)
}

/** MQTT 3 has no codes in it. */
export function unsuback(version: Version, id: number, codes: readonly number[]): Buffer {
  return acknowledgement(0xb0, version, id, version === 5 ? codes : [])
}

function acknowledgement(header: number, version: Version, id: number, codes: readonly number[]): Buffer {
  const head = Buffer.from([id >> 8, id & 255])
  return packet(header, head, ...(version === 5 ? [Buffer.from([0])] : []), Buffer.from(codes))
}

/** PUBACK, PUBREC, PUBREL or PUBCOMP of MQTT 5 with a reason. */
export function ackWithReason(header: number, id: number, reason: ReasonCode): Buffer {
  return Buffer.from([header, 3, id >> 8, id & 255, reason])
}

/** Of MQTT 5; the server sends no other. */
export function disconnect(reason: ReasonCode, properties: Properties = {}): Buffer {
  const bytes = encodeProperties(properties)
  return packet(0xe0, Buffer.from([reason]), ...(bytes.length > 0 ? [lengthBytes(bytes.length), bytes] : []))
}

/** Of MQTT 5, with the method of CONNECT [MQTT-4.12.0-5]. */
export function auth(reason: ReasonCode, properties: Properties): Buffer {
  return packet(0xf0, Buffer.from([reason]), withProperties(properties))
}
