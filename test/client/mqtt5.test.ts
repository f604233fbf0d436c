// What MQTT 5 says that MQTT 3.1.1 does not, packet by packet; sessions and delivery alike in both are in sessions.test.ts.
import assert from 'node:assert/strict'
import { after, before, describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type Got,
  type Property,
  packet,
  pingreq,
  propertyBytes,
  RawClient,
  type Running,
  Speaker,
  type SpeakerOptions,
  startServer,
  text,
  until
} from '../support/server.js'

const conf = `
mqtt.session.max_awaiting_rel = 3
mqtt.session.expiry_interval = 2h
mqtt.session.max_subscriptions = 20
mqtt.max_topic_alias = 10
mqtt.max_packet_size = 128KB
mqtt.max_clientid_len = 64
`
const acl = `
{deny, all, publish, ["denied/#"]}.
{deny, all, subscribe, ["$secret/#"]}.
{allow, all}.
`

const of = (packets: readonly Got[], type: number): Got[] => packets.filter(got => got.type === type)
const value = ({ properties }: Got, id: number): Property[1] | undefined => properties.find(p => p[0] === id)?.[1]
const noLocal = 4
const retainAsPublished = 8
const retainHandling = (n: number): number => n << 4

/** A CONNECT whose variable header after the name is as given. */
const rawConnect = (flags: number, properties: Buffer | readonly Property[], ...payload: (Buffer | number)[]): Buffer =>
  packet(
    0x10,
    text('MQTT'),
    5,
    flags,
    0,
    0,
    ...[Buffer.isBuffer(properties) ? properties : propertyBytes(properties)],
    ...payload
  )

describe('MQTT 5', { concurrency: 12 }, () => {
  let server: Running
  let names = 0
  const undo: (() => Promise<void> | void)[] = []

  before(async () => {
    server = await startServer({ after: (f: () => void) => void undo.push(f) } as unknown as TestContext, { conf, acl })
  })
  after(async () => {
    for (const each of undo.reverse()) await each()
  })

  const unique = (prefix: string): string => `${prefix}${++names}`
  const connect = (t: TestContext, options: SpeakerOptions = {}): Promise<Speaker> =>
    Speaker.connect(t, server, { version: 5, id: unique('c'), ...options })

  // ── CONNECT and CONNACK ────────────────────────────────────────────────────

  test('CONNACK tells Receive Maximum, Maximum Packet Size and Topic Alias Maximum as they are [MQTT-3.2.2-20]', async t => {
    const { connack } = await connect(t)
    assert.equal(connack.code, 0)
    assert.deepEqual(
      [...connack.properties].sort((a, b) => a[0] - b[0]),
      [
        [0x21, 3],
        [0x22, 10],
        [0x27, 128 * 1024]
      ]
    ) // no word on QoS, retain, wildcards, identifiers and shared subscriptions: they are all to be had
  })

  test('CONNACK names the client identifier that the broker assigned [MQTT-3.2.2-16]', async t => {
    const { connack } = await connect(t, { id: '' })
    const id = value(connack, 0x12) as string
    assert.equal(connack.code, 0)
    assert.ok(server.server.clients.client(id), id)
    const other = await connect(t, { id: '' })
    assert.notEqual(value(other.connack, 0x12), id)
  })

  test('CONNACK tells the session expiry where it is less than asked for (section 3.2.2.3.2)', async t => {
    assert.equal(value((await connect(t, { expiry: 0xffffffff })).connack, 0x11), 7200)
    assert.equal(value((await connect(t, { expiry: 60 })).connack, 0x11), undefined)
  })

  test('CONNECT that is refused gets a CONNACK with the reason, and the connection ends (section 4.13)', async t => {
    const longId = 'x'.repeat(65)
    const rows: [title: string, bytes: Buffer, code: number][] = [
      ['reserved flag [MQTT-3.1.2-3]', rawConnect(3, [], text('a')), 0x81],
      ['will QoS 3 [MQTT-3.1.2-12]', rawConnect(0x1e, [], text('a'), 0, text('w'), text('')), 0x81],
      ['will QoS without a will [MQTT-3.1.2-11]', rawConnect(0x0a, [], text('a')), 0x81],
      ['will retain without a will [MQTT-3.1.2-13]', rawConnect(0x22, [], text('a')), 0x81],
      ['no client identifier at all [MQTT-3.1.3-3]', rawConnect(2, []), 0x81],
      ['bytes behind the payload', rawConnect(2, [], text('a'), 0), 0x81],
      ['NUL in the client identifier [MQTT-1.5.4-2]', rawConnect(2, [], text('a\0b')), 0x81],
      ['a surrogate in the client identifier [MQTT-1.5.4-1]', rawConnect(2, [], 0, 3, 0xed, 0xa0, 0x80), 0x81],
      [
        'flags of the fixed header [MQTT-2.1.3-1]',
        Buffer.concat([Buffer.from([0x12]), rawConnect(2, [], text('a')).subarray(1)]),
        0x81
      ],
      ['unknown property', rawConnect(2, Buffer.from([2, 0x7f, 0]), text('a')), 0x81],
      ['truncated properties', rawConnect(2, Buffer.from([200, 1, 0x21]), text('a')), 0x81],
      [
        'property length not in as few bytes as it takes [MQTT-1.5.5-1]',
        rawConnect(2, Buffer.from([0x80, 0]), text('a')),
        0x81
      ],
      ['Receive Maximum 0 (3.1.2.11.3)', rawConnect(2, [[0x21, 0]], text('a')), 0x82],
      ['Maximum Packet Size 0 (3.1.2.11.4)', rawConnect(2, [[0x27, 0]], text('a')), 0x82],
      ['Request Problem Information 2 (3.1.2.11.7)', rawConnect(2, [[0x17, 2]], text('a')), 0x82],
      [
        'Session Expiry Interval twice (3.1.2.11.2)',
        rawConnect(
          2,
          [
            [0x11, 1],
            [0x11, 1]
          ],
          text('a')
        ),
        0x82
      ],
      ['a property of PUBLISH (2.2.2.2)', rawConnect(2, [[0x23, 1]], text('a')), 0x81],
      ['Will Delay outside the will (2.2.2.2)', rawConnect(2, [[0x18, 1]], text('a')), 0x81],
      ['Authentication Data without a method (3.1.2.11.10)', rawConnect(2, [[0x16, 'x']], text('a')), 0x82],
      ['authentication method [MQTT-4.12.0-1]', rawConnect(2, [[0x15, 'SCRAM']], text('a')), 0x8c],
      ['client identifier too long [MQTT-3.1.3-8]', rawConnect(2, [], text(longId)), 0x85],
      ['empty will topic [MQTT-4.7.3-1]', rawConnect(6, [], text('a'), 0, text(''), text('')), 0x90],
      ['will topic with a wildcard [MQTT-3.3.2-2]', rawConnect(6, [], text('a'), 0, text('w/#'), text('')), 0x90],
      [
        'will property twice',
        rawConnect(
          6,
          [],
          text('a'),
          propertyBytes([
            [0x18, 1],
            [0x18, 1]
          ]),
          text('w'),
          text('')
        ),
        0x82
      ],
      [
        'response topic of the will with a wildcard [MQTT-3.3.2-14]',
        rawConnect(6, [], text('a'), propertyBytes([[0x08, 'r/+']]), text('w'), text('')),
        0x82
      ]
    ]
    for (const [title, bytes, code] of rows) {
      const speaker = new Speaker(await RawClient.connect(t, server), 5)
      speaker.send(bytes, pingreq)
      const answer = await speaker.next()
      assert.deepEqual([title, answer.type, answer.code.toString(16)], [title, 2, code.toString(16)])
      assert.equal((await speaker.next()).type, 0, title)
    }
  })

  test('CONNECT of an unknown version: an older one is told 1, a later one 0x84 [MQTT-3.1.2-2]', async t => {
    for (const [level, hex] of [
      [2, '20020001'],
      [3, '20020001'],
      [6, '2003008400']
    ] as const) {
      const raw = await RawClient.connect(t, server)
      raw.send(packet(0x10, text('MQTT'), level, 2, 0, 0, 0, text('a')))
      assert.equal((await raw.readPacket()).toString('hex'), hex, `level ${level}`)
      await raw.closed
    }
  })

  test('a connection that does not begin with an MQTT CONNECT just ends [MQTT-3.1.0-1], [MQTT-3.1.2-1]', async t => {
    for (const bytes of [
      packet(0x10, text('MQXX'), 5, 2, 0, 0, 0, text('a')),
      packet(0x30, text('a'), 0),
      packet(0xe0),
      packet(0xf0),
      pingreq
    ]) {
      const raw = await RawClient.connect(t, server)
      raw.send(bytes)
      assert.equal((await raw.readPacket()).length, 0, bytes.toString('hex'))
    }
  })

  test('names that JavaScript objects have are client identifiers, topics and filters like others', async t => {
    for (const name of ['constructor', '__proto__', 'toString', 'hasOwnProperty']) {
      const one = await connect(t, { id: name })
      assert.equal(one.connack.code, 0)
      assert.deepEqual(
        await one.subscribe([
          [name, 1],
          [`${name}/#`, 1]
        ]),
        [1, 1]
      )
      await one.publish(name, 'x', { qos: 0 })
      assert.deepEqual(await one.payloads(), ['x'])
      assert.deepEqual(await one.unsubscribe([name, `${name}/#`]), [0, 0])
      await one.leave()
    }
  })

  // ── packets that must not be ───────────────────────────────────────────────

  test('a malformed or forbidden packet gets DISCONNECT with the reason, ends that connection only, and nothing of it goes on (section 4.13)', async t => {
    const bystander = await connect(t)
    await bystander.subscribe([['bad/#', 0]])
    const p = new Speaker(bystander.raw, 5)
    const publication = (properties: readonly Property[], topic = 'bad/t'): Buffer =>
      p.publication(topic, 'x', { properties })
    const pub = (properties: readonly number[]): Buffer =>
      packet(0x30, text('bad/t'), properties.length, Buffer.from(properties), Buffer.from('x'))
    const id = (n: number): Buffer => Buffer.from([0, n])
    const subscribe = (filter: string, options = 0, properties: readonly Property[] = []): Buffer =>
      p.subscription([[filter, options]], 1, properties)
    const rows: [title: string, bytes: Buffer, code: number][] = [
      ['type 0 (2.1.2)', packet(0x00), 0x81],
      ...[2, 9, 11, 13].map((type): [string, Buffer, number] => [
        `type ${type}, a server's packet (4.13.1)`,
        packet(type << 4, id(1), 0),
        0x82
      ]),
      ['remaining length of five bytes (1.5.5)', Buffer.from([0x30, 0x80, 0x80, 0x80, 0x80, 0x01]), 0x81],
      ['larger than Maximum Packet Size [MQTT-3.2.2-15]', p.publication('bad/t', Buffer.alloc(128 * 1024)), 0x95],
      ['second CONNECT [MQTT-3.1.0-2]', Speaker.connectBytes({ version: 5, id: 'bad' }), 0x82],
      ['AUTH without a method in CONNECT [MQTT-4.12.0-6]', packet(0xf0), 0x82],
      [
        'AUTH with a method, without one in CONNECT [MQTT-4.12.0-6]',
        packet(0xf0, 0x18, propertyBytes([[0x15, 'x']])),
        0x82
      ],
      ['PINGREQ with a body', packet(0xc0, 0), 0x81],
      ['PINGREQ with flags [MQTT-2.1.3-1]', packet(0xc1), 0x81],

      ['PUBLISH with QoS 3 [MQTT-3.3.1-4]', packet(0x36, text('bad/t'), id(1), 0), 0x81],
      ['PUBLISH with DUP and QoS 0 [MQTT-3.3.1-2]', packet(0x38, text('bad/t'), 0), 0x81],
      ['PUBLISH with packet identifier 0 [MQTT-2.2.1-3]', packet(0x32, text('bad/t'), id(0), 0), 0x82],
      ['PUBLISH without room for its topic', packet(0x30, 0, 9, 0x61), 0x81],
      ['PUBLISH without room for its packet identifier', packet(0x32, text('bad/t'), 0), 0x81],
      ['PUBLISH of nothing', packet(0x30), 0x81],
      ['PUBLISH to a# [MQTT-3.3.2-2]', publication([], 'bad/#'), 0x90],
      ['PUBLISH to + [MQTT-3.3.2-2]', publication([], 'bad/+/a'), 0x90],
      ['PUBLISH to more levels than allowed', publication([], `bad${'/x'.repeat(128)}`), 0x90],
      ['PUBLISH, topic with NUL [MQTT-1.5.4-2]', publication([], 'bad/\0'), 0x81],
      [
        'PUBLISH, topic with a surrogate [MQTT-1.5.4-1]',
        packet(0x30, 0, 7, Buffer.from('bad/'), 0xed, 0xa0, 0x80, 0),
        0x81
      ],
      [
        'PUBLISH, topic with an overlong form [MQTT-1.5.4-1]',
        packet(0x30, 0, 6, Buffer.from('bad/'), 0xc0, 0x80, 0),
        0x81
      ],
      ['PUBLISH without topic and alias (3.3.2.1)', publication([], ''), 0x82],
      ['PUBLISH with an alias that stands for nothing (3.3.2.3.4)', publication([[0x23, 3]], ''), 0x82],
      ['PUBLISH with alias 0 [MQTT-3.3.2-8]', publication([[0x23, 0]]), 0x94],
      ['PUBLISH with an alias above the maximum [MQTT-3.3.2-9]', publication([[0x23, 11]]), 0x94],
      ['PUBLISH, Payload Format Indicator 2 (3.3.2.3.2)', publication([[0x01, 2]]), 0x82],
      [
        'PUBLISH, Payload Format Indicator twice (3.3.2.3.2)',
        publication([
          [0x01, 1],
          [0x01, 1]
        ]),
        0x82
      ],
      [
        'PUBLISH, Message Expiry twice (3.3.2.3.3)',
        publication([
          [0x02, 9],
          [0x02, 9]
        ]),
        0x82
      ],
      ['PUBLISH with a subscription identifier [MQTT-3.3.4-6]', publication([[0x0b, 1]]), 0x82],
      ['PUBLISH, response topic with a wildcard [MQTT-3.3.2-14]', publication([[0x08, 'a/#']]), 0x82],
      ['PUBLISH, truncated response topic', pub([0x08, 0, 9, 0x61]), 0x81],
      ['PUBLISH with a property of CONNECT (2.2.2.2)', publication([[0x11, 1]]), 0x81],
      ['PUBLISH with an unknown property', pub([0x7f, 0]), 0x81],
      ['PUBLISH, properties run past the packet', packet(0x30, text('bad/t'), 100, 0x01), 0x81],
      ['PUBLISH, user property with NUL [MQTT-1.5.4-2]', publication([[0x26, ['a', '\0']]]), 0x81],
      ['PUBLISH, user property that is not UTF-8 [MQTT-1.5.4-1]', pub([0x26, 0, 1, 0xff, 0, 0]), 0x81],
      ['PUBLISH, properties without their length', packet(0x30, text('bad/t')), 0x81],

      ['PUBACK with packet identifier 0', p.ack(4, 0), 0x82],
      ['PUBACK too short', packet(0x40, 1), 0x81],
      ['PUBREL with wrong flags [MQTT-3.6.1-1]', packet(0x60, id(1)), 0x81],
      ['PUBREC with a property of CONNECT (2.2.2.2)', packet(0x50, id(1), 0, propertyBytes([[0x21, 1]])), 0x81],
      ['PUBREL with DUP [MQTT-3.6.1-1]', packet(0x6a, id(1)), 0x81],
      ['PUBACK with a reason code of another packet [MQTT-3.4.2-1]', packet(0x40, id(1), 0x92), 0x82],
      ['PUBREC with a reason code that there is not [MQTT-3.5.2-1]', packet(0x50, id(1), 0xff), 0x82],
      ['PUBREL with a reason code of another packet [MQTT-3.6.2-1]', packet(0x62, id(1), 0x10), 0x82],
      ['PUBCOMP with a reason code of another packet [MQTT-3.7.2-1]', packet(0x70, id(1), 0x80), 0x82],

      ['SUBSCRIBE with wrong flags [MQTT-3.8.1-1]', packet(0x80, id(1), 0, text('bad/a'), 0), 0x81],
      ['SUBSCRIBE with DUP [MQTT-3.8.1-1]', packet(0x8a, id(1), 0, text('bad/a'), 0), 0x81],
      ['SUBSCRIBE with packet identifier 0 [MQTT-2.2.1-3]', packet(0x82, id(0), 0, text('bad/a'), 0), 0x82],
      ['SUBSCRIBE without a filter [MQTT-3.8.3-2]', packet(0x82, id(1), 0), 0x82],
      ['SUBSCRIBE without options', packet(0x82, id(1), 0, text('bad/a')), 0x81],
      ['SUBSCRIBE with reserved options [MQTT-3.8.3-5]', subscribe('bad/a', 0x40), 0x81],
      ['SUBSCRIBE with retain handling 3 (3.8.3.1)', subscribe('bad/a', retainHandling(3)), 0x82],
      ['SUBSCRIBE, no local on a shared subscription [MQTT-3.8.3-4]', subscribe('$share/g/bad/a', noLocal), 0x82],
      ['SUBSCRIBE with subscription identifier 0 (3.8.2.1.2)', subscribe('bad/a', 0, [[0x0b, 0]]), 0x82],
      [
        'SUBSCRIBE with two subscription identifiers (3.8.2.1.2)',
        subscribe('bad/a', 0, [
          [0x0b, 1],
          [0x0b, 2]
        ]),
        0x82
      ],
      ['SUBSCRIBE, filter with NUL [MQTT-1.5.4-2]', subscribe('bad/\0'), 0x81],
      ...['', 'a#', '+a', 'a+', 'a/+b', 'a/#/b', '#/a', '$share/g', '$share/g/', '$share/+/a', '$share/#/a'].map(
        (filter): [string, Buffer, number] => [
          `SUBSCRIBE to "${filter}" [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.8.2-2]`,
          subscribe(filter),
          0x81
        ]
      ),

      ['UNSUBSCRIBE with wrong flags [MQTT-3.10.1-1]', packet(0xa0, id(1), 0, text('a')), 0x81],
      ['UNSUBSCRIBE without a filter [MQTT-3.10.3-2]', packet(0xa2, id(1), 0), 0x82],
      ['UNSUBSCRIBE with packet identifier 0', packet(0xa2, id(0), 0, text('a')), 0x82],
      ['UNSUBSCRIBE from a#', p.unsubscription(['a#']), 0x81],
      [
        'UNSUBSCRIBE with a property of SUBSCRIBE (2.2.2.2)',
        packet(0xa2, id(1), propertyBytes([[0x0b, 1]]), text('a')),
        0x81
      ],
      ['UNSUBSCRIBE with DUP [MQTT-3.10.1-1]', packet(0xaa, id(1), 0, text('a')), 0x81],

      [
        'DISCONNECT with a session expiry where CONNECT had 0 [MQTT-3.14.2-2]',
        packet(0xe0, 0, propertyBytes([[0x11, 5]])),
        0x82
      ],
      ['DISCONNECT with a property of CONNECT', packet(0xe0, 0, propertyBytes([[0x21, 5]])), 0x81],
      ['DISCONNECT with wrong flags [MQTT-3.14.1-1]', packet(0xe1), 0x81]
    ]
    const wrong: string[] = []
    for (const [title, bytes, code] of rows) {
      const culprit = await connect(t)
      culprit.send(bytes, p.publication('bad/after', title)) // what comes behind it does not count any more
      const answer = await culprit.next()
      if (answer.type !== 14 || answer.code !== code) {
        wrong.push(`${title}: ${code.toString(16)}, not type ${answer.type} ${answer.code.toString(16)}`)
      }
      if ((await culprit.next()).type !== 0) wrong.push(`${title}: not closed`)
    }
    assert.deepEqual(wrong, [])
    assert.deepEqual(await bystander.heard(), [])
  })

  test('more QoS 2 messages under way than Receive Maximum: DISCONNECT 0x93 [MQTT-3.3.4-8]', async t => {
    const one = await connect(t)
    for (let id = 1; id <= 4; id++) one.send(one.publication('rm', '', { qos: 2, id }))
    for (let id = 1; id <= 3; id++) assert.equal((await one.next()).type, 5)
    const answer = await one.next()
    assert.deepEqual([answer.type, answer.code], [14, 0x93])
  })

  test('DISCONNECT 0x94 right after CONNACK arrives: CONNECT and the bad PUBLISH in one segment', async t => {
    const one = new Speaker(await RawClient.connect(t, server), 5)
    one.send(
      Speaker.connectBytes({ version: 5, id: unique('c') }),
      one.publication('a', '', { properties: [[0x23, 99]] })
    )
    assert.deepEqual([(await one.next()).type, (await one.next()).code, (await one.next()).type], [2, 0x94, 0])
  })

  test('a topic of 65 535 bytes and one of 128 levels are topics', async t => {
    const one = await connect(t)
    const long = `${unique('long')}/`.padEnd(65_535, 'x')
    const deep = unique('deep') + '/x'.repeat(127)
    await one.subscribe([
      [long, 1],
      [deep, 1]
    ])
    assert.equal((await one.publish(long, '1', { qos: 1 })).code, 0)
    assert.equal((await one.publish(deep, '2', { qos: 1 })).code, 0)
    assert.deepEqual(
      (await one.heard()).map(({ topic }) => topic),
      [long, deep]
    )
  })

  // ── acknowledgements ───────────────────────────────────────────────────────

  test('PUBREL and PUBREC for a packet identifier that nobody knows are answered with 0x92 (sections 3.6.2.1, 3.7.2.1)', async t => {
    const one = await connect(t)
    one.send(one.ack(6, 77), one.ack(5, 78))
    const [pubcomp, pubrel] = [await one.next(), await one.next()]
    assert.deepEqual([pubcomp.type, pubcomp.id, pubcomp.code], [7, 77, 0x92])
    assert.deepEqual([pubrel.type, pubrel.id, pubrel.code], [6, 78, 0x92])
    one.send(one.ack(4, 79), one.ack(7, 80)) // these have no answer
    assert.deepEqual(await one.heard(), [])
  })

  test('two PUBRELs for one identifier in one segment: PUBCOMP 0, then 0x92', async t => {
    const one = await connect(t)
    one.send(one.publication('rel', '', { qos: 2, id: 5 }), one.ack(6, 5), one.ack(6, 5))
    const codes = [await one.next(), await one.next(), await one.next()].map(({ type, code }) => [type, code])
    assert.deepEqual(codes, [
      [5, 0x10],
      [7, 0],
      [7, 0x92]
    ])
  })

  test('PUBACK and PUBREC say 0x10 when nobody subscribed (section 3.4.2.1)', async t => {
    const one = await connect(t)
    const topic = unique('nobody')
    assert.equal((await one.publish(topic, '', { qos: 1 })).code, 0x10)
    one.send(one.publication(topic, '', { qos: 2, id: 9 }))
    assert.equal((await one.nextOf(5)).code, 0x10)
    await one.subscribe([[topic, 0]])
    assert.equal((await one.publish(topic, '', { qos: 1 })).code, 0)
  })

  test('what the ACL denies is answered with 0x87, not passed on, and the connection stays (section 3.4.2.1, 3.9.3)', async t => {
    const one = await connect(t)
    assert.deepEqual(
      await one.subscribe([
        ['$secret/a', 1],
        ['denied/a', 1]
      ]),
      [0x87, 1]
    )
    assert.equal((await one.publish('denied/a', '', { qos: 1 })).code, 0x87)
    assert.equal((await one.publish('denied/a', '', { qos: 2 })).code, 0x87)
    await one.publish('denied/a', '', { qos: 0 })
    assert.equal((await one.publish('$SYS/a', '', { qos: 1 })).code, 0x87)
    assert.deepEqual(await one.heard(), [])
  })

  test('a PUBREC with 0x80 or more ends the exchange, and the place is free again (section 4.9)', async t => {
    const [to, from] = [await connect(t, { properties: [[0x21, 1]] }), await connect(t)]
    const topic = unique('refuse')
    await to.subscribe([[topic, 2]])
    await from.publish(topic, '1', { qos: 2 })
    await from.publish(topic, '2', { qos: 2 })
    const first = await to.nextOf(3)
    to.send(to.ack(5, first.id, 0x83))
    const second = await to.next()
    assert.deepEqual([second.type, second.payload], [3, '2'])
  })

  // ── properties of messages ─────────────────────────────────────────────────

  test('properties go on as they came: user properties in order and twice, content type, response topic, correlation data, payload format [MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-18], [MQTT-3.3.2-20]', async t => {
    const [to, from] = [await connect(t), await connect(t)]
    const old = await connect(t, { version: 4 })
    const topic = unique('props')
    const properties: Property[] = [
      [0x26, ['b', '1']],
      [0x01, 1],
      [0x26, ['a', '2']],
      [0x03, 'text/plain'],
      [0x26, ['b', '1']],
      [0x08, 'answer/here'],
      [0x09, 'correlated'],
      [0x26, ['b', '3']]
    ]
    await to.subscribe([[topic, 2]])
    await old.subscribe([[topic, 2]])
    for (const qos of [0, 1, 2]) {
      for (const alias of [[], [[0x23, 1]]] as Property[][]) {
        await from.publish(topic, 'p', { qos, properties: [...properties, ...alias] })
        const got = await to.nextOf(3)
        assert.equal(got.payload, 'p')
        assert.deepEqual(
          of([got], 3)[0]!.properties.filter(([id]) => id === 0x26),
          properties.filter(([id]) => id === 0x26)
        )
        const rest = (all: readonly Property[]) => all.filter(([id]) => id !== 0x26).sort((a, b) => a[0] - b[0])
        assert.deepEqual(rest(got.properties), rest(properties))
        if (qos > 0) to.send(to.ack(qos === 1 ? 4 : 5, got.id))
        const plain = await old.nextOf(3)
        assert.deepEqual([plain.topic, plain.payload], [topic, 'p'])
        if (qos > 0) old.send(old.ack(qos === 1 ? 4 : 5, plain.id))
      }
    }
  })

  test('a topic alias stands for its topic until it is mapped anew, and for this connection only [MQTT-3.3.2-7], [MQTT-3.3.2-10]', async t => {
    const [to, from] = [await connect(t), await connect(t)]
    const [a, b] = [unique('al'), unique('al')]
    await to.subscribe([
      [a, 0],
      [b, 0]
    ])
    const alias = (n: number) => ({ properties: [[0x23, n]] as Property[] })
    from.send(
      from.publication(a, '1', alias(1)),
      from.publication('', '2', alias(1)),
      from.publication(b, '3', alias(10)),
      from.publication('', '4', alias(1)),
      from.publication(b, '5', alias(1)),
      from.publication('', '6', alias(1)),
      from.publication('', '7', alias(10)),
      from.publication(a, '8')
    )
    await from.heard()
    const got = (await to.heard()).map(({ topic, payload, properties }) => [topic, payload, properties.length])
    assert.deepEqual(got, [
      [a, '1', 0],
      [a, '2', 0],
      [b, '3', 0],
      [a, '4', 0],
      [b, '5', 0],
      [b, '6', 0],
      [b, '7', 0],
      [a, '8', 0]
    ])
    const other = await connect(t)
    other.send(other.publication('', 'x', alias(1)))
    assert.equal((await other.next()).code, 0x82)
  })

  test('Message Expiry Interval is counted down, and what has expired is not sent, queued or retained [MQTT-3.3.2-5], [MQTT-3.3.2-6]', async t => {
    const id = unique('c')
    const [a, b, retained, gone] = [unique('exp'), unique('exp'), unique('exp'), unique('exp')]
    const sleeper = await connect(t, { id, clean: false })
    await sleeper.subscribe([
      [a, 1],
      [b, 1]
    ])
    await sleeper.leave()
    const from = await connect(t)
    const expiry = (seconds: number) => ({ qos: 1, properties: [[0x02, seconds]] as Property[] })
    await from.publish(a, 'long', expiry(10_000))
    await from.publish(b, 'short', expiry(1))
    await from.publish(retained, 'long', { ...expiry(100), retain: true })
    await from.publish(gone, 'short', { ...expiry(1), retain: true })
    await sleep(1600)
    const back = await connect(t, { id, clean: false })
    const queued = of(await back.heard(), 3)
    assert.deepEqual(
      queued.map(({ payload }) => payload),
      ['long']
    )
    const left = value(queued[0]!, 0x02) as number
    assert.ok(left > 9000 && left <= 9999, `${left}`)
    back.send(back.ack(4, queued[0]!.id))
    await back.subscribe([
      [retained, 1],
      [gone, 1]
    ])
    const kept = of(await back.heard(), 3)
    assert.deepEqual(
      kept.map(({ payload }) => payload),
      ['long']
    )
    assert.ok((value(kept[0]!, 0x02) as number) <= 99)
  })

  test('Message Expiry Interval reaches a live subscriber as it was sent, at every QoS [MQTT-3.3.2-6]', async t => {
    const one = await connect(t)
    const topic = unique('live')
    await one.subscribe([[topic, 2]])
    for (const qos of [0, 1, 2]) {
      await one.publish(topic, '', { qos, properties: [[0x02, 100]] })
      const left = value(await one.nextOf(3), 0x02) as number
      assert.ok(left === 100 || left === 99, `${left}`)
    }
  })

  // ── subscriptions ──────────────────────────────────────────────────────────

  test('subscription identifiers: those of all filters that match, live, retained and queued [MQTT-3.3.4-3] to [MQTT-3.3.4-5]', async t => {
    const id = unique('c')
    const topic = unique('sid')
    const one = await connect(t, { id, clean: false })
    await one.subscribe([[`${topic}/#`, 1]], [[0x0b, 1]])
    await one.subscribe([[`${topic}/+`, 2]], [[0x0b, 268_435_455]])
    await one.subscribe([[`${topic}/a`, 0]])
    const identifiers = ({ properties }: Got) =>
      properties
        .filter(p => p[0] === 0x0b)
        .map(p => p[1])
        .sort()
    const from = await connect(t)
    for (const qos of [0, 1]) {
      await from.publish(`${topic}/a`, '', { qos })
      const got = await one.nextOf(3)
      assert.deepEqual([got.qos, identifiers(got)], [qos, [1, 268_435_455]])
      if (qos > 0) one.send(one.ack(4, got.id))
    }
    await one.subscribe([[`${topic}/+`, 2]]) // the same filter without one: it has none any more
    await one.leave()
    await from.publish(`${topic}/a`, 'queued', { qos: 1 })
    const back = await connect(t, { id, clean: false })
    const queued = await back.nextOf(3)
    assert.deepEqual([queued.payload, identifiers(queued)], ['queued', [1]])
    await from.publish(`${topic}/b`, 'kept', { retain: true })
    await back.heard()
    await back.subscribe([[`${topic}/b`, 0]], [[0x0b, 7]])
    assert.deepEqual(of(await back.heard(), 3).map(identifiers), [[7]])
  })

  test('no local: not to the client that sent it, to others all the same [MQTT-3.8.3-3]', async t => {
    const [one, other] = [await connect(t), await connect(t)]
    const topic = unique('nl')
    await one.subscribe([[topic, noLocal | 1]])
    await other.subscribe([[topic, noLocal | 1]])
    await one.publish(topic, 'mine', { qos: 1 })
    assert.deepEqual(await one.payloads(), [])
    assert.deepEqual(await other.payloads(), ['mine'])
    await one.subscribe([[topic, 1]])
    await one.publish(topic, 'mine too', { qos: 1 })
    assert.deepEqual(await one.payloads(), ['mine too'])
  })

  test('retain as published keeps the flag, live and queued; without it the flag is cleared [MQTT-3.3.1-12], [MQTT-3.3.1-13]', async t => {
    const topic = unique('rap')
    for (const [options, retain] of [
      [1 | retainAsPublished, true],
      [1, false]
    ] as const) {
      const id = unique('c')
      const one = await connect(t, { id, clean: false })
      await one.subscribe([[topic, options]])
      await one.heard()
      const from = await connect(t)
      for (const qos of [0, 1]) {
        await from.publish(topic, 'x', { retain: true, qos })
        assert.equal((await one.nextOf(3)).retain, retain)
        await from.publish(topic, 'x', { qos })
        assert.equal((await one.nextOf(3)).retain, false)
      }
      await one.leave()
      await from.publish(topic, 'queued', { retain: true, qos: 1 })
      const back = await connect(t, { id, clean: false })
      const queued = (await back.heard()).filter(({ payload }) => payload === 'queued')
      assert.deepEqual(
        queued.map(got => got.retain),
        [retain]
      )
      await from.publish(topic, '', { retain: true })
    }
  })

  test('retain handling: 0 always, 1 for a new subscription, 2 never [MQTT-3.3.1-9] to [MQTT-3.3.1-11]', async t => {
    const one = await connect(t)
    const topic = unique('rh')
    await one.publish(topic, 'kept', { retain: true })
    const sent = async (handling: number): Promise<number> => {
      await one.subscribe([[topic, retainHandling(handling)]])
      const got = of(await one.heard(), 3)
      assert.ok(got.every(({ retain }) => retain))
      return got.length
    }
    assert.deepEqual([await sent(2), await sent(1), await sent(0), await sent(0)], [0, 0, 1, 1])
    await one.unsubscribe([topic])
    assert.deepEqual([await sent(1), await sent(1)], [1, 0])
  })

  test('a shared subscription gets no retained messages, however it is written (section 4.8.2)', async t => {
    const one = await connect(t)
    const topic = unique('shr')
    await one.publish(topic, 'kept', { retain: true })
    await one.subscribe([
      [`$share/g/${topic}`, 1],
      [`$queue/${topic}`, 1],
      [`$local/$share/h/${topic}`, 1],
      [`$local/$queue/${topic}`, 1]
    ])
    assert.deepEqual(await one.payloads(), [])
    await one.subscribe([[`$local/${topic}`, 1]])
    assert.deepEqual(await one.payloads(), ['kept'])
  })

  test('SUBACK has a code for each filter, in order, duplicates and refusals too [MQTT-3.8.4-6], [MQTT-3.9.3-1]', async t => {
    const one = await connect(t)
    const a = unique('sub')
    assert.deepEqual(
      await one.subscribe([
        [a, 2],
        ['$secret/x', 1],
        [a, 0],
        [`${a}/#`, 1],
        [a, 1]
      ]),
      [2, 0x87, 0, 1, 1]
    )
    await one.publish(a, 'x', { qos: 2 })
    assert.deepEqual(
      (await one.heard()).map(({ qos }) => qos),
      [1]
    ) // the last of them counts [MQTT-3.8.4-3]
    const many = Array.from({ length: 20 }, (_, i) => [`${a}/${i}`, 0] as const)
    assert.deepEqual(await one.subscribe(many), [...Array(18).fill(0), 0x97, 0x97])
  })

  test('UNSUBACK has a code for each filter, in order [MQTT-3.11.3-1], [MQTT-3.11.3-2]', async t => {
    const one = await connect(t)
    await one.subscribe([
      ['u/a', 2],
      ['u/+', 1]
    ])
    assert.deepEqual(await one.unsubscribe(['u/a', 'u/never', 'u/+', 'u/a']), [0, 0x11, 0, 0x11])
  })

  // ── what the client allows ─────────────────────────────────────────────────

  test("the client's Receive Maximum is respected, live and on replay of the queue [MQTT-3.3.4-9]", async t => {
    const id = unique('c')
    const topic = unique('win')
    const properties: Property[] = [[0x21, 2]]
    const one = await connect(t, { id, clean: false, properties })
    const from = await connect(t)
    await one.subscribe([[topic, 2]])
    for (let i = 0; i < 3; i++) await from.publish(topic, `q1 ${i}`, { qos: 1 })
    for (let i = 0; i < 3; i++) await from.publish(topic, `q2 ${i}`, { qos: 2 })
    const rounds: string[][] = []
    const drain = async (speaker: Speaker): Promise<void> => {
      for (;;) {
        const got = of(await speaker.heard(), 3)
        if (got.length === 0) return
        rounds.push(got.map(({ payload }) => payload))
        for (const { qos, id } of got) {
          speaker.send(speaker.ack(qos === 1 ? 4 : 5, id))
          if (qos === 2) {
            assert.equal((await speaker.nextOf(6)).id, id)
            speaker.send(speaker.ack(7, id))
          }
        }
      }
    }
    const inTwos = [
      ['q1 0', 'q1 1'],
      ['q1 2', 'q2 0'],
      ['q2 1', 'q2 2']
    ]
    await drain(one)
    assert.deepEqual(rounds.splice(0), inTwos)
    await one.leave()
    for (let i = 0; i < 3; i++) await from.publish(topic, `q1 ${i}`, { qos: 1 })
    for (let i = 0; i < 3; i++) await from.publish(topic, `q2 ${i}`, { qos: 2 })
    const back = await connect(t, { id, clean: false, properties })
    await drain(back)
    assert.deepEqual(rounds, inTwos)
  })

  test("what is over the client's Maximum Packet Size is left out, at every QoS, retained and queued [MQTT-3.1.2-24], [MQTT-3.1.2-25]", async t => {
    const id = unique('c')
    const topic = unique('max')
    const properties: Property[] = [[0x27, 100]]
    const one = await connect(t, { id, clean: false, properties })
    const from = await connect(t)
    await from.publish(`${topic}/kept`, 'x'.repeat(200), { retain: true })
    await one.subscribe([[`${topic}/#`, 2]])
    const exactly = 100 - 2 - 2 - topic.length - 2 - 1 // a QoS 1 packet of 100 bytes
    const fits = exactly - 3 // the broker leaves room for a topic alias
    const publishAll = async (): Promise<void> => {
      for (const qos of [0, 1, 2]) await from.publish(topic, 'x'.repeat(200), { qos })
      await from.publish(topic, 'y'.repeat(exactly + 1), { qos: 1 })
      await from.publish(topic, 'z'.repeat(fits), { qos: 1 })
    }
    await publishAll()
    const live = of(await one.heard(), 3)
    assert.deepEqual(
      live.map(({ bytes, payload }) => [bytes.length, payload[0]]),
      [[97, 'z']]
    )
    one.send(one.ack(4, live[0]!.id))
    await one.leave()
    await publishAll()
    const back = await connect(t, { id, clean: false, properties })
    assert.deepEqual(
      of(await back.heard(), 3).map(({ payload }) => payload[0]),
      ['z']
    )
  })

  test('what is sent again keeps to the Receive Maximum and Maximum Packet Size of the new CONNECT [MQTT-3.3.4-9], [MQTT-3.1.2-24]', async t => {
    const id = unique('c')
    const topic = unique('again')
    const from = await connect(t)
    const one = await connect(t, { id, clean: false })
    await one.subscribe([[topic, 1]])
    for (const payload of ['0', '1', 'x'.repeat(500), '3', '4']) await from.publish(topic, payload, { qos: 1 })
    const first = of(await one.heard(), 3)
    assert.equal(first.length, 5)
    await one.leave()
    const properties: Property[] = [
      [0x21, 2],
      [0x27, 100]
    ]
    const back = await connect(t, { id, clean: false, properties })
    const rounds: string[][] = []
    for (let got = of(await back.heard(), 3); got.length > 0; got = of(await back.heard(), 3)) {
      rounds.push(got.map(({ payload }) => payload))
      assert.ok(got.every(({ dup }) => dup))
      back.send(...got.map(({ id }) => back.ack(4, id)))
    }
    assert.deepEqual(rounds.flat(), ['0', '1', '3', '4'])
    assert.ok(rounds.every(({ length }) => length <= 2))
  })

  // ── sessions ───────────────────────────────────────────────────────────────

  test('a session lives on as long as its expiry interval says, 0 not at all [MQTT-3.1.2-23]', async t => {
    const [never, zero, one] = [unique('c'), unique('c'), unique('c')]
    const expiries: [string, number | undefined][] = [
      [never, 0xffffffff],
      [zero, 0],
      [one, 1]
    ]
    for (const [id, expiry] of expiries) {
      const client = await connect(t, { id, ...(expiry === undefined ? {} : { expiry }) })
      assert.equal(client.connack.sessionPresent, false)
      await client.leave()
    }
    const back = async (id: string) => (await connect(t, { id, clean: false, expiry: 0 })).connack.sessionPresent
    assert.equal(await back(zero), false)
    await until('the session has expired', () => !server.server.clients.sessions.all().some(s => s.clientId === one))
    assert.deepEqual([await back(never), await back(one)], [true, false])
  })

  test('session present, though it never had a subscription [MQTT-3.2.2-2], [MQTT-3.2.2-3]; clean start ends it [MQTT-3.1.2-4]', async t => {
    const id = unique('c')
    await (await connect(t, { id, clean: false })).leave()
    const again = await connect(t, { id, clean: false })
    assert.equal(again.connack.sessionPresent, true)
    await again.drop()
    const anew = await connect(t, { id, clean: true, expiry: 100 })
    assert.equal(anew.connack.sessionPresent, false)
  })

  test('DISCONNECT changes the session expiry, down to 0 and up (section 3.14.2.2.2)', async t => {
    const [down, up, kept] = [unique('c'), unique('c'), unique('c')]
    await (await connect(t, { id: down, expiry: 100 })).leave(0, [[0x11, 0]])
    await (await connect(t, { id: up, expiry: 1 })).leave(0, [[0x11, 100]])
    await (await connect(t, { id: kept, expiry: 100 })).leave(0, [])
    await sleep(1700)
    const present = async (id: string) => (await connect(t, { id, clean: false })).connack.sessionPresent
    assert.deepEqual([await present(down), await present(up), await present(kept)], [false, true, true])
  })

  test('a clean start, and the end of a session of expiry 0, end its inbound QoS 2 state (section 4.1)', async t => {
    const [id, topic] = [unique('c'), unique('q2')]
    const to = await connect(t)
    await to.subscribe([[topic, 0]])
    const send = async (options: SpeakerOptions): Promise<void> => {
      const from = await connect(t, { id, ...options })
      from.send(from.publication(topic, 'x', { qos: 2, id: 1, dup: true }))
      await from.nextOf(5)
      await from.drop()
      await until('it is gone', () => !server.server.clients.clients().some(({ clientId }) => clientId === id))
    }
    await send({ expiry: 100 })
    await send({ clean: false, expiry: 100 }) // the same session: known already
    await send({ clean: true, expiry: 0 })
    await send({ clean: false, expiry: 0 })
    assert.deepEqual(await to.payloads(), ['x', 'x', 'x'])
  })

  // ── why a connection ends ──────────────────────────────────────────────────

  test('take-over: the first connection gets 0x8E, the second goes on [MQTT-3.1.4-3]', async t => {
    const id = unique('c')
    const first = await connect(t, { id, expiry: 100 })
    const second = await connect(t, { id, clean: false })
    assert.equal(second.connack.sessionPresent, true)
    const bye = await first.next()
    assert.deepEqual([bye.type, bye.code, (await first.next()).type], [14, 0x8e, 0])
    assert.deepEqual(await second.heard(), [])
  })

  test('five CONNECTs racing with one client identifier leave exactly one connection [MQTT-3.1.4-3]', async t => {
    const id = unique('c')
    const racers = await Promise.all([1, 2, 3, 4, 5].map(() => connect(t, { id })))
    const ended = await Promise.all(
      racers.map(async r => {
        r.send(pingreq)
        const got = await r.next()
        return got.type === 14 ? got.code : got.type
      })
    )
    assert.deepEqual(
      ended.sort((a, b) => a - b),
      [13, 0x8e, 0x8e, 0x8e, 0x8e]
    )
    assert.equal(server.server.clients.clients().filter(({ clientId }) => clientId === id).length, 1)
  })

  test('kick gives 0x98 (section 3.14.2.1)', async t => {
    const id = unique('c')
    const one = await connect(t, { id })
    await server.server.clients.kick(id)
    assert.deepEqual([(await one.next()).code, (await one.next()).type], [0x98, 0])
  })

  test('shutdown gives 0x8B (section 3.14.2.1)', async t => {
    const other = await startServer(t)
    const one = await Speaker.connect(t, other, { version: 5 })
    await other.server.stop('drain')
    assert.deepEqual([(await one.next()).code, (await one.next()).type], [0x8b, 0])
  })

  test('a client that is silent for one and a half times its keep alive gets 0x8D, not before [MQTT-3.1.2-22]', async t => {
    const began = performance.now()
    const one = await connect(t, { keepAlive: 1 })
    const lively = await connect(t, { keepAlive: 1 })
    const pinging = setInterval(() => lively.send(pingreq), 300)
    t.after(() => clearInterval(pinging))
    assert.deepEqual([(await one.next()).code, (await one.next()).type], [0x8d, 0])
    assert.ok(performance.now() - began >= 1490)
    clearInterval(pinging)
    assert.equal((await lively.next()).type, 13)
    assert.ok(server.server.clients.clients().length > 0)
  })

  test('mqtt.acl_deny_action = disconnect: a denied PUBLISH gets DISCONNECT 0x87 (section 4.13)', async t => {
    const other = await startServer(t, { conf: 'mqtt.acl_deny_action = disconnect', acl })
    for (const qos of [0, 1, 2]) {
      const one = await Speaker.connect(t, other, { version: 5, id: 'a' })
      one.send(one.publication('denied/a', '', { qos }))
      const answer = await one.next()
      assert.deepEqual([answer.type, answer.code, (await one.next()).type], [14, 0x87, 0])
    }
  })

  test('a wrong user name or password, or none where one is needed, gets CONNACK 0x86 (section 3.2.2.2)', async t => {
    const other = await startServer(t, { conf: 'mqtt.allow_anonymous = false' })
    const one = await Speaker.connect(t, other, { version: 5 })
    assert.deepEqual([one.connack.type, one.connack.code, (await one.next()).type], [2, 0x86, 0])
  })

  // ── wills ──────────────────────────────────────────────────────────────────

  /** Who hears the wills of one test. */
  const heir = async (t: TestContext): Promise<{ topic: string; heir: Speaker }> => {
    const topic = unique('will')
    const speaker = await connect(t)
    await speaker.subscribe([[topic, 1]])
    return { topic, heir: speaker }
  }

  test('DISCONNECT 0 keeps the will back; 0x04 and 0x80 and above publish it [MQTT-3.1.2-10], [MQTT-3.14.4-3]', async t => {
    const { topic, heir: to } = await heir(t)
    const heard: string[] = []
    for (const code of [undefined, 0x00, 0x04, 0x80, 0x81, 0x97]) {
      const id = unique('c')
      const one = await connect(t, { id, will: { topic, payload: `${code}` } })
      await one.leave(code)
      await until('gone', () => !server.server.clients.clients().some(({ clientId }) => clientId === id))
    }
    await until('all four', () => to.payloads().then(got => heard.push(...got) >= 4))
    assert.deepEqual(heard, ['4', '128', '129', '151'])
  })

  test('the will goes with its properties, not with Will Delay Interval (section 3.1.3.2)', async t => {
    const { topic, heir: to } = await heir(t)
    const properties: Property[] = [
      [0x01, 1],
      [0x03, 'text/plain'],
      [0x08, 'r'],
      [0x09, 'c'],
      [0x26, ['b', '1']],
      [0x26, ['a', '2']],
      [0x26, ['b', '1']]
    ]
    const one = await connect(t, {
      will: { topic, payload: 'gone', qos: 1, properties: [[0x18, 0], [0x02, 5000], ...properties] }
    })
    await one.drop()
    const will = await to.nextOf(3)
    assert.deepEqual([will.payload, will.qos, will.retain], ['gone', 1, false])
    assert.deepEqual(
      will.properties.filter(([id]) => id !== 0x02),
      properties
    )
    const left = value(will, 0x02) as number
    assert.ok(left > 4000 && left <= 5000, `${left}`)
  })

  test('Will Delay: the will waits for it, and is not sent when the client is back before [MQTT-3.1.3-9]', async t => {
    const { topic, heir: to } = await heir(t)
    const options = { clean: false, expiry: 3600 }
    const leave = async (id: string, payload: string, delay: number): Promise<void> => {
      await (await connect(t, { ...options, id, will: { topic, payload, properties: [[0x18, delay]] } })).drop()
    }
    // Where the machine is too slow to be back in time, with more of it.
    let delay = 1
    for (let away = Infinity; away > delay * 900; ) {
      if (away !== Infinity) delay *= 2
      const id = unique('c')
      const went = performance.now()
      await leave(id, `back ${delay}`, delay)
      await connect(t, { ...options, id })
      away = performance.now() - went
    }
    const went = performance.now()
    await leave(unique('c'), 'late', delay + 1)
    for (let got = ''; got !== 'late'; ) {
      got = (await to.nextOf(3)).payload
      assert.notEqual(got, `back ${delay}`)
    }
    assert.ok(performance.now() - went >= (delay + 1) * 1000 - 10)
  })

  test('Will Delay ends with the session: at expiry, at a clean start, at DISCONNECT that ends it [MQTT-3.1.3-9]', async t => {
    const { topic, heir: to } = await heir(t)
    const will = (payload: string): NonNullable<SpeakerOptions['will']> => ({
      topic,
      payload,
      properties: [[0x18, 1000]]
    })
    await (await connect(t, { expiry: 0, will: will('no session') })).drop()
    assert.equal((await to.nextOf(3)).payload, 'no session')
    await (await connect(t, { expiry: 1, will: will('expired') })).drop()
    assert.equal((await to.nextOf(3)).payload, 'expired')
    const id = unique('c')
    await (await connect(t, { id, expiry: 100, will: will('clean start') })).drop()
    await connect(t, { id, clean: true })
    assert.equal((await to.nextOf(3)).payload, 'clean start')
    await (await connect(t, { expiry: 100, will: will('expiry 0') })).leave(0x04, [[0x11, 0]])
    assert.equal((await to.nextOf(3)).payload, 'expiry 0')
  })
})
