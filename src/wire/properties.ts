/** MQTT 5's properties: which there are, what they hold, in which packets they may stand (section 2.2.2.2). */
import { lengthOf, writeLength } from './encode.js'
import type { Reader } from './reader.js'
import { malformed, protocolError } from './reason-codes.js'

type Kind = 'byte' | 'flag' | 'uint16' | 'uint32' | 'length' | 'text' | 'binary' | 'pair'

/** Packets that carry properties, one bit each; WILL stands for those in CONNECT's payload. */
export const In = {
  CONNECT: 1,
  CONNACK: 2,
  PUBLISH: 4,
  WILL: 8,
  ACK: 16,
  SUBSCRIBE: 32,
  SUBACK: 64,
  UNSUBSCRIBE: 128,
  DISCONNECT: 256,
  AUTH: 512
} as const

const message = In.PUBLISH | In.WILL
const everywhere = 1023

/** `[name, identifier, kind, packets]` */
const table = [
  ['payloadFormatIndicator', 0x01, 'flag', message],
  ['messageExpiryInterval', 0x02, 'uint32', message],
  ['contentType', 0x03, 'text', message],
  ['responseTopic', 0x08, 'text', message],
  ['correlationData', 0x09, 'binary', message],
  ['subscriptionIdentifier', 0x0b, 'length', In.SUBSCRIBE | In.PUBLISH],
  ['sessionExpiryInterval', 0x11, 'uint32', In.CONNECT | In.CONNACK | In.DISCONNECT],
  ['assignedClientIdentifier', 0x12, 'text', In.CONNACK],
  ['serverKeepAlive', 0x13, 'uint16', In.CONNACK],
  ['authenticationMethod', 0x15, 'text', In.CONNECT | In.CONNACK | In.AUTH],
  ['authenticationData', 0x16, 'binary', In.CONNECT | In.CONNACK | In.AUTH],
  ['requestProblemInformation', 0x17, 'flag', In.CONNECT],
  ['willDelayInterval', 0x18, 'uint32', In.WILL],
  ['requestResponseInformation', 0x19, 'flag', In.CONNECT],
  ['responseInformation', 0x1a, 'text', In.CONNACK],
  ['serverReference', 0x1c, 'text', In.CONNACK | In.DISCONNECT],
  ['reasonString', 0x1f, 'text', In.CONNACK | In.ACK | In.SUBACK | In.DISCONNECT | In.AUTH],
  ['receiveMaximum', 0x21, 'uint16', In.CONNECT | In.CONNACK],
  ['topicAliasMaximum', 0x22, 'uint16', In.CONNECT | In.CONNACK],
  ['topicAlias', 0x23, 'uint16', In.PUBLISH],
  ['maximumQoS', 0x24, 'flag', In.CONNACK],
  ['retainAvailable', 0x25, 'flag', In.CONNACK],
  ['userProperty', 0x26, 'pair', everywhere],
  ['maximumPacketSize', 0x27, 'uint32', In.CONNECT | In.CONNACK],
  ['wildcardSubscriptionAvailable', 0x28, 'flag', In.CONNACK],
  ['subscriptionIdentifiersAvailable', 0x29, 'flag', In.CONNACK],
  ['sharedSubscriptionAvailable', 0x2a, 'flag', In.CONNACK]
] as const satisfies readonly (readonly [string, number, Kind, number])[]

type Entry = (typeof table)[number]
type ValueOf<K extends Kind> = K extends 'text'
  ? string
  : K extends 'binary'
    ? Buffer
    : K extends 'pair'
      ? [string, string][]
      : number

/** The properties of a packet, by name. */
export type Properties = { -readonly [E in Entry as E[0]]?: ValueOf<E[2]> }

const byId = new Map<number, Entry>(table.map(entry => [entry[1], entry]))
const byName = new Map<string, Entry>(table.map(entry => [entry[0], entry]))

/** Values that the specification calls a protocol error. */
const forbidZero = new Set(['receiveMaximum', 'maximumPacketSize', 'subscriptionIdentifier'])

/**
 * Reads the properties of a packet, their length first. `each` is told where one begins and ends. User properties,
 * which say nothing to the broker, can be left out of what is returned; they are checked all the same.
 * One that may not stand there makes the packet malformed (section 2.2.2.2); one twice is a protocol error.
 */
export function readProperties(
  reader: Reader,
  packet: number,
  each?: (id: number, from: number, to: number) => void,
  leaveOutPairs = false
): Properties {
  const length = reader.length()
  if (length > reader.left) throw malformed('properties run past the packet')
  const end = reader.at + length
  const found: Record<string, unknown> = {}
  while (reader.at < end) {
    const from = reader.at
    const id = reader.length()
    const entry = byId.get(id)
    if (entry === undefined) throw malformed(`no such property: ${id}`)
    const [name, , kind, packets] = entry
    if ((packets & packet) === 0) throw malformed(`property ${name} does not belong there`)
    if (kind === 'pair' && leaveOutPairs) {
      reader.skipText()
      reader.skipText()
    } else if (kind === 'pair') {
      found[name] ??= []
      ;(found[name] as [string, string][]).push([reader.text(), reader.text()])
    } else {
      if (Object.hasOwn(found, name)) throw protocolError(`property ${name} twice`)
      found[name] = readValue(reader, kind)
      if (reader.at > end) throw malformed('a property runs past the others')
      if (kind === 'flag' && (found[name] as number) > 1) throw protocolError(`property ${name} is neither 0 nor 1`)
      if (found[name] === 0 && forbidZero.has(name)) throw protocolError(`property ${name} is 0`)
    }
    if (reader.at > end) throw malformed('a property runs past the others')
    each?.(id, from, reader.at)
  }
  return found as Properties
}

function readValue(reader: Reader, kind: Exclude<Kind, 'pair'>): unknown {
  switch (kind) {
    case 'byte':
    case 'flag':
      return reader.byte()
    case 'uint16':
      return reader.uint16()
    case 'uint32':
      return reader.uint32()
    case 'length':
      return reader.length()
    case 'text':
      return reader.text()
    case 'binary':
      return reader.binary()
  }
}

/** The properties as bytes, without their length. */
export function encodeProperties(properties: Properties): Buffer {
  const parts: Buffer[] = []
  for (const [name, value] of Object.entries(properties)) {
    const entry = byName.get(name)
    if (entry === undefined || value === undefined) continue
    const [, id, kind] = entry
    const values = kind === 'pair' ? (value as [string, string][]) : [value]
    for (const one of values) parts.push(Buffer.from([id]), encodeValue(kind, one))
  }
  return Buffer.concat(parts)
}

function encodeValue(kind: Kind, value: unknown): Buffer {
  switch (kind) {
    case 'byte':
    case 'flag':
      return Buffer.from([value as number])
    case 'uint16':
      return Buffer.from([(value as number) >> 8, (value as number) & 255])
    case 'uint32': {
      const bytes = Buffer.alloc(4)
      bytes.writeUInt32BE(value as number)
      return bytes
    }
    case 'length':
      return lengthBytes(value as number)
    case 'text':
    case 'binary':
      return sized(Buffer.from(value as string))
    case 'pair':
      return Buffer.concat((value as string[]).map(text => sized(Buffer.from(text))))
  }
}

/** Two bytes of length, then the bytes. */
export function sized(bytes: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes])
}

export function lengthBytes(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(lengthOf(value))
  writeLength(bytes, 0, value)
  return bytes
}

/** The properties of any packet, ours as well, wherever they may stand; for a caller that only shows them. */
export function readAnyProperties(reader: Reader): Record<string, unknown> {
  const length = reader.length()
  if (length > reader.left) throw malformed('properties run past the packet')
  const end = reader.at + length
  const found: Record<string, unknown> = {}
  while (reader.at < end) {
    const entry = byId.get(reader.length())
    if (entry === undefined) throw malformed('no such property')
    const [name, , kind] = entry
    const value = kind === 'pair' ? [reader.text(), reader.text()] : readValue(reader, kind)
    if (kind === 'pair') found[name] = [...((found[name] as unknown[]) ?? []), value]
    else if (Object.hasOwn(found, name))
      found[name] = [found[name], value].flat() // identifiers in what we send
    else found[name] = value
  }
  return found
}
