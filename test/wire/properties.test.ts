import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { encodeProperties, In, lengthBytes, type Properties, readProperties } from '../../src/wire/properties.js'
import { Reader } from '../../src/wire/reader.js'
import { PacketError, Reason } from '../../src/wire/reason-codes.js'
import { propertiesOf } from '../support/packets.js'

const { MALFORMED_PACKET, PROTOCOL_ERROR } = Reason

/** Reads bytes that are properties with their length, and wants nothing left. */
function read(bytes: Buffer, packet: number): Properties {
  const reader = new Reader(bytes, 0, bytes.length)
  const properties = readProperties(reader, packet)
  reader.done()
  return properties
}

const refuses = (bytes: Buffer, packet: number, reason: number, why = bytes.toString('hex')): void =>
  assert.throws(
    () => read(bytes, packet),
    (err: unknown) => {
      assert.ok(err instanceof PacketError, String(err))
      assert.equal(err.reason, reason, `${why}: ${err.message}`)
      return true
    }
  )

/** With the length before. */
const whole = (...parts: readonly Uint8Array[]): Buffer => {
  const bytes = Buffer.concat(parts)
  return Buffer.concat([lengthBytes(bytes.length), bytes])
}

const name = fc.string({ unit: 'grapheme', maxLength: 20 }).filter(text => !text.includes('\0'))
const bytes = fc.uint8Array({ maxLength: 20 }).map(array => Buffer.from(array))
const flag = fc.nat(1)
const uint16 = fc.nat(0xffff)
const uint32 = fc.oneof(fc.nat(0xffff_ffff), fc.constantFrom(0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff))
const atLeast1 = (most: number) => fc.integer({ min: 1, max: most })

type Packet = keyof typeof In

/** Table 2-4, after the specification: identifier, some value, and where it may stand when a client sends it. */
const table: Record<keyof Properties, [id: number, value: fc.Arbitrary<unknown>, packets: readonly Packet[]]> = {
  payloadFormatIndicator: [0x01, flag, ['PUBLISH', 'WILL']],
  messageExpiryInterval: [0x02, uint32, ['PUBLISH', 'WILL']],
  contentType: [0x03, name, ['PUBLISH', 'WILL']],
  responseTopic: [0x08, name, ['PUBLISH', 'WILL']],
  correlationData: [0x09, bytes, ['PUBLISH', 'WILL']],
  subscriptionIdentifier: [0x0b, atLeast1(268_435_455), ['SUBSCRIBE', 'PUBLISH']],
  sessionExpiryInterval: [0x11, uint32, ['CONNECT', 'CONNACK', 'DISCONNECT']],
  assignedClientIdentifier: [0x12, name, ['CONNACK']],
  serverKeepAlive: [0x13, uint16, ['CONNACK']],
  authenticationMethod: [0x15, name, ['CONNECT', 'CONNACK', 'AUTH']],
  authenticationData: [0x16, bytes, ['CONNECT', 'CONNACK', 'AUTH']],
  requestProblemInformation: [0x17, flag, ['CONNECT']],
  willDelayInterval: [0x18, uint32, ['WILL']],
  requestResponseInformation: [0x19, flag, ['CONNECT']],
  responseInformation: [0x1a, name, ['CONNACK']],
  serverReference: [0x1c, name, ['CONNACK', 'DISCONNECT']],
  reasonString: [0x1f, name, ['CONNACK', 'ACK', 'SUBACK', 'DISCONNECT', 'AUTH']],
  receiveMaximum: [0x21, atLeast1(0xffff), ['CONNECT', 'CONNACK']],
  topicAliasMaximum: [0x22, uint16, ['CONNECT', 'CONNACK']],
  topicAlias: [0x23, uint16, ['PUBLISH']],
  maximumQoS: [0x24, flag, ['CONNACK']],
  retainAvailable: [0x25, flag, ['CONNACK']],
  userProperty: [0x26, fc.array(fc.tuple(name, name), { minLength: 1, maxLength: 4 }), Object.keys(In) as Packet[]],
  maximumPacketSize: [0x27, atLeast1(0xffff_ffff), ['CONNECT', 'CONNACK']],
  wildcardSubscriptionAvailable: [0x28, flag, ['CONNACK']],
  subscriptionIdentifiersAvailable: [0x29, flag, ['CONNACK']],
  sharedSubscriptionAvailable: [0x2a, flag, ['CONNACK']]
}
const all = Object.entries(table) as [keyof Properties, (typeof table)[keyof Properties]][]
const packets = Object.entries(In) as [Packet, number][]

/** All that may stand in a packet, any of it absent. */
const propertiesIn = (packet: Packet): fc.Arbitrary<Properties> =>
  fc.record(
    Object.fromEntries(all.flatMap(([key, [, value, where]]) => (where.includes(packet) ? [[key, value]] : []))),
    { requiredKeys: [] }
  ) as fc.Arbitrary<Properties>

/** One value of each. */
const example = (key: keyof Properties): Properties => ({ [key]: fc.sample(table[key][1], { numRuns: 1, seed: 7 })[0] })

test('readProperties() reads what encodeProperties() wrote, in every packet', () => {
  for (const [packet, bit] of packets) {
    fc.assert(
      fc.property(propertiesIn(packet), properties => {
        assert.deepEqual(read(propertiesOf(properties), bit), { ...properties })
      }),
      { numRuns: 60 }
    )
  }
})

test('encodeProperties() writes the identifiers of table 2-4', () => {
  for (const [key, [id]] of all) assert.equal(encodeProperties(example(key))[0], id, key)
  assert.equal(encodeProperties({ messageExpiryInterval: 1 }).toString('hex'), '0200000001')
  assert.equal(encodeProperties({ subscriptionIdentifier: 128 }).toString('hex'), '0b8001')
  assert.equal(encodeProperties({ userProperty: [['a', 'b']] }).toString('hex'), '26000161000162')
})

test('readProperties() refuses every property in every packet where it may not stand (section 2.2.2.2)', () => {
  let refused = 0
  for (const [key, [, , where]] of all) {
    for (const [packet, bit] of packets) {
      if (where.includes(packet)) assert.doesNotThrow(() => read(propertiesOf(example(key)), bit), `${key} ${packet}`)
      else {
        refuses(propertiesOf(example(key)), bit, MALFORMED_PACKET, `${key} in ${packet}`)
        refused++
      }
    }
  }
  assert.ok(refused > 200)
})

test('readProperties() refuses every property twice, but for user properties', () => {
  for (const [key, [, , where]] of all) {
    const one = encodeProperties(example(key))
    const bit = In[where[0]!]
    if (key !== 'userProperty') refuses(whole(one, one), bit, PROTOCOL_ERROR, key)
    else assert.equal(read(whole(one, one), bit).userProperty?.length, 2 * example(key).userProperty!.length)
  }
})

test('readProperties() refuses each property cut short anywhere', () => {
  for (const [key, [, , where]] of all) {
    const one = encodeProperties(example(key))
    const bit = In[where[0]!]
    for (let end = 1; end < one.length; end++) {
      const part = one.subarray(0, end)
      // User properties are whole after each pair.
      if (key === 'userProperty' && encodeProperties({ userProperty: [example(key).userProperty![0]!] }).length <= end)
        break
      refuses(whole(part), bit, MALFORMED_PACKET, key)
      // The length ends it, though the packet goes on.
      refuses(Buffer.concat([lengthBytes(end), one, Buffer.alloc(9)]), bit, MALFORMED_PACKET, `${key} and more`)
    }
  }
})

test('readProperties() refuses values that are forbidden', () => {
  for (const [hex, packet, reason] of [
    ['03210000', In.CONNECT, PROTOCOL_ERROR], // Receive Maximum 0, section 3.1.2.11.3
    ['052700000000', In.CONNECT, PROTOCOL_ERROR], // Maximum Packet Size 0, section 3.1.2.11.4
    ['020b00', In.SUBSCRIBE, PROTOCOL_ERROR], // Subscription Identifier 0, section 3.8.2.1.2
    ['021702', In.CONNECT, PROTOCOL_ERROR], // Request Problem Information 2, section 3.1.2.11.7
    ['0219ff', In.CONNECT, PROTOCOL_ERROR], // Request Response Information 255, section 3.1.2.11.6
    ['020102', In.PUBLISH, PROTOCOL_ERROR],
    ['020000', In.CONNECT, MALFORMED_PACKET], // no such property
    ['027f00', In.CONNECT, MALFORMED_PACKET],
    ['0380017f', In.CONNECT, MALFORMED_PACKET],
    ['03a60000', In.CONNECT, MALFORMED_PACKET], // 0x26 in two bytes [MQTT-1.5.5-1]
    ['0303000100', In.PUBLISH, MALFORMED_PACKET],
    ['040300010000', In.PUBLISH, MALFORMED_PACKET], // U+0000 [MQTT-1.5.4-2]
    ['04030001ff', In.PUBLISH, MALFORMED_PACKET], // not UTF-8 [MQTT-1.5.4-1]
    ['06030003eda080', In.PUBLISH, MALFORMED_PACKET], // U+D800
    ['060bffffffffff7f', In.SUBSCRIBE, MALFORMED_PACKET], // a fifth byte
    ['030b8000', In.SUBSCRIBE, MALFORMED_PACKET],
    ['0126', In.CONNECT, MALFORMED_PACKET],
    ['05', In.CONNECT, MALFORMED_PACKET], // longer than the packet
    ['8000', In.CONNECT, MALFORMED_PACKET], // the length in too many bytes
    ['ffffffff7f', In.CONNECT, MALFORMED_PACKET],
    ['ff', In.CONNECT, MALFORMED_PACKET],
    ['', In.CONNECT, MALFORMED_PACKET]
  ] as const) {
    refuses(Buffer.from(hex, 'hex'), packet, reason)
  }
})

test('readProperties() tells where each property stands', () => {
  const places: [number, number, number][] = []
  const written = propertiesOf({ payloadFormatIndicator: 1, messageExpiryInterval: 9, contentType: 'x' })
  readProperties(new Reader(written, 0, written.length), In.PUBLISH, (...place) => places.push(place))
  assert.deepEqual(places, [
    [1, 1, 3],
    [2, 3, 8],
    [3, 8, 12]
  ])
})

test('readProperties() throws nothing but PacketError, and reads no further than the packet', () => {
  const ids = fc.constantFrom(...all.map(([, [id]]) => id))
  const some = fc.array(fc.oneof(ids, fc.nat(255), fc.constant(0), fc.constantFrom(1, 2, 3)), { maxLength: 30 })
  fc.assert(
    fc.property(some, fc.constantFrom(...packets), fc.nat(40), (random, [, packet], length) => {
      const body = Buffer.from([length, ...random])
      const reader = new Reader(Buffer.concat([body, Buffer.alloc(50, 1)]), 0, body.length)
      try {
        readProperties(reader, packet)
      } catch (err) {
        assert.ok(err instanceof PacketError, String(err))
      }
      assert.ok(reader.at <= reader.end)
    }),
    { numRuns: 3000 }
  )
})
