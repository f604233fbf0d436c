/** The other end of a data plane without sockets: packets for the broker by hand, and what it sends, decoded. */
import { Writable } from 'node:stream'
import type { Link } from '../../src/delivery/session/link.js'
import { Outbox } from '../../src/net/outbox.js'
import { Metrics } from '../../src/observe/metrics.js'
import type { QoS } from '../../src/wire/frame.js'
import { encodeProperties, lengthBytes, type Properties, sized } from '../../src/wire/properties.js'

/** A packet of type 3 to 7 that the broker sent. */
export interface Packet {
  /** 3 PUBLISH, 4 PUBACK, 5 PUBREC, 6 PUBREL, 7 PUBCOMP. */
  readonly type: number
  readonly packetId: number
  readonly dup: boolean
  readonly qos: number
  readonly retain: boolean
  readonly topic: string
  readonly payload: string
  /** Subscription identifiers. */
  readonly identifiers: readonly number[]
  readonly expiry: number | undefined
  /** Of an acknowledgement. */
  readonly reason: number
  /** In bytes. */
  readonly size: number
}

/** Reads a variable byte integer; returns it and where it ends. */
function lengthAt(bytes: Buffer, at: number): [value: number, end: number] {
  let value = 0
  for (let i = 0; ; i++) {
    const byte = bytes[at + i]!
    value += (byte & 127) * 128 ** i
    if (byte < 128) return [value, at + i + 1]
  }
}

/** Bytes of the values of PUBLISH's properties; -1: two bytes of length come first, -2: twice that. */
const sizes: Record<number, number> = { 1: 1, 2: 4, 3: -1, 8: -1, 9: -1, 35: 2, 38: -2 }

export function decode(bytes: Buffer, version: 4 | 5): Packet[] {
  const packets: Packet[] = []
  for (let start = 0; start < bytes.length; ) {
    const head = bytes[start]!
    const [length, body] = lengthAt(bytes, start + 1)
    const end = body + length
    if (end > bytes.length) throw new Error('a packet is cut off')
    const flags = { dup: (head & 8) !== 0, qos: (head >> 1) & 3, retain: (head & 1) !== 0 }
    const blank = { ...flags, topic: '', payload: '', identifiers: [], expiry: undefined, reason: 0, size: end - start }
    if (head >> 4 !== 3) {
      const reason = length > 2 ? bytes[body + 2]! : 0
      packets.push({ ...blank, type: head >> 4, packetId: bytes.readUInt16BE(body), reason })
      start = end
      continue
    }
    let at = body + 2 + bytes.readUInt16BE(body)
    const topic = bytes.toString('utf8', body + 2, at)
    const packetId = flags.qos > 0 ? bytes.readUInt16BE(at) : 0
    if (flags.qos > 0) at += 2
    const identifiers: number[] = []
    let expiry: number | undefined
    if (version === 5) {
      const [properties, from] = lengthAt(bytes, at)
      for (at = from; at < from + properties; ) {
        const id = bytes[at++]!
        if (id === 2) expiry = bytes.readUInt32BE(at)
        if (id === 11) {
          const [identifier, next] = lengthAt(bytes, at)
          identifiers.push(identifier)
          at = next
          continue
        }
        const size = sizes[id]
        if (size === undefined) throw new Error(`property ${id} in a PUBLISH`)
        if (size > 0) at += size
        else for (let i = 0; i < -size; i++) at += 2 + bytes.readUInt16BE(at)
      }
      if (at !== from + properties) throw new Error('properties of another length')
    }
    const payload = bytes.toString('utf8', at, end)
    packets.push({ ...blank, type: 3, packetId, topic, payload, identifiers, expiry })
    start = end
  }
  return packets
}

/** A connected client, as the session sees it. */
export class Peer implements Link {
  readonly out: Outbox
  readonly version: 4 | 5
  readonly receiveMaximum: number
  readonly maximumPacketSize: number
  readonly aliases = undefined
  readonly mountpoint = ''
  #written: Buffer[] = []
  #reads = true
  #waiting: (() => void)[] = []

  /** Called when there is room again, as the connection does. */
  roomy = (): void => {}

  /** @param limit bytes that may wait before it counts as slow. */
  constructor({
    version = 5,
    receiveMaximum = 65_535,
    maximumPacketSize = Number.POSITIVE_INFINITY,
    limit = 1_000_000
  }: { version?: 4 | 5; receiveMaximum?: number; maximumPacketSize?: number; limit?: number } = {}) {
    this.version = version
    this.receiveMaximum = receiveMaximum
    this.maximumPacketSize = maximumPacketSize
    const transport = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        this.#written.push(chunk)
        if (this.#reads) done()
        else this.#waiting.push(done)
      }
    })
    this.out = new Outbox(
      transport,
      limit,
      () => {},
      () => this.roomy(),
      new Metrics()
    )
  }

  /** What has come since it was last asked. */
  taken(): Packet[] {
    this.out.flush()
    const bytes = Buffer.concat(this.#written)
    this.#written = []
    return decode(bytes, this.version)
  }

  /** Leaves what is sent unread, from now on. */
  stopReading(): void {
    this.#reads = false
  }

  /** Reads on, also what was left; the connection would call pump() now. */
  readOn(): void {
    this.#reads = true
    while (this.#waiting.length > 0) this.#waiting.shift()!()
    this.out.drained()
  }
}

/** What was published, in short. */
export const payloads = (packets: readonly Packet[]): string[] =>
  packets.filter(({ type }) => type === 3).map(({ payload }) => payload)

/** Their packet ids. */
export const ids = (packets: readonly Packet[]): number[] => packets.map(({ packetId }) => packetId)

/** A packet: header byte, length, body. */
export function packetOf(header: number, ...parts: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from([header]), lengthBytes(body.length), body])
}

export const uint16 = (value: number): Buffer => Buffer.from([value >> 8, value & 255])

/** Text as MQTT writes it. */
export const text = (value: string): Buffer => sized(Buffer.from(value))

/** Properties with their length. */
export const propertiesOf = (properties: Properties): Buffer => {
  const bytes = encodeProperties(properties)
  return Buffer.concat([lengthBytes(bytes.length), bytes])
}

export function publishOf(
  topic: string,
  payload: string,
  {
    qos = 0,
    packetId = 0,
    dup = false,
    retain = false
  }: Partial<{ qos: QoS } & Pick<Packet, 'packetId' | 'dup' | 'retain'>>,
  properties?: Properties
): Buffer {
  return packetOf(
    0x30 | (dup ? 8 : 0) | (qos << 1) | (retain ? 1 : 0),
    text(topic),
    qos > 0 ? uint16(packetId) : Buffer.alloc(0),
    properties === undefined ? Buffer.alloc(0) : propertiesOf(properties),
    Buffer.from(payload)
  )
}

/** Where the variable header of a packet begins. */
export const bodyAt = (bytes: Buffer): number => lengthAt(bytes, 1)[1]
