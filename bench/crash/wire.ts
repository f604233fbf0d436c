/** MQTT 3.1.1 and 5 as the clients of the crash test write and read it; of their own, so that a fault in ours shows. */

export type Version = 4 | 5

export const Type = {
  CONNACK: 2,
  PUBLISH: 3,
  PUBACK: 4,
  PUBREC: 5,
  PUBREL: 6,
  PUBCOMP: 7,
  SUBACK: 9,
  UNSUBACK: 11,
  DISCONNECT: 14
} as const

export interface Packet {
  readonly type: number
  readonly id: number
  readonly code: number
  /** Of SUBACK and UNSUBACK. */
  readonly codes: readonly number[]
  readonly present: boolean
  readonly topic: string
  readonly payload: Buffer
  readonly qos: number
  readonly dup: boolean
  readonly retain: boolean
}

const text = (value: string): Buffer => {
  const bytes = Buffer.from(value)
  return Buffer.concat([two(bytes.length), bytes])
}
const two = (value: number): Buffer => Buffer.from([value >> 8, value & 255])

function variable(value: number): Buffer {
  const bytes: number[] = []
  do {
    bytes.push((value & 127) | (value > 127 ? 128 : 0))
    value >>= 7
  } while (value > 0)
  return Buffer.from(bytes)
}

function whole(header: number, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from([header]), variable(body.length), body])
}

const properties = (version: Version, ...parts: Buffer[]): Buffer => {
  const all = Buffer.concat(parts)
  return version === 5 ? Buffer.concat([variable(all.length), all]) : Buffer.alloc(0)
}

const four = (id: number, value: number): Buffer => {
  const bytes = Buffer.alloc(5)
  bytes[0] = id
  bytes.writeUInt32BE(value, 1)
  return bytes
}

export interface ConnectOptions {
  readonly id: string
  readonly version: Version
  readonly clean: boolean
  /** Seconds. */
  readonly expiry: number
  /** 0: the protocol's. */
  readonly receiveMaximum: number
}

export function connect({ id, version, clean, expiry, receiveMaximum }: ConnectOptions): Buffer {
  const window = receiveMaximum === 0 ? Buffer.alloc(0) : Buffer.concat([Buffer.from([0x21]), two(receiveMaximum)])
  const given = properties(version, four(0x11, expiry), window)
  return whole(0x10, text('MQTT'), Buffer.from([version, clean ? 2 : 0, 0, 0]), given, text(id))
}

export function publish(
  version: Version,
  { topic, payload, qos, id, dup, retain }: Pick<Packet, 'topic' | 'payload' | 'qos' | 'id' | 'dup' | 'retain'>
): Buffer {
  const header = 0x30 | (dup ? 8 : 0) | (qos << 1) | (retain ? 1 : 0)
  return whole(header, text(topic), ...(qos > 0 ? [two(id)] : []), properties(version), payload)
}

/** PUBACK, PUBREC, PUBREL or PUBCOMP. */
export const ack = (type: number, id: number): Buffer =>
  Buffer.from([(type << 4) | (type === Type.PUBREL ? 2 : 0), 2, id >> 8, id & 255])

export const subscribe = (version: Version, id: number, filters: readonly (readonly [string, number])[]): Buffer =>
  whole(0x82, two(id), properties(version), ...filters.map(([f, qos]) => Buffer.concat([text(f), Buffer.from([qos])])))

export const unsubscribe = (version: Version, id: number, filter: string): Buffer =>
  whole(0xa2, two(id), properties(version), text(filter))

export const disconnect = Buffer.from([0xe0, 0])

/** Cuts what a socket gives into packets. */
export class Reader {
  #rest: Buffer = Buffer.alloc(0)
  readonly #version: Version

  constructor(version: Version) {
    this.#version = version
  }

  *packets(chunk: Buffer): Generator<Packet> {
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    for (;;) {
      let length = 0
      let at = 1
      for (let shift = 0; ; shift += 7, at++) {
        if (at >= this.#rest.length) return
        length |= (this.#rest[at]! & 127) << shift
        if (this.#rest[at]! < 128) break
      }
      const end = ++at + length
      if (end > this.#rest.length) return
      const packet = this.#take(this.#rest.subarray(0, end), at)
      this.#rest = this.#rest.subarray(end)
      yield packet
    }
  }

  #take(bytes: Buffer, at: number): Packet {
    const type = bytes[0]! >> 4
    const qos = type === Type.PUBLISH ? (bytes[0]! >> 1) & 3 : 0
    const packet = {
      type,
      id: 0,
      code: 0,
      codes: [] as number[],
      present: false,
      topic: '',
      payload: bytes.subarray(at)
    }
    const of = { ...packet, qos, dup: (bytes[0]! & 8) !== 0, retain: (bytes[0]! & 1) !== 0 }
    if (type === Type.CONNACK) return { ...of, present: bytes[at] === 1, code: bytes[at + 1]! }
    if (type === Type.PUBLISH) {
      const topicEnd = at + 2 + bytes.readUInt16BE(at)
      const topic = bytes.toString('utf8', at + 2, topicEnd)
      const id = qos > 0 ? bytes.readUInt16BE(topicEnd) : 0
      const payload = bytes.subarray(this.#past(bytes, qos > 0 ? topicEnd + 2 : topicEnd))
      return { ...of, topic, id, payload }
    }
    if (type >= Type.PUBACK && type <= Type.PUBCOMP)
      return { ...of, id: bytes.readUInt16BE(at), code: bytes[at + 2] ?? 0 }
    if (type === Type.SUBACK || type === Type.UNSUBACK) {
      return { ...of, id: bytes.readUInt16BE(at), codes: [...bytes.subarray(this.#past(bytes, at + 2))] }
    }
    return { ...of, code: bytes[at] ?? 0 }
  }

  /** Behind the properties. */
  #past(bytes: Buffer, at: number): number {
    if (this.#version === 4) return at
    let length = 0
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++]!
      length |= (byte & 127) << shift
      if (byte < 128) return at + length
    }
  }
}
