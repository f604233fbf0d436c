/**
 * Cuts a stream of bytes into MQTT control packets ("frames"), whole.
 *
 * What the fixed header already shows to be wrong is refused from the header: a
 * packet over the limit never has its body buffered.
 */

/** Control packet types, MQTT 3.1.1 table 2.1. */
export const PacketType = {
  CONNECT: 1,
  CONNACK: 2,
  PUBLISH: 3,
  PUBACK: 4,
  PUBREC: 5,
  PUBREL: 6,
  PUBCOMP: 7,
  SUBSCRIBE: 8,
  SUBACK: 9,
  UNSUBSCRIBE: 10,
  UNSUBACK: 11,
  PINGREQ: 12,
  PINGRESP: 13,
  DISCONNECT: 14
} as const

export type FrameFault = 'malformed' | 'too_large'

/** Flags that a client's packet of each type must carry [MQTT-2.2.2-1]; -1: any; undefined: not a client's packet. */
const flagsOf: readonly (number | undefined)[] = [
  undefined, // 0 is reserved
  0, // CONNECT
  undefined,
  -1, // PUBLISH
  0,
  0,
  2, // PUBREL
  0,
  2, // SUBSCRIBE
  undefined,
  2, // UNSUBSCRIBE
  undefined,
  0, // PINGREQ
  undefined,
  0, // DISCONNECT
  undefined // AUTH is MQTT 5's
]

export class FrameReader {
  #pending: Buffer[] = []
  #have = 0
  /** Bytes that the frame at the front of #pending has; 0 while its header is not whole. */
  #need = 0
  readonly #maxPacketSize: number

  /** @param maxPacketSize in bytes, header included. */
  constructor(maxPacketSize: number) {
    this.#maxPacketSize = maxPacketSize
  }

  /**
   * Takes what arrived and hands on each frame that is whole now, as a view of the bytes.
   * `take` returns false to stop, when it has closed the connection.
   */
  read(chunk: Buffer, take: (frame: Buffer) => boolean): FrameFault | undefined {
    let bytes = chunk
    if (this.#have > 0) {
      this.#pending.push(chunk)
      this.#have += chunk.length
      if (this.#have < this.#need) return undefined
      bytes = Buffer.concat(this.#pending, this.#have)
      this.#pending = []
      this.#have = 0
      this.#need = 0
    }
    let at = 0
    while (at < bytes.length) {
      const total = this.#totalLength(bytes, at)
      if (typeof total === 'string') return total
      if (total === 0 || bytes.length - at < total) {
        this.#need = total
        break
      }
      if (!take(bytes.subarray(at, at + total))) return undefined
      at += total
    }
    if (at < bytes.length) {
      this.#pending.push(at === 0 ? bytes : bytes.subarray(at))
      this.#have = bytes.length - at
    }
    return undefined
  }

  /** Bytes of the frame at `at`, header included; 0 when its header is not whole yet. */
  #totalLength(bytes: Buffer, at: number): number | FrameFault {
    const first = bytes[at]!
    const flags = flagsOf[first >> 4]
    if (flags === undefined || (flags !== -1 && flags !== (first & 15))) return 'malformed'
    if (first >> 4 === PacketType.PUBLISH && (first & 6) === 6) return 'malformed' // QoS 3 [MQTT-3.3.1-4]
    let remaining = 0
    for (let i = 1; i <= 4; i++) {
      const byte = bytes[at + i]
      if (byte === undefined) return 0
      remaining |= (byte & 127) << (7 * (i - 1))
      if (byte < 128) {
        const total = 1 + i + remaining
        return total > this.#maxPacketSize ? 'too_large' : total
      }
    }
    return 'malformed' // a fifth length byte, MQTT 3.1.1 section 2.2.3
  }
}
