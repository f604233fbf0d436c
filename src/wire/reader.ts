/** Reads MQTT's data types from a packet; throws a PacketError where the bytes are not what they must be. */
import { isUtf8 } from 'node:buffer'
import { malformed } from './reason-codes.js'

export class Reader {
  readonly bytes: Buffer
  at: number
  readonly end: number

  constructor(bytes: Buffer, at: number, end: number) {
    this.bytes = bytes
    this.at = at
    this.end = end
  }

  get left(): number {
    return this.end - this.at
  }

  byte(): number {
    this.#need(1)
    return this.bytes[this.at++]!
  }

  uint16(): number {
    this.#need(2)
    const value = (this.bytes[this.at]! << 8) | this.bytes[this.at + 1]!
    this.at += 2
    return value
  }

  uint32(): number {
    this.#need(4)
    const value = this.bytes.readUInt32BE(this.at)
    this.at += 4
    return value
  }

  /** A variable byte integer, in as few bytes as it takes [MQTT-1.5.5-1]. */
  length(): number {
    let value = 0
    for (let i = 0; i < 4; i++) {
      const byte = this.byte()
      value |= (byte & 127) << (7 * i)
      if (byte < 128) {
        if (i > 0 && byte === 0) throw malformed('variable byte integer with a superfluous byte')
        return value
      }
    }
    throw malformed('variable byte integer of more than four bytes')
  }

  /** Well-formed UTF-8 without U+0000 [MQTT-1.5.4-1], [MQTT-1.5.4-2]; isUtf8 knows of surrogates and overlong forms. */
  text(): string {
    const start = this.at + 2
    this.skipText()
    return this.bytes.toString('utf8', start, this.at)
  }

  skipText(): void {
    const length = this.uint16()
    this.#need(length)
    const end = this.at + length
    if (!isAscii(this.bytes, this.at, end)) {
      const text = this.bytes.subarray(this.at, end)
      if (!isUtf8(text) || text.includes(0)) throw malformed('text that is not UTF-8')
    }
    this.at = end
  }

  /** Two bytes of length and as many of data; a view. */
  binary(): Buffer {
    const length = this.uint16()
    this.#need(length)
    this.at += length
    return this.bytes.subarray(this.at - length, this.at)
  }

  /** The packet has nothing more. */
  done(): void {
    if (this.at !== this.end) throw malformed(`${this.left} bytes too many`)
  }

  #need(n: number): void {
    if (this.end - this.at < n) throw malformed('packet is too short')
  }
}

/** Short and without anything to look at more closely: most text is, and a call to isUtf8() costs more than to see it. */
function isAscii(bytes: Buffer, start: number, end: number): boolean {
  if (end - start > 64) return false
  for (let i = start; i < end; i++) {
    const byte = bytes[i]!
    if (byte === 0 || byte > 127) return false
  }
  return true
}
