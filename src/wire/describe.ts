/**
 * Takes a packet apart for a person to read, whichever side sent it: its fields under their
 * usual names, no more of a payload than a preview, and of what proves who a client is
 * nothing at all. A packet that is wrong is shown as far as that.
 */
import { isUtf8 } from 'node:buffer'
import { PacketType } from './frame.js'
import { readConnect, readSubscribe, readUnsubscribe } from './packets.js'
import { readAnyProperties } from './properties.js'
import { Reader } from './reader.js'
import { PacketError, Reason } from './reason-codes.js'

/** Plain data. */
export type Described = { type: string } & Record<string, unknown>

export const masked = '******'

const names = new Map<number, string>(Object.entries(PacketType).map(([name, type]) => [type, name]))
const reasons = new Map<number, string>(Object.entries(Reason).map(([name, code]) => [code, name]))

/** `0x87 NOT_AUTHORIZED` */
export const sayReason = (code: number): string => {
  const name = reasons.get(code)
  return `0x${code.toString(16).padStart(2, '0')}${name === undefined ? '' : ` ${name}`}`
}

/**
 * @param at where the variable header begins.
 * @param version of the connection; a CONNECT says its own.
 * @param preview bytes of a payload that are shown.
 */
export function describe(
  bytes: Buffer,
  start: number,
  at: number,
  end: number,
  version: 4 | 5,
  preview: number
): Described {
  const head = bytes[start]!
  const type = names.get(head >> 4) ?? String(head >> 4)
  const fields: Described = { type }
  try {
    read(fields, head, new Reader(bytes, at, end), version, preview)
  } catch (err) {
    if (!(err instanceof PacketError)) throw err
    fields['malformed'] = err.message
  }
  return fields
}

function read(fields: Described, head: number, reader: Reader, version: 4 | 5, preview: number): void {
  const { bytes, at, end } = reader
  switch (head >> 4) {
    case PacketType.CONNECT:
      return readClient(fields, bytes, at, end, preview)
    case PacketType.CONNACK:
      fields['session_present'] = (reader.byte() & 1) === 1
      return readCode(fields, reader, version, 'return_code')
    case PacketType.PUBLISH: {
      const qos = (head >> 1) & 3
      Object.assign(fields, { qos, retain: (head & 1) === 1, dup: (head & 8) !== 0, topic: reader.text() })
      if (qos > 0) fields['packet_id'] = reader.uint16()
      readThem(fields, reader, version)
      Object.assign(fields, previewOf(bytes.subarray(reader.at, end), preview))
      return
    }
    case PacketType.PUBACK:
    case PacketType.PUBREC:
    case PacketType.PUBREL:
    case PacketType.PUBCOMP:
      fields['packet_id'] = reader.uint16()
      return readCode(fields, reader, version)
    case PacketType.SUBSCRIBE: {
      const { packetId, requests, identifier } = readSubscribe(bytes, at, end, version)
      fields['packet_id'] = packetId
      if (identifier !== 0) fields['subscription_identifier'] = identifier
      fields['filters'] = requests.map(({ filter, qos, noLocal, retainAsPublished, retainHandling }) => ({
        filter,
        qos,
        ...(version === 5
          ? { no_local: noLocal, retain_as_published: retainAsPublished, retain_handling: retainHandling }
          : {})
      }))
      return
    }
    case PacketType.UNSUBSCRIBE: {
      const { packetId, filters } = readUnsubscribe(bytes, at, end, version)
      Object.assign(fields, { packet_id: packetId, filters })
      return
    }
    case PacketType.SUBACK:
    case PacketType.UNSUBACK: {
      fields['packet_id'] = reader.uint16()
      readThem(fields, reader, version)
      const codes = [...bytes.subarray(reader.at, end)]
      if (codes.length > 0) fields['codes'] = codes
      return
    }
    case PacketType.DISCONNECT:
    case PacketType.AUTH:
      return readCode(fields, reader, version)
  }
}

function readClient(fields: Described, bytes: Buffer, at: number, end: number, preview: number): void {
  const { version, clientId, cleanStart, keepAlive, will, username, password, properties } = readConnect(bytes, at, end)
  Object.assign(fields, {
    version,
    client_id: clientId,
    clean_start: cleanStart,
    keep_alive: keepAlive,
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password: masked })
  })
  if (will !== undefined) {
    const { topic, qos, retain, delay, payload } = will
    fields['will'] = {
      topic,
      qos,
      retain,
      delay,
      ...shown(will.properties),
      ...previewOf(payload, preview)
    }
  }
  Object.assign(fields, shown(properties))
}

/** What MQTT 5 says of the outcome, and MQTT 3 only in CONNACK. */
function readCode(fields: Described, reader: Reader, version: 4 | 5, name = 'reason'): void {
  if (reader.left === 0) return
  const code = reader.byte()
  if (version === 5) fields['reason'] = sayReason(code)
  else fields[name] = code
  readThem(fields, reader, version)
}

function readThem(fields: Described, reader: Reader, version: 4 | 5): void {
  if (version === 5 && reader.left > 0) Object.assign(fields, shown(readAnyProperties(reader)))
}

/** Without what proves who a client is; bytes in hexadecimal. */
function shown(properties: Readonly<Record<string, unknown>>): { properties?: Record<string, unknown> } {
  const entries = Object.entries(properties).map(([name, value]) => {
    if (name === 'authenticationData') return [name, masked]
    return [name, Buffer.isBuffer(value) ? value.toString('hex') : value]
  })
  return entries.length === 0 ? {} : { properties: Object.fromEntries(entries) }
}

/** As text where it is some, else in hexadecimal; and its size when that is not all of it. */
function previewOf(payload: Buffer, most: number): Record<string, unknown> {
  let part = payload.subarray(0, most)
  if (part.length < payload.length) {
    let cut = part.length // not within a character
    while (cut > 0 && part.length - cut < 3 && (payload[cut]! & 0xc0) === 0x80) cut--
    if (isUtf8(part.subarray(0, cut))) part = part.subarray(0, cut)
  }
  const size = { payload_size: payload.length }
  if (most === 0) return size
  const text = isUtf8(part) ? part.toString() : undefined
  const isText = text !== undefined && !/[\u0000-\u0008\u000e-\u001f\u007f]/.test(text)
  return { ...size, ...(isText ? { payload: text } : { payload_hex: part.toString('hex') }) }
}
