// What the conformance suites of others found wrong here once, and clauses that no other test names.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Property, packet, propertyBytes, RawClient, Speaker, startServer, text } from '../support/server.js'

const id = (n: number): Buffer => Buffer.from([n >> 8, n & 255])

test('MQTT 3.1 may set DUP where it sends SUBSCRIBE, PUBREL and UNSUBSCRIBE again, and QoS in CONNECT (its section 2.1)', async t => {
  const server = await startServer(t)
  for (const version of [3, 4] as const) {
    const client = new Speaker(await RawClient.connect(t, server), version)
    const connect = Speaker.connectBytes({ version, id: 'old' })
    client.send(Buffer.concat([Buffer.from([0x12]), connect.subarray(1)]))
    const answer = await client.next()
    if (version === 4) {
      assert.equal(answer.type, 0, 'MQTT 3.1.1 closes [MQTT-2.2.2-2]')
      break
    }
    assert.deepEqual([answer.type, answer.code], [2, 0])
    client.send(packet(0x8a, id(1), text('a'), 2))
    assert.deepEqual((await client.nextOf(9)).codes, [2])
    client.send(client.publication('b', 'x', { qos: 2, id: 7 }))
    await client.nextOf(5)
    client.send(packet(0x6a, id(7)))
    assert.equal((await client.nextOf(7)).id, 7)
    client.send(packet(0xaa, id(2), text('a')))
    await client.nextOf(11)
  }
  for (const again of [packet(0x8a, id(1), text('a'), 0), packet(0x6a, id(1)), packet(0xaa, id(1), text('a'))]) {
    const client = await Speaker.connect(t, server, { version: 4, id: 'new' })
    client.send(again)
    assert.equal((await client.next()).type, 0, `0x${again[0]!.toString(16)} [MQTT-2.2.2-2]`)
  }
})

test('an acknowledgement that the message does not take ends the connection [MQTT-4.3.2-4], [MQTT-4.3.3-8], [MQTT-4.8.0-1]', async t => {
  const server = await startServer(t)
  const other = await Speaker.connect(t, server, { id: 'other' })
  const [PUBACK, PUBREC, PUBCOMP] = [4, 5, 7]
  for (const version of [4, 5] as const) {
    for (const [qos, type] of [
      [1, PUBREC],
      [1, PUBCOMP],
      [2, PUBACK],
      [2, PUBCOMP]
    ] as const) {
      const client = await Speaker.connect(t, server, { version, id: 'c' })
      await client.subscribe([['t', qos]])
      await other.publish('t', 'x', { qos })
      const message = await client.nextOf(3)
      client.send(client.ack(type, message.id))
      const end = await client.next()
      if (version === 5) assert.deepEqual([end.type, end.code], [14, 0x82], `QoS ${qos}, packet type ${type}`)
      assert.equal(version === 5 ? (await client.next()).type : end.type, 0, `QoS ${qos}, packet type ${type}`)
    }
    const client = await Speaker.connect(t, server, { version, id: 'c' })
    for (const type of [PUBACK, PUBREC, PUBCOMP]) client.send(client.ack(type, 77))
    await client.heard() // of ids that are not under way they are nobody's fault (MQTT 5, section 4.3.2)
  }
})

test('a filter of more levels than mqtt.max_topic_levels is refused in its place (MQTT 5, section 3.9.3)', async t => {
  const server = await startServer(t, { conf: 'mqtt.max_topic_levels = 3\n' })
  const filters = ['a/b/c', 'a/b/c/d', '$share/g/a/b/c', '$share/g/a/b/c/d', '+/+/+/#', '#']
  for (const [version, refused] of [
    [4, 0x80],
    [5, 0x8f]
  ] as const) {
    const client = await Speaker.connect(t, server, { version, id: 'c' })
    assert.deepEqual(await client.subscribe(filters.map(filter => [filter, 1])), [1, refused, 1, refused, refused, 1])
  }
})

test('a client whose Maximum Packet Size leaves no room for an answer is not sent it: the connection ends [MQTT-3.1.2-24]', async t => {
  const server = await startServer(t)
  const limited = (size: number): readonly Property[] => [[0x27, size]]
  const tiny = new Speaker(await RawClient.connect(t, server), 5)
  tiny.send(
    Speaker.connectBytes({ version: 5, id: 'tiny', properties: limited(2), will: { topic: 'will', payload: 'x' } })
  )
  assert.equal((await tiny.next()).type, 0, 'no CONNACK')
  const refused = new Speaker(await RawClient.connect(t, server), 5)
  refused.send(Speaker.connectBytes({ version: 5, id: 'x'.repeat(2000), properties: limited(4) }))
  assert.equal((await refused.next()).type, 0, 'nor one that refuses')
  const room = await Speaker.connect(t, server, { version: 5, id: 'room', properties: limited(30) })
  assert.equal(room.connack.code, 0)
  assert.deepEqual(await room.subscribe([['a', 0]]), [0])
  room.send(room.subscription(Array.from({ length: 30 }, (_, i) => [`f${i}`, 0] as const)))
  const end = await room.next()
  assert.deepEqual([end.type, end.code], [14, 0x95])
  const other = await Speaker.connect(t, server, { version: 5, id: 'other', properties: limited(30) })
  other.send(other.unsubscription(Array.from({ length: 30 }, (_, i) => `f${i}`)))
  assert.equal((await other.next()).code, 0x95)
})

test('DISCONNECT without properties is sent without their length (MQTT 5, section 3.14.2.2.1)', async t => {
  const server = await startServer(t)
  const client = await Speaker.connect(t, server, { version: 5, id: 'c' })
  client.send(packet(0xf0))
  assert.equal((await client.raw.readPacket()).toString('hex'), 'e00182')
})

test('a property that may not stand in a packet makes it malformed, whatever its value (MQTT 5, section 2.2.2.2)', async t => {
  const server = await startServer(t)
  const rows: [string, Buffer][] = [
    ['Receive Maximum 0 in PUBACK', packet(0x40, id(1), 0, propertyBytes([[0x21, 0]]))],
    ['Payload Format Indicator without a value', packet(0x30, text('t'), 1, 1, 'payload'.length)],
    ['Subscription Identifier in more bytes than it takes', packet(0x30, text('t'), 3, 0x0b, 0x81, 0)]
  ]
  for (const [title, bytes] of rows) {
    const client = await Speaker.connect(t, server, { version: 5, id: 'c' })
    client.send(bytes)
    assert.deepEqual((await client.next()).code, 0x81, title)
  }
})

test('topic aliases to a client: as many as it takes, learnt before they are used, for one connection [MQTT-3.1.2-26], [MQTT-3.1.2-27], [MQTT-3.3.2-7], [MQTT-3.3.2-11]', async t => {
  const server = await startServer(t)
  const other = await Speaker.connect(t, server, { id: 'other' })
  const heard = async (client: Speaker): Promise<[topic: string, alias: unknown][]> => {
    for (const topic of ['a', 'a', 'b', 'b', 'a']) await other.publish(topic, 'x', { qos: 1 })
    const got = (await client.heard()).filter(({ type }) => type === 3)
    return got.map(({ topic, properties }) => [topic, properties.find(([key]) => key === 0x23)?.[1]])
  }
  for (const qos of [0, 1]) {
    for (const connection of ['first', 'second']) {
      const client = await Speaker.connect(t, server, { version: 5, id: 'c', properties: [[0x22, 1]] })
      await client.subscribe([['+', qos]])
      const expected = [
        ['a', 1],
        ['', 1],
        ['b', undefined],
        ['b', undefined],
        ['', 1]
      ]
      assert.deepEqual(await heard(client), expected, `QoS ${qos}, ${connection} connection`)
    }
  }
  const none = await Speaker.connect(t, server, { version: 5, id: 'c' })
  await none.subscribe([['+', 0]])
  assert.deepEqual(
    await heard(none),
    ['a', 'a', 'b', 'b', 'a'].map(topic => [topic, undefined])
  )
})

test('a session that is resumed with expiry 0 still has what waited in it, and ends with that connection [MQTT-3.1.2-5], [MQTT-4.1.0-2]', async t => {
  const server = await startServer(t)
  const open = (expiry: number): Promise<Speaker> =>
    Speaker.connect(t, server, { version: 5, id: 'c', clean: false, expiry })
  const client = await open(60)
  await client.subscribe([['t', 1]])
  await client.leave()
  const other = await Speaker.connect(t, server, { id: 'other' })
  await other.publish('t', 'waited', { qos: 1 })
  const back = await open(0)
  assert.equal(back.connack.sessionPresent, true)
  assert.deepEqual(await back.payloads(), ['waited'])
  await back.leave()
  assert.equal((await open(0)).connack.sessionPresent, false)
})

test('a message comes at the lower of its QoS and the one granted, through wildcards too [MQTT-3.8.4-8]', async t => {
  const server = await startServer(t)
  const other = await Speaker.connect(t, server, { id: 'other' })
  for (const version of [4, 5] as const) {
    for (const filter of ['t/a', 't/+', '#', '$share/g/t/#']) {
      for (const granted of [0, 1, 2]) {
        const client = await Speaker.connect(t, server, { version, id: 'c' })
        await client.subscribe([[filter, granted]])
        for (const qos of [0, 1, 2] as const) await other.publish('t/a', 'x', { qos })
        const qos = (await client.heard()).filter(({ type }) => type === 3).map(got => got.qos)
        assert.deepEqual(
          qos,
          [0, 1, 2].map(sent => Math.min(sent, granted)),
          `MQTT ${version}, ${filter} at QoS ${granted}`
        )
        await client.leave()
      }
    }
  }
})

test('a packet identifier is new once its exchange is over, whatever DUP says [MQTT-4.3.2-5], [MQTT-4.3.3-9], [MQTT-4.3.3-12]; DUP is not passed on [MQTT-3.3.1-3]', async t => {
  const server = await startServer(t, { acl: '{deny, all, publish, ["denied"]}.\n{allow, all}.\n' })
  const client = await Speaker.connect(t, server, { version: 5, id: 'subscriber' })
  await client.subscribe([['#', 2]])
  const sender = await Speaker.connect(t, server, { version: 5, id: 'sender' })
  await sender.publish('t', '1', { qos: 1, id: 5 })
  await sender.publish('t', '2', { qos: 1, id: 5, dup: true })
  assert.equal((await sender.publish('denied', '', { qos: 2, id: 5 })).code, 0x87)
  await sender.publish('t', '3', { qos: 2, id: 5, dup: true })
  await sender.publish('t', '4', { qos: 2, id: 5 })
  const got = (await client.heard()).filter(({ type }) => type === 3)
  assert.deepEqual(
    got.map(({ payload, dup }) => [payload, dup]),
    ['1', '2', '3', '4'].map(payload => [payload, false])
  )
})

test('UNSUBSCRIBE ends what is published later, not what is under way [MQTT-3.10.4-2], [MQTT-3.10.4-3]', async t => {
  const server = await startServer(t)
  const other = await Speaker.connect(t, server, { id: 'other' })
  const [PUBLISH, PUBREC, PUBREL, PUBCOMP] = [3, 5, 6, 7]
  for (const version of [4, 5] as const) {
    const client = await Speaker.connect(t, server, { version, id: 'c', clean: false })
    await client.subscribe([['t', 2]])
    await other.publish('t', 'x', { qos: 2 })
    const message = await client.nextOf(PUBLISH)
    await client.unsubscribe(['t'])
    client.send(client.ack(PUBREC, message.id))
    assert.equal((await client.nextOf(PUBREL)).id, message.id)
    client.send(client.ack(PUBCOMP, message.id))
    await other.publish('t', 'later', { qos: 2 })
    assert.deepEqual(await client.payloads(), [])
    await client.leave()
  }
})

test('what a member of a group refuses goes to nobody else, and is not sent again [MQTT-4.8.2-6], [MQTT-4.4.0-2]; its QoS 2 waits for it [MQTT-4.8.2-4]', async t => {
  const server = await startServer(t)
  const other = await Speaker.connect(t, server, { id: 'other' })
  const [PUBLISH, PUBACK, PUBREC] = [3, 4, 5]
  const open = (id: string): Promise<Speaker> => Speaker.connect(t, server, { version: 5, id, clean: false })
  const first = await open('first')
  await first.subscribe([['$share/g/t', 2]])
  for (const [qos, type] of [
    [1, PUBACK],
    [2, PUBREC]
  ] as const) {
    await other.publish('t', 'refused', { qos })
    first.send(first.ack(type, (await first.nextOf(PUBLISH)).id, 0x83))
  }
  await other.publish('t', 'kept', { qos: 2 })
  assert.equal((await first.nextOf(PUBLISH)).payload, 'kept')
  await first.heard()
  const second = await open('second')
  await second.subscribe([['$share/g/t', 2]])
  await first.drop()
  assert.deepEqual(await second.payloads(), [])
  const back = await open('first')
  assert.deepEqual(await back.payloads(), ['kept'])
})

test('nothing but PUBLISH waits when the Receive Maximum is reached [MQTT-3.3.4-10], [MQTT-4.9.0-2], [MQTT-4.9.0-3]', async t => {
  const server = await startServer(t)
  const other = await Speaker.connect(t, server, { id: 'other' })
  const client = await Speaker.connect(t, server, { version: 5, id: 'c', properties: [[0x21, 1]] })
  await client.subscribe([['t', 2]])
  for (const payload of ['1', '2']) await other.publish('t', payload, { qos: 1 })
  await other.publish('t', 'QoS 0')
  assert.deepEqual(await client.subscribe([['u', 0]]), [0])
  assert.equal((await client.publish('v', '', { qos: 1 })).type, 4)
  assert.deepEqual(await client.unsubscribe(['u']), [0])
  const got = (await client.heard()).filter(({ type }) => type === 3)
  assert.deepEqual(
    got.filter(({ qos }) => qos > 0).map(({ payload }) => payload),
    ['1']
  )
})

test('an empty user name, an empty password and a password alone are taken as they are in MQTT 5 [MQTT-3.1.2-16] to [MQTT-3.1.2-19]', async t => {
  const server = await startServer(t)
  const rows: [flags: number, fields: Buffer[], code: number | undefined][] = [
    [0x82, [text('')], 0],
    [0xc2, [text(''), text('')], 0],
    [0x42, [text('secret')], 0],
    [0x82, [], 0x81],
    [0x42, [], 0x81],
    [0x02, [text('name')], 0x81]
  ]
  for (const [flags, fields, code] of rows) {
    const client = new Speaker(await RawClient.connect(t, server), 5)
    client.send(packet(0x10, text('MQTT'), 5, flags, 0, 0, 0, text('c'), ...fields))
    const { type, code: got } = await client.next()
    assert.deepEqual([type, got], [2, code], `flags ${flags.toString(16)}, ${fields.length} fields`)
  }
})
