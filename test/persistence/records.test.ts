import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { Message } from '../../src/delivery/message.js'
import {
  decodeEntry,
  decodeMessage,
  decodeSubscription,
  encodeEntry,
  encodeSubscription,
  firstOf,
  messageRecord,
  pairKey,
  secondOf,
  textKey
} from '../../src/persistence/records.js'
import type { QoS } from '../../src/wire/frame.js'

const qos = fc.constantFrom<QoS>(0, 1, 2)
const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 30 })
const topic = fc.oneof(text, fc.constantFrom('t'.repeat(65_535), 'ü'.repeat(1000)))
const from = fc.option(fc.oneof(text, fc.constant('c'.repeat(65_535))), { nil: undefined })
const payload = fc.oneof(fc.uint8Array({ maxLength: 50 }), fc.constant(new Uint8Array(100_000)))
const message = fc
  .record({ topic, from, payload, qos, retain: fc.boolean(), expiry: fc.option(fc.nat(), { nil: undefined }) })
  .map(({ topic, from, payload, qos, retain, expiry }) => {
    const userProperties = [['a', 'b']] as [string, string][]
    const properties = { userProperties, ...(expiry === undefined ? {} : { messageExpiryInterval: expiry }) }
    return Message.withProperties(topic, payload, { qos, retain, from }, properties as never)
  })

/** All that a message is. */
const shown = (m: Message) => ({
  topic: m.topic,
  topicBytes: m.bytes.subarray(m.topicAt, m.topicEnd).toString('hex'),
  properties: m.bytes.subarray(m.propertiesAt, m.propertiesEnd).toString('hex'),
  payload: Buffer.from(m.payload).toString('base64'),
  qos: m.qos,
  retain: m.retain,
  from: m.from,
  expiresAt: m.expiresAt,
  expiryAt: m.expiryAt
})

test('a message is the same when it comes back', () => {
  fc.assert(
    fc.property(message, before => {
      const bytes = messageRecord(before)
      const after = decodeMessage(bytes, 0)
      bytes.fill(0xee) // they are the store's
      assert.deepEqual(shown(after), shown(before))
    }),
    { numRuns: 100 }
  )
})

test('an entry is the same when it comes back, with its message, by number, or released', () => {
  const identifiers = fc.option(fc.array(fc.nat({ max: 268_435_455 }), { minLength: 1, maxLength: 4 }), {
    nil: undefined
  })
  const shared = fc.option(
    text.map(name => `$share/g/${name}`),
    { nil: undefined }
  )
  const body = fc.oneof(message, fc.nat({ max: 2 ** 48 - 1 }), fc.constant(undefined))
  fc.assert(
    fc.property(qos, fc.boolean(), identifiers, shared, body, (qos, retain, identifiers, shared, body) => {
      const { message, ...rest } = decodeEntry(encodeEntry({ qos, retain, identifiers, shared, message: body }))
      assert.deepEqual(rest, { qos, retain, identifiers, shared })
      if (typeof body !== 'object') assert.equal(message, body)
      else assert.deepEqual(shown(message as Message), shown(body))
    }),
    { numRuns: 100 }
  )
})

test('a subscription is the same when it comes back', () => {
  const record = fc.record(
    {
      filter: text,
      qos,
      noLocal: fc.boolean(),
      retainAsPublished: fc.boolean(),
      identifier: fc.nat({ max: 268_435_455 })
    },
    { noNullPrototype: true }
  )
  fc.assert(
    fc.property(record, before =>
      assert.deepEqual(decodeSubscription(encodeSubscription(before), 's'), { subscriber: 's', ...before })
    )
  )
})

test('keys stand in the order of session and sequence, and those of texts are apart and short enough', () => {
  const number = fc.nat({ max: 2 ** 48 - 1 })
  fc.assert(
    fc.property(number, number, number, number, (a, b, c, d) => {
      const [one, two] = [pairKey(a, b), pairKey(c, d)]
      assert.deepEqual([firstOf(one), secondOf(one)], [a, b])
      assert.equal(Math.sign(Buffer.compare(one, two)), Math.sign(a - c || b - d))
    })
  )
  const long = fc.string({ minLength: 990, maxLength: 1100 })
  fc.assert(
    fc.property(fc.oneof(text, long), fc.oneof(text, long), (a, b) => {
      assert.equal(textKey(a).equals(textKey(b)), a === b)
      assert(textKey(a).length > 0 && textKey(a).length <= 1900)
    })
  )
})
