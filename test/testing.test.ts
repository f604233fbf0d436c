import assert, { AssertionError } from 'node:assert/strict'
import test from 'node:test'
import mqtt from 'mqtt'
import { type TestBroker, testBroker } from '../src/testing.js'
import { hangMs, until } from './support/server.js'

const connect = async (broker: TestBroker, options: mqtt.IClientOptions = {}) =>
  await mqtt.connectAsync(broker.url, { reconnectPeriod: 0, ...options })

test('expect() takes a message that has come, or one that comes, and each once', async () => {
  await using broker = await testBroker({ within: hangMs })
  const c = await connect(broker, { clientId: 'lamp' })
  await c.publishAsync('lamps/1/state', '{"on":true}', { qos: 1, retain: true })
  const message = await broker.expect('lamps/+/state', { payload: { on: true }, qos: 1, retain: true, from: 'lamp' })
  assert.deepEqual([message.topic, message.text, message.payload.length], ['lamps/1/state', '{"on":true}', 11])
  await assert.rejects(broker.expect('lamps/#', { within: 20 }), AssertionError)
  const coming = broker.expect('a/#', { payload: 'two' })
  const both = Promise.all([broker.expect('b'), broker.expect('b')])
  await c.publishAsync('a/b', 'one')
  await c.publishAsync('a/b', 'two')
  await c.publishAsync('b', 'x')
  await c.publishAsync('b', 'y')
  assert.equal((await coming).text, 'two')
  assert.deepEqual(
    (await both).map(({ text }) => text),
    ['x', 'y']
  )
  await broker.expect('a/b', { payload: 'one' })
  assert.deepEqual(
    broker.messages.map(({ text }) => text),
    ['{"on":true}', 'one', 'two', 'x', 'y']
  )
  broker.clear()
  assert.equal(broker.messages.length, 0)
  await c.endAsync(true)
})

test('expect() compares payloads as text, bytes, a pattern, JSON and by a function', async () => {
  await using broker = await testBroker({ within: hangMs })
  const fits = async (payload: NonNullable<Parameters<TestBroker['expect']>[1]>['payload'], sent: string | Buffer) => {
    broker.clear()
    await broker.publish({ topic: 'a', payload: sent })
    await until('it came', () => broker.messages.length === 1)
    return await broker.expect('a', { payload: payload!, within: 1 }).then(
      () => true,
      () => false
    )
  }
  assert.deepEqual(
    await Promise.resolve([
      await fits('21', '21'),
      await fits('21', '22'),
      await fits(Buffer.of(0, 255), Buffer.of(0, 255)),
      await fits(Buffer.of(0, 255), Buffer.of(0, 254)),
      await fits(/^2\d$/g, '23'),
      await fits(/^2\d$/g, '33'),
      await fits({ a: [1, null] }, '{ "a": [1, null] }'),
      await fits({ a: [1, null] }, '{ "a": [1] }'),
      await fits({}, 'no JSON'),
      await fits(({ payload }: { payload: Buffer }) => payload.length > 1, 'ab'),
      await fits(({ payload }: { payload: Buffer }) => payload.length > 1, 'a')
    ]),
    [true, false, true, false, true, false, true, false, false, true, false]
  )
})

test('expect() that is not met says what came, at the line that asked', async () => {
  await using broker = await testBroker({ within: 20 })
  await assert.rejects(broker.expect('a'), /no message on a within 20 ms; no message came/)
  await broker.publish({ topic: 'b', payload: 'it', retain: true })
  await until('it came', () => broker.messages.length === 1)
  await assert.rejects(broker.expect('b', { payload: /x/, qos: 0 }), (err: Error) => {
    assert(err instanceof AssertionError)
    assert.equal(
      err.message,
      "no message on b with { payload: /x/, qos: 0 } within 20 ms; these came:\n  b 'it' qos=0 retain"
    )
    return true
  })
  await assert.rejects(broker.expectNone('b'), /a message on b; these came/)
  await broker.expectNone('b', { within: 10 }) // that one was taken
})

test('expectClient() waits for a client; wills and retained messages are seen', async () => {
  await using broker = await testBroker({ within: hangMs })
  const waits = broker.expectClient('c1')
  const c = await connect(broker, {
    clientId: 'c1',
    will: { topic: 'gone', payload: Buffer.from('c1'), qos: 1, retain: false }
  })
  assert.equal((await waits).clientId, 'c1')
  assert.equal((await broker.expectClient('c1')).clientId, 'c1')
  await assert.rejects(broker.expectClient('c2', { within: 10 }), /no client c2 within 10 ms; connected: c1/)
  c.stream.destroy()
  assert.equal((await broker.expect('gone')).from, 'c1')
})

test('testBroker() takes options of startBroker(), and brokers run side by side', async () => {
  await using a = await testBroker({ mqtt: { allowAnonymous: 'false' } })
  await using b = await testBroker({ listener: { ws: { main: { bind: { host: '127.0.0.1', port: 0 } } } } })
  await assert.rejects(connect(a), { code: 4 })
  assert.match(b.url, /^ws:\/\/127\.0\.0\.1:\d+\/mqtt$/)
  await (await connect(b)).endAsync(true)
})
