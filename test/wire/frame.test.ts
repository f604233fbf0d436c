import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { type FrameFault, FrameReader } from '../../src/wire/frame.js'
import { lengthBytes } from '../support/server.js'

/**
 * What a client may send: each type with the flags it must have [MQTT-2.2.2-1], PUBLISH with all that are allowed;
 * CONNECT with any QoS, and DUP on what is sent again, for MQTT 3.1's sake.
 */
const firstBytes = [
  ...[0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d],
  ...[0x6a, 0x8a, 0xaa],
  ...[0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d],
  ...[0x40, 0x50, 0x62, 0x70, 0x82, 0xa2, 0xc0, 0xe0, 0xf0]
]

const frameOf = (first: number, body: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from([first]), lengthBytes(body.length), body])

const anyFrame = fc
  .tuple(
    fc.constantFrom(...firstBytes),
    fc.oneof(
      { weight: 4, arbitrary: fc.uint8Array({ maxLength: 40 }) },
      { weight: 1, arbitrary: fc.integer({ min: 120, max: 20_000 }).map(n => Buffer.alloc(n, n)) }
    )
  )
  .map(([first, body]) => frameOf(first, body))

/** Reads `chunks` to the end or to the first fault. */
function readAll(reader: FrameReader, chunks: readonly Buffer[]): { frames: Buffer[]; fault: FrameFault | undefined } {
  const frames: Buffer[] = []
  for (const chunk of chunks) {
    const fault = reader.read(
      chunk,
      (bytes, start, _at, end) => frames.push(Buffer.from(bytes.subarray(start, end))) > 0
    )
    if (fault !== undefined) return { frames, fault }
  }
  return { frames, fault: undefined }
}

const faultOf = (...bytes: number[]): FrameFault | undefined =>
  readAll(new FrameReader(1_000_000), [Buffer.from(bytes)]).fault

function cutAt(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const at = [0, ...[...cuts].sort((a, b) => a - b), bytes.length]
  return at
    .slice(1)
    .map((end, i) => bytes.subarray(at[i], end))
    .filter(chunk => chunk.length > 0)
}

describe('FrameReader', () => {
  test('read() gives the same frames however the bytes are cut', () => {
    fc.assert(
      fc.property(
        fc.array(anyFrame, { maxLength: 12 }),
        fc.array(fc.double({ min: 0, max: 1, noNaN: true })),
        (frames, at) => {
          const bytes = Buffer.concat(frames)
          const cuts = at.map(part => Math.floor(part * bytes.length))
          const { frames: read, fault } = readAll(new FrameReader(30_000), cutAt(bytes, cuts))
          assert.equal(fault, undefined)
          assert.deepEqual(read, frames)
        }
      )
    )
  })

  test('read() gives the same frames one byte at a time', () => {
    const frames = [
      frameOf(0x10, Buffer.alloc(200)),
      frameOf(0xc0, Buffer.alloc(0)),
      frameOf(0x30, Buffer.alloc(16_384))
    ]
    const bytes = Buffer.concat(frames)
    assert.deepEqual(
      readAll(
        new FrameReader(20_000),
        [...bytes].map(b => Buffer.from([b]))
      ).frames,
      frames
    )
  })

  test('read() does not pay for each byte of a packet that comes in single bytes', () => {
    const reader = new FrameReader(2_000_000)
    reader.read(Buffer.concat([Buffer.from([0x10]), lengthBytes(1_000_000)]), () => true)
    const before = process.memoryUsage()
    for (let i = 0; i < 500_000; i++) reader.read(Buffer.alloc(1), () => true)
    const after = process.memoryUsage()
    const grown = after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers
    assert.ok(grown < 40_000_000, `500 kB received take ${Math.round(grown / 1e6)} MB`)
  })

  test('read() refuses a packet over the limit from its header, before there is a body', () => {
    const header = (length: number): Buffer => Buffer.concat([Buffer.from([0x30]), lengthBytes(length)])
    assert.equal(readAll(new FrameReader(1024), [header(1021)]).fault, undefined, 'header included: 1024 bytes')
    assert.equal(readAll(new FrameReader(1024), [header(1022)]).fault, 'too_large')
    assert.equal(
      readAll(
        new FrameReader(1024),
        [...header(268_435_455)].map(b => Buffer.from([b]))
      ).fault,
      'too_large'
    )
  })

  test('read() hands on what stood before the fault', () => {
    const ping = Buffer.from([0xc0, 0])
    const { frames, fault } = readAll(new FrameReader(100), [Buffer.concat([ping, ping, Buffer.from([0x00, 0])])])
    assert.deepEqual(frames, [ping, ping])
    assert.equal(fault, 'malformed')
  })

  test('read() refuses a length of five bytes, MQTT 3.1.1 section 2.2.3', () => {
    assert.equal(faultOf(0x30, 0x80, 0x80, 0x80, 0x80), 'malformed')
    assert.equal(faultOf(0x30, 0xff, 0xff, 0xff, 0xff, 0x7f), 'malformed')
    assert.equal(faultOf(0x30, 0x80, 0x80, 0x80), undefined, 'four bytes may still end')
  })

  test('read() refuses reserved types and those that a server sends, section 2.1.2', () => {
    for (const type of [0, 2, 9, 11, 13]) {
      const fault = type === 0 ? 'malformed' : 'unexpected'
      for (let flags = 0; flags < 16; flags++) assert.equal(faultOf((type << 4) | flags), fault, `type ${type}`)
    }
  })

  test('read() refuses flags that a type does not have [MQTT-2.2.2-2], and QoS 3 [MQTT-3.3.1-4]', () => {
    for (let first = 0; first < 256; first++) {
      if ([2, 9, 11, 13].includes(first >> 4)) continue
      assert.equal(faultOf(first, 0), firstBytes.includes(first) ? undefined : 'malformed', `0x${first.toString(16)}`)
    }
  })

  test('read() stops when told to, and goes on with what is left', () => {
    const reader = new FrameReader(100)
    const seen: number[] = []
    const take = (bytes: Buffer, start: number): boolean => {
      seen.push(bytes[start]!)
      return seen.length % 2 === 0
    }
    const frames = [0xc0, 0xe0, 0xf0, 0xc0].map(first => Buffer.from([first, 0]))
    assert.equal(reader.read(Buffer.concat(frames.slice(0, 3)), take), undefined)
    assert.deepEqual(seen, [0xc0])
    reader.hold(frames[3]!.subarray(0, 1))
    reader.hold(frames[3]!.subarray(1))
    assert.equal(reader.read(Buffer.alloc(0), take), undefined)
    assert.deepEqual(seen, [0xc0, 0xe0, 0xf0])
    assert.equal(reader.read(Buffer.alloc(0), take), undefined)
    assert.deepEqual(seen, [0xc0, 0xe0, 0xf0, 0xc0])
  })
})
