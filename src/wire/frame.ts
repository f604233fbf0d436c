/**
 * Cuts a stream of bytes into MQTT control packets, whole.
 *
 * What the fixed header already shows to be wrong is refused from the header: a
 * packet over the limit never has its body buffered. A packet is handed on as a
 * place in the bytes, not as bytes of its own.
 */

/** Control packet types, MQTT 5 table 2-1. */
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
  DISCONNECT: 14,
  AUTH: 15
} as const

export type QoS = 0 | 1 | 2

export type FrameFault = 'malformed' | 'unexpected' | 'too_large'

/**
 * Flags that a client's packet of each type must carry [MQTT-2.1.3-1]; -1: any but QoS 3; undefined: not a client's
 * packet. MQTT 3.1 has no rule for CONNECT's, and DUP on what is sent again (2): strayFlags() is for the later ones.
 */
const flagsOf: readonly (number | undefined)[] = [
  undefined, // 0 is reserved
  -1, // CONNECT
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
  0 // AUTH
]

/** Flags of a packet other than PUBLISH that only MQTT 3.1 lets it have. */
export const strayFlags = (first: number): boolean => (first >> 4 === PacketType.CONNECT ? first & 15 : first & 8) !== 0

/** What a packet's owner wants next: the following packet, or to be left alone until resume(). */
export type Take = (bytes: Buffer, start: number, at: number, end: number) => boolean

const none = Buffer.alloc(0)

/** Chunks kept apart at most: a packet that comes a byte at a time must not cost a Buffer for each. */
const maxPieces = 1000

export class FrameReader {
  #rest: Buffer = none
  /** Chunks behind #rest while its packet is not whole: joined once, when it is. */
  #more: Buffer[] = []
  #have = 0
  /** Bytes that the packet at the channel has; 0 while its header is not whole. */
  #need = 0
  readonly #maxPacketSize: number

  /** @param maxPacketSize in bytes, header included. */
  constructor(maxPacketSize: number) {
    this.#maxPacketSize = maxPacketSize
  }

  /** Bytes that wait for the rest of their packet or for resume(). */
  get waiting(): number {
    return this.#have
  }

  /**
   * Takes what arrived and hands on each packet that is whole now: the bytes, where it begins, where its
   * variable header begins and where it ends. When `take` returns false the rest waits for the next call;
   * call with no bytes to go on.
   */
  read(chunk: Buffer, take: Take): FrameFault | undefined {
    let bytes = chunk
    if (this.#have > 0) {
      if (chunk.length > 0) this.#more.push(chunk)
      this.#have += chunk.length
      if (this.#have < this.#need) {
        if (this.#more.length > maxPieces) this.#join()
        return undefined
      }
      bytes = this.#more.length === 0 ? this.#rest : Buffer.concat([this.#rest, ...this.#more], this.#have)
      this.#keep(none, 0)
    }
    let at = 0
    while (at < bytes.length) {
      const first = bytes[at]!
      const flags = flagsOf[first >> 4]
      if (flags === undefined) return first < 16 ? 'malformed' : 'unexpected' // the server's packets, section 2.1.2
      if (flags !== -1 && flags !== (first & (flags === 2 ? 7 : 15))) return 'malformed'
      if (flags === -1 && (first & 6) === 6) return 'malformed' // QoS 3 [MQTT-3.3.1-4]
      if (at + 1 === bytes.length) break
      let body = at + 2
      let remaining = bytes[at + 1]!
      if (remaining > 127) {
        remaining &= 127
        let shift = 7
        let byte = 128
        while (byte > 127) {
          if (shift > 21) return 'malformed' // a fifth byte
          if (body === bytes.length) {
            this.#keep(bytes.subarray(at), 0)
            return undefined
          }
          byte = bytes[body++]!
          if (byte === 0) return 'malformed' // in more bytes than it takes [MQTT-1.5.5-1]
          remaining |= (byte & 127) << shift
          shift += 7
        }
      }
      const end = body + remaining
      if (end - at > this.#maxPacketSize) return 'too_large'
      if (end > bytes.length) {
        this.#keep(at === 0 ? bytes : bytes.subarray(at), end - at)
        return undefined
      }
      const goOn = take(bytes, at, body, end)
      at = end
      if (!goOn) break
    }
    if (at < bytes.length) this.#keep(at === 0 ? bytes : bytes.subarray(at), 0)
    return undefined
  }

  /** Keeps what arrived while no packets are taken. */
  hold(chunk: Buffer): void {
    if (this.#have === 0) {
      this.#keep(chunk, 0)
      return
    }
    this.#more.push(chunk)
    this.#have += chunk.length
    if (this.#more.length > maxPieces) this.#join()
  }

  #join(): void {
    this.#rest = Buffer.concat([this.#rest, ...this.#more], this.#have)
    this.#more = []
  }

  #keep(rest: Buffer, need: number): void {
    this.#rest = rest
    this.#have = rest.length
    this.#need = need
    if (this.#more.length > 0) this.#more = []
  }
}
