/** A batch on its way to the thread that writes it: all of it in one buffer, one change after the other. */
import { crc32 } from 'node:zlib'
import { type Batch, type Table, tables } from './store.js'

// A change: what it is (1), its table (1), the key's length (2), the value's (4), and both. A value has its CRC before it.
const head = 8
const crc = 4

const numberOf = new Map(tables.map((table, i) => [table, i]))

export class PackedBatch implements Batch {
  #bytes: Buffer
  #length = 0

  /** @param size that it is likely to have. */
  constructor(size = 0) {
    this.#bytes = Buffer.allocUnsafeSlow(Math.max(4096, size))
  }

  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length)
  }

  put(table: Table, key: Uint8Array, value: Uint8Array): void {
    const at = this.#change(1, table, key, crc + value.length)
    this.#bytes.writeUInt32LE(crc32(value), at)
    this.#bytes.set(value, at + crc)
  }

  delete(table: Table, key: Uint8Array): void {
    this.#change(0, table, key, 0)
  }

  #change(what: number, table: Table, key: Uint8Array, valueLength: number): number {
    const at = this.#length
    const end = at + head + key.length + valueLength
    if (end > this.#bytes.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(end, this.#bytes.length * 2))
      this.#bytes.copy(larger, 0, 0, at)
      this.#bytes = larger
    }
    const bytes = this.#bytes
    bytes[at] = what
    bytes[at + 1] = numberOf.get(table)!
    bytes.writeUInt16LE(key.length, at + 2)
    bytes.writeUInt32LE(valueLength, at + 4)
    bytes.set(key, at + head)
    this.#length = end
    return at + head + key.length
  }
}

/** Undoes the packing. @param change the value is undefined for one that deletes. */
export function unpack(bytes: Buffer, change: (table: Table, key: Buffer, value: Buffer | undefined) => void): void {
  for (let at = 0; at < bytes.length; ) {
    const keyAt = at + head
    const valueAt = keyAt + bytes.readUInt16LE(at + 2)
    const end = valueAt + bytes.readUInt32LE(at + 4)
    const value = bytes[at] === 1 ? bytes.subarray(valueAt, end) : undefined
    change(tables[bytes[at + 1]!]!, bytes.subarray(keyAt, valueAt), value)
    at = end
  }
}

/** The value as it was put, of the first `length` bytes; undefined when it is not what was written. */
export function unsealed(sealed: Buffer, length: number): Buffer | undefined {
  if (length < crc) return undefined
  const value = sealed.subarray(crc, length)
  return crc32(value) === sealed.readUInt32LE(0) ? value : undefined
}
