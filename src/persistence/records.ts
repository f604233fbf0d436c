/**
 * What the store holds, as bytes. Numbers are big-endian in keys, so that the records of
 * a session stand in the order in which they came, and little-endian in values.
 *
 *   session       client id                → JSON, see SessionRecord
 *   subscription  session number, filter   → options, identifier, filter
 *   entry         session number, sequence → a message on its way to a session, see EntryRecord
 *   message       number                   → a message that is on its way to more than one
 *   incoming      session number, id       → nothing: a QoS 2 message came in and was not released
 *   retained      topic                    → a message
 */
import { createHash } from 'node:crypto'
import type { ClientInfo } from '../base/client-info.js'
import { Message } from '../delivery/message.js'
import type { QoS } from '../wire/frame.js'

/** A key of LMDB has at most 1978 bytes. */
const maxText = 1000

/** Longer texts are known by their hash; none begins with the NUL that tells them apart [MQTT-1.5.4-2]. */
export function textKey(text: string): Buffer {
  const bytes = Buffer.from(text)
  return bytes.length > 0 && bytes.length <= maxText ? bytes : hashed(bytes)
}

const hashed = (bytes: Buffer): Buffer => Buffer.concat([Buffer.of(0), createHash('sha256').update(bytes).digest()])

export function numberKey(id: number): Buffer {
  const key = Buffer.allocUnsafe(6)
  key.writeUIntBE(id, 0, 6)
  return key
}

/** @param sequence or a packet identifier. */
export function pairKey(session: number, sequence: number): Buffer {
  const key = Buffer.allocUnsafe(12)
  key.writeUIntBE(session, 0, 6)
  key.writeUIntBE(sequence, 6, 6)
  return key
}

export const subscriptionKey = (session: number, filter: string): Buffer =>
  Buffer.concat([numberKey(session), textKey(filter)])

export const firstOf = (key: Buffer): number => key.readUIntBE(0, 6)
export const secondOf = (key: Buffer): number => key.readUIntBE(6, 6)

// ── subscriptions ────────────────────────────────────────────────────────────

export interface SubscriptionRecord {
  readonly filter: string
  readonly qos: QoS
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly identifier: number
}

export function encodeSubscription(record: SubscriptionRecord): Buffer {
  const { filter, qos, noLocal, retainAsPublished, identifier } = record
  const value = Buffer.allocUnsafe(5 + Buffer.byteLength(filter))
  value[0] = qos | (noLocal ? 4 : 0) | (retainAsPublished ? 8 : 0)
  value.writeUInt32LE(identifier, 1)
  value.write(filter, 5)
  return value
}

export function decodeSubscription<S>(value: Buffer, subscriber: S): SubscriptionRecord & { readonly subscriber: S } {
  const options = value[0]!
  return {
    subscriber,
    filter: value.toString('utf8', 5),
    qos: (options & 3) as QoS,
    noLocal: (options & 4) !== 0,
    retainAsPublished: (options & 8) !== 0,
    identifier: value.readUInt32LE(1)
  }
}

// ── messages ─────────────────────────────────────────────────────────────────

// qos and retain (1), expiresAt (8), expiryAt (4), lengths of from, topic and properties (4 each), then these and the payload
const messageHead = 25
const noFrom = 0xffffffff

export function messageLength(message: Message): number {
  return messageHead + Buffer.byteLength(message.from ?? '') + message.weight
}

export function encodeMessage(message: Message, into: Buffer, start: number): number {
  const { bytes, topicAt, topicEnd, propertiesAt, propertiesEnd, payloadAt, end, from } = message
  into[start] = message.qos | (message.retain ? 4 : 0)
  into.writeDoubleLE(message.expiresAt, start + 1)
  into.writeInt32LE(message.expiryAt, start + 9)
  into.writeUInt32LE(topicEnd - topicAt, start + 17) // with its own length, which makes it more than 65 535
  into.writeUInt32LE(propertiesEnd - propertiesAt, start + 21)
  let at = start + messageHead
  if (from === undefined) into.writeUInt32LE(noFrom, start + 13)
  else {
    const length = into.write(from, at)
    into.writeUInt32LE(length, start + 13)
    at += length
  }
  at += bytes.copy(into, at, topicAt, topicEnd)
  at += bytes.copy(into, at, propertiesAt, propertiesEnd)
  at += bytes.copy(into, at, payloadAt, end)
  return at
}

export function decodeMessage(bytes: Buffer, start: number): Message {
  const from = bytes.readUInt32LE(start + 13)
  const at = start + messageHead + (from === noFrom ? 0 : from)
  const lengths = [bytes.readUInt32LE(start + 17), bytes.readUInt32LE(start + 21)] as const
  const message = Message.restored(bytes, at, bytes.length, lengths)
  message.qos = (bytes[start]! & 3) as QoS
  message.retain = (bytes[start]! & 4) !== 0
  message.expiresAt = bytes.readDoubleLE(start + 1)
  message.expiryAt = bytes.readInt32LE(start + 9)
  if (from !== noFrom) message.from = bytes.toString('utf8', start + messageHead, at)
  return message
}

export function messageRecord(message: Message): Buffer {
  const value = Buffer.allocUnsafe(messageLength(message))
  encodeMessage(message, value, 0)
  return value
}

// ── entries ──────────────────────────────────────────────────────────────────

export interface EntryRecord {
  readonly qos: QoS
  readonly retain: boolean
  readonly identifiers: readonly number[] | undefined
  /** Filter of the shared subscription that it came through, `$share/g/a/#`. */
  readonly shared: string | undefined
  /** The message, or the number that it is kept under; undefined when the client has it and only PUBREL is missing. */
  readonly message: Message | number | undefined
}

const retainBit = 4
const inlineBit = 8
const numberedBit = 16
// these (1), number of identifiers (2), length of shared (2)
const entryHead = 5

export function encodeEntry({ qos, retain, identifiers = [], shared = '', message }: EntryRecord): Buffer {
  const isInline = typeof message === 'object'
  const sharedLength = Buffer.byteLength(shared)
  const body = isInline ? messageLength(message) : message === undefined ? 0 : 6
  const value = Buffer.allocUnsafe(entryHead + 4 * identifiers.length + sharedLength + body)
  value[0] = qos | (retain ? retainBit : 0) | (isInline ? inlineBit : message === undefined ? 0 : numberedBit)
  value.writeUInt16LE(identifiers.length, 1)
  value.writeUInt16LE(sharedLength, 3)
  let at = entryHead
  for (const identifier of identifiers) at = value.writeUInt32LE(identifier, at)
  at += value.write(shared, at)
  if (isInline) encodeMessage(message, value, at)
  else if (message !== undefined) value.writeUIntBE(message, at, 6)
  return value
}

export function decodeEntry(value: Buffer): EntryRecord {
  const flags = value[0]!
  const count = value.readUInt16LE(1)
  const identifiers = Array.from({ length: count }, (_, i) => value.readUInt32LE(entryHead + 4 * i))
  const sharedAt = entryHead + 4 * count
  const at = sharedAt + value.readUInt16LE(3)
  return {
    qos: (flags & 3) as QoS,
    retain: (flags & retainBit) !== 0,
    identifiers: count === 0 ? undefined : identifiers,
    shared: at === sharedAt ? undefined : value.toString('utf8', sharedAt, at),
    message: flags & inlineBit ? decodeMessage(value, at) : flags & numberedBit ? value.readUIntBE(at, 6) : undefined
  }
}

// ── sessions ─────────────────────────────────────────────────────────────────

/** What the store has of a session beside its subscriptions and messages, in JSON. Times are milliseconds since 1970. */
export interface SessionRecord {
  /** By which its other records know it. */
  readonly id: number
  readonly clientId: string
  readonly createdAt: number
  /** Seconds. */
  readonly expiry: number
  /** Since when its client is away; null: it was there. */
  readonly awayAt: number | null
  /** Not yet sent. */
  readonly will: WillRecord | null
  /** Packet ids under way, in order, while its client is away. */
  readonly underWay: readonly number[]
}

/** The will of a session's client, not yet sent; bytes are base64. */
export interface WillRecord {
  readonly topic: string
  readonly payload: string
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
  readonly properties: string
  readonly delay: number
  readonly mountpoint: string
  readonly superuser: boolean
  readonly client: Omit<ClientInfo, 'connectedAt'> & { readonly connectedAt: string }
}
