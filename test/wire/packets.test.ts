import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { generate, type Packet, parser } from 'mqtt-packet'
import { PacketType } from '../../src/wire/frame.js'
import {
  ackWithReason,
  auth,
  connack,
  disconnect,
  readAck,
  readAuth,
  readConnect,
  readDisconnect,
  readSubscribe,
  readUnsubscribe,
  suback,
  unsuback,
  type Version
} from '../../src/wire/packets.js'
import type { Properties } from '../../src/wire/properties.js'
import { PacketError, Reason } from '../../src/wire/reason-codes.js'
import { isTopicFilter, isTopicName } from '../../src/wire/topic.js'
import { bodyAt, propertiesOf, text, uint16 } from '../support/packets.js'

const { MALFORMED_PACKET, PROTOCOL_ERROR, TOPIC_NAME_INVALID, UNSUPPORTED_PROTOCOL_VERSION } = Reason

type Read<T> = (bytes: Buffer, at: number, end: number, version: Version) => T

/** Reads the body of a packet, which lies among other bytes. */
function within<T>(read: Read<T>, body: Buffer, version: Version = 5): T {
  const bytes = Buffer.concat([Buffer.alloc(3, 1), body, Buffer.alloc(70, 1)])
  return read(bytes, 3, 3 + body.length, version)
}

const bytesOf = (...parts: readonly (Uint8Array | number)[]): Buffer =>
  Buffer.concat(parts.map(part => (typeof part === 'number' ? Buffer.from([part]) : part)))

type Case = readonly [title: string, body: Buffer, reason: number | undefined, version?: Version]

/** Wants the reason, or with undefined that it is read. */
function table(read: Read<unknown>, cases: readonly Case[]): void {
  for (const [title, body, reason, version = 5] of cases) {
    let seen: number | undefined
    try {
      within(read, body, version)
    } catch (err) {
      assert.ok(err instanceof PacketError, `${title}: ${err}`)
      seen = err.reason
    }
    assert.equal(seen, reason, title)
  }
}

// ── CONNECT ──────────────────────────────────────────────────────────────────

const clean = 2
const [willFlag, willRetain, passwordFlag, userFlag] = [4, 0x20, 0x40, 0x80]
const willQoS = (qos: number): number => qos << 3

function connect(
  flags: number,
  payload: readonly Uint8Array[] = [text('c')],
  { version = 5, properties = {}, name }: { version?: number; properties?: Properties; name?: string } = {}
): Buffer {
  const head = [text(name ?? ((version & 0x7f) === 3 ? 'MQIsdp' : 'MQTT')), version, flags, uint16(60)]
  return bytesOf(...head, ...(version === 5 ? [propertiesOf(properties)] : []), ...payload)
}

const none = propertiesOf({})
const of4 = { version: 4 }
const of3 = { version: 3 }

test('readConnect() gives each malformed CONNECT the reason code that it must have', () => {
  table(readConnect, [
    ['MQTT 5', connect(clean), undefined],
    ['MQTT 3.1.1', connect(clean, [text('c')], of4), undefined],
    ['MQTT 3.1', connect(clean, [text('c')], of3), undefined],
    ['a bridge of 3.1.1', connect(clean, [text('c')], { version: 0x84 }), undefined],
    ['a bridge of 3.1', connect(clean, [text('c')], { version: 0x83 }), undefined],
    ['without a client id', connect(clean, [text('')]), undefined],
    // section 3.1.2.1
    ['another protocol', connect(clean, [], { name: 'HTTP' }), MALFORMED_PACKET],
    ['in small letters', connect(clean, [], { name: 'mqtt' }), MALFORMED_PACKET],
    // [MQTT-3.1.2-2]
    ['MQTT level 6', connect(clean, [], { version: 6 }), UNSUPPORTED_PROTOCOL_VERSION],
    ['MQTT level 3', connect(clean, [], { version: 3, name: 'MQTT' }), UNSUPPORTED_PROTOCOL_VERSION],
    ['MQIsdp level 4', connect(clean, [], { version: 4, name: 'MQIsdp' }), UNSUPPORTED_PROTOCOL_VERSION],
    ['MQIsdp level 5', connect(clean, [], { version: 5, name: 'MQIsdp' }), UNSUPPORTED_PROTOCOL_VERSION],
    ['level 0', connect(clean, [], { version: 0 }), UNSUPPORTED_PROTOCOL_VERSION],
    // [MQTT-3.1.2-3]
    ['the reserved flag', connect(clean | 1), MALFORMED_PACKET],
    ['the reserved flag in 3.1.1', connect(clean | 1, [text('c')], of4), MALFORMED_PACKET],
    ['the flag that 3.1 does not use', connect(clean | 1, [text('c')], of3), undefined],
    // [MQTT-3.1.2-11] to [MQTT-3.1.2-14]
    ['will', connect(willFlag | willQoS(2) | willRetain, [text('c'), none, text('w'), text('x')]), undefined],
    ['will of QoS 3', connect(willFlag | willQoS(3), [text('c'), none, text('w'), text('x')]), MALFORMED_PACKET],
    ['will QoS without a will', connect(willQoS(1)), MALFORMED_PACKET],
    ['will retain without a will', connect(willRetain), MALFORMED_PACKET],
    ['will without a will', connect(willFlag), MALFORMED_PACKET],
    ['will without a payload', connect(willFlag, [text('c'), none, text('w')]), MALFORMED_PACKET],
    ['will with an empty payload', connect(willFlag, [text('c'), none, text('w'), text('')]), undefined],
    ['will to a filter', connect(willFlag, [text('c'), none, text('w/#'), text('x')]), TOPIC_NAME_INVALID],
    ['will to nowhere', connect(willFlag, [text('c'), text(''), text('x')], of4), TOPIC_NAME_INVALID],
    ['will topic not UTF-8', connect(willFlag, [text('c'), none, bytesOf(0, 1, 0xff), text('x')]), MALFORMED_PACKET],
    [
      'will with a property of CONNECT',
      connect(willFlag, [text('c'), propertiesOf({ receiveMaximum: 1 }), text('w'), text('x')]),
      MALFORMED_PACKET
    ],
    [
      'will with a filter as response topic', // [MQTT-3.3.2-14]
      connect(willFlag, [text('c'), propertiesOf({ responseTopic: '+' }), text('w'), text('x')]),
      PROTOCOL_ERROR
    ],
    // [MQTT-3.1.2-16] to [MQTT-3.1.2-19], [MQTT-3.1.2-22] of 3.1.1
    ['user and password', connect(userFlag | passwordFlag, [text('c'), text('u'), bytesOf(0, 1, 0xff)]), undefined],
    ['a password alone', connect(passwordFlag, [text('c'), text('p')]), undefined],
    ['a password alone in 3.1.1', connect(passwordFlag, [text('c'), text('p')], of4), MALFORMED_PACKET],
    ['no user name', connect(userFlag), MALFORMED_PACKET],
    ['no password', connect(userFlag | passwordFlag, [text('c'), text('u')]), MALFORMED_PACKET],
    ['a user name unannounced', connect(clean, [text('c'), text('u')]), MALFORMED_PACKET],
    ['a user name not UTF-8', connect(userFlag, [text('c'), bytesOf(0, 1, 0x80)]), MALFORMED_PACKET],
    // [MQTT-3.1.3-3], [MQTT-3.1.3-4]
    ['no client id', connect(clean, []), MALFORMED_PACKET],
    ['a client id not UTF-8', connect(clean, [bytesOf(0, 2, 0xc0, 0x80)]), MALFORMED_PACKET],
    ['a client id with U+0000', connect(clean, [text('a\0')]), MALFORMED_PACKET],
    ['a client id cut off', connect(clean, [bytesOf(0, 3, 0x61)]), MALFORMED_PACKET],
    // section 3.1.2.11
    ['Receive Maximum 0', connect(clean, [text('c')], { properties: { receiveMaximum: 0 } }), PROTOCOL_ERROR],
    ['Maximum Packet Size 0', connect(clean, [text('c')], { properties: { maximumPacketSize: 0 } }), PROTOCOL_ERROR],
    ['a property of PUBLISH', connect(clean, [text('c')], { properties: { topicAlias: 1 } }), MALFORMED_PACKET],
    [
      'authentication data without a method',
      connect(clean, [text('c')], { properties: { authenticationData: Buffer.from('x') } }),
      PROTOCOL_ERROR
    ],
    ['nothing', Buffer.alloc(0), MALFORMED_PACKET],
    ['a protocol name cut off', bytesOf(0, 4, 0x4d), MALFORMED_PACKET]
  ])
})

test('readConnect() refuses a CONNECT cut off anywhere, or with a byte too many', () => {
  const words = ['w', 'x', 'u', 'p'].map(text)
  for (const [body, version] of [
    [connect(willFlag | userFlag | passwordFlag, [text('c'), none, ...words]), 5],
    [connect(willFlag | userFlag | passwordFlag, [text('c'), ...words], of4), 4],
    [connect(clean, [text('c')], { properties: { userProperty: [['a', 'b']], receiveMaximum: 1 } }), 5]
  ] as const) {
    const cut = Array.from(body, (_, end): Case => [`${end} bytes`, body.subarray(0, end), MALFORMED_PACKET, version])
    table(readConnect, [...cut, ['whole', body, undefined], ['more', bytesOf(body, 0), MALFORMED_PACKET]])
  }
})

test('readConnect() takes U+FEFF as it stands [MQTT-1.5.4-3]', () => {
  const { clientId } = within(readConnect, connect(clean, [text('\ufeffc')]))
  assert.equal(clientId, '\ufeffc')
})

// ── SUBSCRIBE, UNSUBSCRIBE ───────────────────────────────────────────────────

const subscribe = (filters: readonly (Uint8Array | number)[], id = 1, properties: Properties = {}): Buffer =>
  bytesOf(uint16(id), propertiesOf(properties), ...filters)
const subscribe4 = (...filters: readonly (Uint8Array | number)[]): Buffer => bytesOf(uint16(1), ...filters)

test('readSubscribe() gives each malformed SUBSCRIBE the reason code that it must have', () => {
  table(readSubscribe, [
    ['one', subscribe([text('a'), 0]), undefined],
    ['all options', subscribe([text('a'), 0b0010_1110]), undefined],
    ['two', subscribe([text('a'), 0, text('b/#'), 1]), undefined],
    ['a shared one', subscribe([text('$share/g/a'), 2]), undefined],
    ['3.1.1', subscribe4(text('a'), 2), undefined, 4],
    ['3.1', subscribe4(text('a'), 2), undefined, 3],
    ['packet identifier 0', subscribe([text('a'), 0], 0), PROTOCOL_ERROR], // [MQTT-2.2.1-3]
    ['no filter', subscribe([]), PROTOCOL_ERROR], // [MQTT-3.8.3-2]
    ['no filter in 3.1.1', subscribe4(), PROTOCOL_ERROR, 4], // [MQTT-3.8.3-3] of 3.1.1
    ['no options', subscribe([text('a')]), MALFORMED_PACKET],
    ['no options for the second', subscribe([text('a'), 0, text('b')]), MALFORMED_PACKET],
    ['reserved bit 6', subscribe([text('a'), 0x40]), MALFORMED_PACKET], // [MQTT-3.8.3-5]
    ['reserved bit 7', subscribe([text('a'), 0x80]), MALFORMED_PACKET],
    ['no-local in 3.1.1', subscribe4(text('a'), 4), MALFORMED_PACKET, 4], // [MQTT-3-8.3-4] of 3.1.1
    ['retain handling in 3.1.1', subscribe4(text('a'), 0x10), MALFORMED_PACKET, 4],
    ['QoS 3', subscribe([text('a'), 3]), PROTOCOL_ERROR], // section 3.8.3.1
    ['retain handling 3', subscribe([text('a'), 0x30]), PROTOCOL_ERROR], // section 3.8.3.1
    ['no-local for a group', subscribe([text('$share/g/a'), 4]), PROTOCOL_ERROR], // [MQTT-3.8.3-4]
    ['a # in the middle', subscribe([text('a/#/b'), 0]), MALFORMED_PACKET], // [MQTT-4.7.1-1]
    ['a + beside text', subscribe([text('a+'), 0]), MALFORMED_PACKET], // [MQTT-4.7.1-2]
    ['an empty filter', subscribe([text(''), 0]), MALFORMED_PACKET], // [MQTT-4.7.3-1]
    ['a group without a filter', subscribe([text('$share/g'), 0]), MALFORMED_PACKET], // [MQTT-4.8.2-1]
    ['a group with a wildcard', subscribe([text('$share/+/a'), 0]), MALFORMED_PACKET], // [MQTT-4.8.2-2]
    ['the second is wrong', subscribe([text('a'), 0, text('#a'), 0]), MALFORMED_PACKET],
    ['U+0000', subscribe([text('a\0'), 0]), MALFORMED_PACKET], // [MQTT-4.7.3-2]
    ['not UTF-8', subscribe([bytesOf(0, 1, 0xff), 0]), MALFORMED_PACKET], // [MQTT-3.8.3-1]
    ['identifier 0', subscribe([text('a'), 0], 1, { subscriptionIdentifier: 0 }), PROTOCOL_ERROR], // section 3.8.2.1.2
    ['two identifiers', bytesOf(uint16(1), 4, 0x0b, 1, 0x0b, 2, text('a'), 0), PROTOCOL_ERROR],
    ['a property of CONNECT', subscribe([text('a'), 0], 1, { sessionExpiryInterval: 1 }), MALFORMED_PACKET],
    ['nothing', Buffer.alloc(0), MALFORMED_PACKET],
    ['no properties', uint16(1), MALFORMED_PACKET]
  ])
})

const unsubscribe = (filters: readonly Uint8Array[], id = 1, properties: Properties = {}): Buffer =>
  bytesOf(uint16(id), propertiesOf(properties), ...filters)

test('readUnsubscribe() gives each malformed UNSUBSCRIBE the reason code that it must have', () => {
  table(readUnsubscribe, [
    ['two', unsubscribe([text('a'), text('$share/g/#')]), undefined],
    ['3.1.1', bytesOf(uint16(1), text('a')), undefined, 4],
    ['user properties', unsubscribe([text('a')], 1, { userProperty: [['a', 'b']] }), undefined],
    ['packet identifier 0', unsubscribe([text('a')], 0), PROTOCOL_ERROR], // [MQTT-2.2.1-3]
    ['no filter', unsubscribe([]), PROTOCOL_ERROR], // [MQTT-3.10.3-2]
    ['no filter in 3.1.1', uint16(1), PROTOCOL_ERROR, 4],
    ['no such filter', unsubscribe([text('a/#/b')]), MALFORMED_PACKET],
    ['not UTF-8', unsubscribe([bytesOf(0, 1, 0xff)]), MALFORMED_PACKET], // [MQTT-3.10.3-1]
    ['a filter cut off', unsubscribe([bytesOf(0, 2, 0x61)]), MALFORMED_PACKET],
    ['an identifier', unsubscribe([text('a')], 1, { subscriptionIdentifier: 1 }), MALFORMED_PACKET], // section 2.2.2.2
    ['nothing', Buffer.alloc(0), MALFORMED_PACKET]
  ])
})

// ── acknowledgements, DISCONNECT, AUTH ───────────────────────────────────────

const puback: Read<{ packetId: number; reason: number }> = (...args) => readAck(PacketType.PUBACK, ...args)

test('readAck() takes a packet id, then perhaps a reason and properties (section 3.4.2)', () => {
  const reason = { reasonString: 'x' }
  table(puback, [
    ['the id', uint16(1), undefined],
    ['the id in 3.1.1', uint16(1), undefined, 4],
    ['a reason', bytesOf(uint16(1), 0x87), undefined],
    ['properties', bytesOf(uint16(1), 0x87, propertiesOf(reason)), undefined],
    ['id 0', uint16(0), PROTOCOL_ERROR],
    ['half an id', bytesOf(0), MALFORMED_PACKET],
    ['a reason in 3.1.1', bytesOf(uint16(1), 0), MALFORMED_PACKET, 4],
    ['bytes behind the properties', bytesOf(uint16(1), 0, propertiesOf(reason), 0), MALFORMED_PACKET],
    ['properties of another packet', bytesOf(uint16(1), 0, propertiesOf({ topicAlias: 1 })), MALFORMED_PACKET] // section 2.2.2.2
  ])
  assert.deepEqual(within(puback, bytesOf(uint16(258), 0x87)), { packetId: 258, reason: 0x87 })
  assert.deepEqual(within(puback, uint16(65_535)), { packetId: 65_535, reason: 0 })
})

test('readAck() takes the reason codes of the packet and no others [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1]', () => {
  const takes = (type: number): number[] =>
    Array.from({ length: 256 }, (_, code) => code).filter(code => {
      const bytes = bytesOf(uint16(1), code)
      try {
        return readAck(type, bytes, 0, bytes.length, 5).reason === code
      } catch (err) {
        assert.equal((err as PacketError).reason, PROTOCOL_ERROR)
        return false
      }
    })
  const answers = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
  assert.deepEqual([takes(PacketType.PUBACK), takes(PacketType.PUBREC)], [answers, answers])
  assert.deepEqual(
    [takes(PacketType.PUBREL), takes(PacketType.PUBCOMP)],
    [
      [0x00, 0x92],
      [0x00, 0x92]
    ]
  )
})

test('readDisconnect() takes nothing, or a reason and perhaps properties (section 3.14.2)', () => {
  const expiry = { sessionExpiryInterval: 5 }
  table(readDisconnect, [
    ['nothing', Buffer.alloc(0), undefined],
    ['nothing in 3.1.1', Buffer.alloc(0), undefined, 4],
    ['a reason', bytesOf(4), undefined],
    ['properties', bytesOf(0, propertiesOf(expiry)), undefined],
    ['a reason in 3.1.1', bytesOf(0), MALFORMED_PACKET, 4], // [MQTT-3.14.1-1]
    ['bytes behind', bytesOf(0, propertiesOf(expiry), 0), MALFORMED_PACKET],
    ['properties cut off', bytesOf(0, 5, 0x11, 0), MALFORMED_PACKET],
    ['properties of another packet', bytesOf(0, propertiesOf({ receiveMaximum: 5 })), MALFORMED_PACKET] // section 2.2.2.2
  ])
  assert.deepEqual(within(readDisconnect, bytesOf(4, propertiesOf(expiry))), { reason: 4, properties: expiry })
  assert.deepEqual(within(readDisconnect, Buffer.alloc(0)), { reason: 0, properties: {} })
})

test('readAuth() takes a reason that a client may give and the method (section 3.15.2)', () => {
  const data = Buffer.from('d')
  const method = { authenticationMethod: 'm', authenticationData: data }
  const more = { ...method, reasonString: 'x', userProperty: [['a', 'b']] as [string, string][] }
  assert.deepEqual(within(readAuth, bytesOf(0x18, propertiesOf(more))), { reason: 0x18, method: 'm', data })
  const alone = bytesOf(0x19, propertiesOf({ authenticationMethod: '' }))
  assert.deepEqual(within(readAuth, alone), { reason: 0x19, method: '', data: undefined })
  table(readAuth, [
    ['nothing, which is 0x00', Buffer.alloc(0), PROTOCOL_ERROR],
    ['0x00, which is the server’s', bytesOf(0, propertiesOf(method)), PROTOCOL_ERROR],
    ['another reason [MQTT-3.15.2-1]', bytesOf(0x87, propertiesOf(method)), PROTOCOL_ERROR],
    ['no properties', bytesOf(0x18), PROTOCOL_ERROR],
    ['no method', bytesOf(0x18, propertiesOf({ authenticationData: data })), PROTOCOL_ERROR],
    ['two methods', bytesOf(0x18, 8, 0x15, 0, 1, 0x6d, 0x15, 0, 1, 0x6d), PROTOCOL_ERROR],
    ['properties cut off', bytesOf(0x18, 5, 0x15, 0), MALFORMED_PACKET],
    ['bytes behind', bytesOf(0x18, propertiesOf(method), 0), MALFORMED_PACKET],
    ['properties of another packet', bytesOf(0x18, propertiesOf({ receiveMaximum: 5 })), MALFORMED_PACKET] // section 2.2.2.2
  ])
})

const readers: readonly [string, Read<unknown>][] = [
  ['readConnect', readConnect],
  ['readSubscribe', readSubscribe],
  ['readUnsubscribe', readUnsubscribe],
  ['readAck', puback],
  ['readDisconnect', readDisconnect],
  ['readAuth', readAuth]
]

test('The readers throw nothing but PacketError, whatever the bytes', () => {
  const noise = fc.uint8Array({ maxLength: 60 }).map(array => Buffer.from(array))
  // Near to what is right: a good packet, some bytes of it changed, some missing.
  const good = fc.constantFrom(
    connect(willFlag | userFlag | passwordFlag, [
      text('c'),
      propertiesOf({ willDelayInterval: 1, contentType: 'x' }),
      ...['w', 'x', 'u', 'p'].map(text)
    ]),
    connect(clean, [text('c')], of4),
    subscribe([text('a'), 0, text('$share/g/b'), 1], 9, { subscriptionIdentifier: 300 }),
    unsubscribe([text('a'), text('b')], 9, { userProperty: [['a', 'b']] }),
    bytesOf(0, propertiesOf({ reasonString: 'x', userProperty: [['a', 'b']] }))
  )
  const spoilt = fc
    .tuple(good, fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { maxLength: 3 }), fc.nat(60))
    .map(([bytes, changes, length]) => {
      const copy = Buffer.from(bytes.subarray(0, Math.max(length, bytes.length - length)))
      for (const [at, value] of changes) if (at < copy.length) copy[at] = value
      return copy
    })
  fc.assert(
    fc.property(fc.oneof(noise, spoilt), fc.constantFrom<Version>(3, 4, 5), (body, version) => {
      for (const [name, read] of readers) {
        try {
          within(read, body, version)
        } catch (err) {
          assert.ok(err instanceof PacketError, `${name}: ${err}`)
        }
      }
    }),
    { numRuns: 2000 }
  )
})

// ── against mqtt-packet, an encoder and decoder of another make ──────────────

const name = fc.string({ unit: 'grapheme', maxLength: 12 }).filter(each => !each.includes('\0'))
const topic = name.filter(isTopicName)
const filter = fc.oneof(topic, fc.constantFrom('#', 'a/+', '$share/g/a/#', '+/a')).filter(isTopicFilter)
const bytes = fc.uint8Array({ maxLength: 12 }).map(array => Buffer.from(array))
const packetId = fc.integer({ min: 1, max: 65_535 })
const qos = fc.constantFrom(0, 1, 2) as fc.Arbitrary<0 | 1 | 2>
const maybe = <T>(one: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(one, { nil: undefined })

/** What is not undefined: mqtt-packet does not bear it. */
const given = <T extends object>(from: T): T =>
  Object.fromEntries(Object.entries(from).filter(([, value]) => value !== undefined)) as T

function bodyOf(packet: Packet, version: Version): Buffer {
  const all = generate(packet, { protocolVersion: version })
  return all.subarray(bodyAt(all))
}

test('readConnect() reads what mqtt-packet writes', () => {
  const will = fc.record({
    topic,
    payload: bytes,
    qos,
    retain: fc.boolean(),
    delay: fc.nat(),
    contentType: maybe(name)
  })
  fc.assert(
    fc.property(
      fc.constantFrom<Version>(3, 4, 5),
      fc.record({
        clientId: name.filter(each => each !== ''),
        clean: fc.boolean(),
        keepalive: fc.nat(65_535),
        username: maybe(name.filter(each => each !== '')),
        password: maybe(bytes.filter(each => each.length > 0)),
        will: maybe(will),
        receiveMaximum: maybe(packetId),
        sessionExpiryInterval: maybe(fc.nat(0xffff_ffff))
      }),
      (version, { clientId, clean: cleanStart, keepalive, username, password, will, ...properties }) => {
        const secret = username === undefined ? undefined : password
        const body = bodyOf(
          given({
            cmd: 'connect',
            protocolVersion: version,
            protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
            clientId,
            clean: cleanStart,
            keepalive,
            username,
            password: secret,
            will: will && {
              topic: will.topic,
              payload: will.payload,
              qos: will.qos,
              retain: will.retain,
              ...(version === 5
                ? { properties: given({ willDelayInterval: will.delay, contentType: will.contentType }) }
                : {})
            },
            properties: version === 5 ? given(properties) : undefined
          }) as Packet,
          version
        )
        const read = within(readConnect, body, version)
        assert.deepEqual(given(read), {
          ...given({ version, clientId, cleanStart, keepAlive: keepalive, username, password: secret }),
          ...(will === undefined
            ? {}
            : {
                will: {
                  topic: will.topic,
                  payload: will.payload,
                  qos: will.qos,
                  retain: will.retain,
                  properties: version === 5 ? given({ contentType: will.contentType }) : {},
                  delay: version === 5 ? will.delay : 0
                }
              }),
          properties: version === 5 ? given(properties) : {}
        })
      }
    ),
    { numRuns: 300 }
  )
})

test('readSubscribe() and readUnsubscribe() read what mqtt-packet writes', () => {
  const request = fc.record({ filter, qos, nl: fc.boolean(), rap: fc.boolean(), rh: fc.nat(2) })
  fc.assert(
    fc.property(
      fc.constantFrom<Version>(3, 4, 5),
      packetId,
      fc.array(request, { minLength: 1, maxLength: 5 }),
      maybe(fc.integer({ min: 1, max: 268_435_455 })),
      (version, messageId, requests, subscriptionIdentifier) => {
        const is5 = version === 5
        const asked = requests.map(({ filter, qos, nl, rap, rh }) => ({
          filter,
          qos,
          noLocal: is5 && nl && !filter.startsWith('$share/'),
          retainAsPublished: is5 && rap,
          retainHandling: is5 ? rh : 0
        }))
        const subscriptions = asked.map(({ filter, qos, noLocal, retainAsPublished, retainHandling }) => ({
          topic: filter,
          qos,
          ...(is5 ? { nl: noLocal, rap: retainAsPublished, rh: retainHandling } : {})
        }))
        const properties = is5 && subscriptionIdentifier !== undefined ? { properties: { subscriptionIdentifier } } : {}
        assert.deepEqual(
          within(
            readSubscribe,
            bodyOf({ cmd: 'subscribe', messageId, subscriptions, ...properties }, version),
            version
          ),
          { packetId: messageId, requests: asked, identifier: is5 ? (subscriptionIdentifier ?? 0) : 0 }
        )
        const filters = asked.map(each => each.filter)
        assert.deepEqual(
          within(
            readUnsubscribe,
            bodyOf({ cmd: 'unsubscribe', messageId, unsubscriptions: filters }, version),
            version
          ),
          { packetId: messageId, filters }
        )
      }
    ),
    { numRuns: 300 }
  )
})

/** What mqtt-packet makes of bytes that are one packet. */
function parsed(packet: Buffer, version: Version): Record<string, unknown> {
  const found: unknown[] = []
  const reader = parser({ protocolVersion: version })
  reader.on('packet', one => found.push(one))
  reader.on('error', err => {
    throw err
  })
  assert.equal(reader.parse(packet), 0)
  assert.equal(found.length, 1)
  return { ...(found[0] as object) }
}

const some = (packet: Record<string, unknown>, ...names: string[]): unknown[] => names.map(each => packet[each])

test('connack(), suback(), unsuback(), disconnect(), auth(), ackWithReason() write what mqtt-packet reads', () => {
  const properties = { sessionExpiryInterval: 7, receiveMaximum: 5, maximumPacketSize: 70_000, topicAliasMaximum: 3 }
  const refused = { reasonString: 'x'.repeat(200) }
  assert.deepEqual(some(parsed(connack(4, true, 0), 4), 'cmd', 'sessionPresent', 'returnCode'), ['connack', true, 0])
  // [MQTT-3.2.2-6]
  assert.deepEqual(some(parsed(connack(4, true, 5), 4), 'cmd', 'sessionPresent', 'returnCode'), ['connack', false, 5])
  const ok = parsed(connack(5, true, 0, properties), 5)
  assert.deepEqual(some(ok, 'sessionPresent', 'reasonCode'), [true, 0])
  assert.deepEqual({ ...(ok['properties'] as object) }, properties)
  const no = parsed(connack(5, true, 0x87, refused), 5)
  assert.deepEqual(some(no, 'sessionPresent', 'reasonCode'), [false, 0x87])
  assert.deepEqual({ ...(no['properties'] as object) }, refused)
  for (const version of [3, 4, 5] as const) {
    const failed = version === 5 ? 0x87 : 0x80
    const sub = parsed(suback(version, 258, [0, 1, 2, failed]), version)
    assert.deepEqual(some(sub, 'cmd', 'messageId', 'granted'), ['suback', 258, [0, 1, 2, failed]])
    const unsub = parsed(unsuback(version, 258, [0, 0x11]), version)
    assert.deepEqual(some(unsub, 'cmd', 'messageId'), ['unsuback', 258])
    if (version === 5) assert.deepEqual(unsub['granted'], [0, 0x11])
    else assert.equal(unsuback(version, 258, [0, 0x11]).toString('hex'), 'b0020102')
  }
  const bye = parsed(disconnect(Reason.SESSION_TAKEN_OVER, refused), 5)
  assert.deepEqual(some(bye, 'cmd', 'reasonCode'), ['disconnect', 0x8e])
  assert.deepEqual({ ...(bye['properties'] as object) }, refused)
  const more = parsed(auth(Reason.CONTINUE_AUTHENTICATION, { authenticationMethod: 'm' }), 5)
  assert.deepEqual(some(more, 'cmd', 'reasonCode'), ['auth', 0x18])
  for (const [header, cmd, reason] of [
    [0x40, 'puback', Reason.NO_MATCHING_SUBSCRIBERS],
    [0x50, 'pubrec', Reason.NOT_AUTHORIZED],
    [0x62, 'pubrel', Reason.PACKET_IDENTIFIER_NOT_FOUND],
    [0x70, 'pubcomp', Reason.PACKET_IDENTIFIER_NOT_FOUND]
  ] as const) {
    const ack = parsed(ackWithReason(header, 258, reason), 5)
    assert.deepEqual(some(ack, 'cmd', 'messageId', 'reasonCode'), [cmd, 258, reason])
  }
})
