import assert from 'node:assert/strict'
import test from 'node:test'
import mqtt from 'mqtt'
import { type Message, plugin, startBroker } from '../src/index.js'
import { integer } from '../src/plugin.js'
import { makeHome, next, writeConf } from './support/server.js'

const loopback = { listener: { tcp: { main: { bind: { host: '127.0.0.1', port: 0 } } } } }

test('startBroker() needs no files, and publishes and tells of clients', async t => {
  const broker = await startBroker(loopback)
  t.after(() => broker.stop())
  const connected: string[] = []
  broker.on('client.connected', c => void connected.push(c.clientId))
  const c = await mqtt.connectAsync(`mqtt://127.0.0.1:${broker.port()}`, { clientId: 'c1', reconnectPeriod: 0 })
  await c.subscribeAsync('hello')
  const got = next(c, 'message')
  await broker.publish({ topic: 'hello', payload: 'world' })
  assert.deepEqual((await got).slice(0, 2).map(String), ['hello', 'world'])
  assert.deepEqual(connected, ['c1'])
  assert.deepEqual(
    broker.clients().map(({ clientId }) => clientId),
    ['c1']
  )
  const closed = next(c, 'close')
  await broker.kick('c1')
  await closed
  await assert.rejects(broker.kick('c1'), { code: 'NOT_FOUND' })
})

test('startBroker() takes plugins of the program with their options', async t => {
  const gate = plugin({
    name: 'gate',
    description: 'Lets a few in',
    prefix: 'gate',
    options: { most: integer(1) },
    start({ options, hooks }) {
      let count = 0
      hooks.on('client.authenticate', () => (++count > options.most ? 'deny' : 'allow'))
      return undefined
    }
  })
  const broker = await startBroker({ ...loopback, plugins: [{ plugin: gate, options: { most: 2 } }] })
  t.after(() => broker.stop())
  const connect = async () => {
    const c = await mqtt.connectAsync(`mqtt://127.0.0.1:${broker.port('tcp:main')}`, { reconnectPeriod: 0 })
    t.after(() => c.endAsync(true))
  }
  await connect()
  await connect()
  await assert.rejects(connect(), { code: 4 })
})

test('startBroker() runs a home, and refuses options beside it', async t => {
  const home = makeHome(t)
  const broker = await startBroker({ home: home.root })
  assert.equal(broker.listeners()[0]?.name, 'tcp:test')
  await broker.stop()
  await broker.stopped
  await assert.rejects(startBroker({ home: home.root, mqtt: { allowAnonymous: 'true' } }), /options beside home: mqtt/)
})

test('startBroker() is stopped by `await using`', async () => {
  const broker = await startBroker(loopback)
  await broker[Symbol.asyncDispose]()
  await broker.stopped
})

test('subscribe() hears clients, the program, wills and what is retained, until it is ended', async t => {
  const broker = await startBroker(loopback)
  t.after(() => broker.stop())
  await broker.publish({ topic: 'a/old', payload: 'kept', retain: true, qos: 1 })
  const got: string[] = []
  const take = ({ topic, payload, qos, retain, from }: Message): void =>
    void got.push(`${topic} ${payload} ${qos} ${retain} ${from}`)
  const end = broker.subscribe('a/#', take)
  assert.throws(() => broker.subscribe('a#', take), { code: 'BAD_REQUEST' })
  const failing = broker.subscribe('a/new', () => {
    throw new Error('mine')
  })
  const c = await mqtt.connectAsync(`mqtt://127.0.0.1:${broker.port()}`, { clientId: 'c', reconnectPeriod: 0 })
  t.after(() => c.endAsync(true))
  await c.publishAsync('b', 'x', { qos: 1 })
  await c.publishAsync('a/new', 'y', { qos: 2, retain: true })
  await broker.publish({ topic: 'a/own', payload: 'z' })
  assert.deepEqual(got, ['a/old kept 1 true undefined', 'a/new y 2 true c', 'a/own z 0 false undefined'])
  end()
  failing()
  await broker.publish({ topic: 'a/own', payload: 'z' })
  assert.equal(got.length, 3)
})

test('on() returns what removes the handler', async t => {
  const broker = await startBroker(loopback)
  t.after(() => broker.stop())
  const remove = broker.on('client.authenticate', () => 'deny')
  const connect = async () => await mqtt.connectAsync(`mqtt://127.0.0.1:${broker.port()}`, { reconnectPeriod: 0 })
  await assert.rejects(connect())
  remove()
  await (await connect()).endAsync(true)
})

test('reload() of a home puts its files in force', async t => {
  const home = makeHome(t)
  const broker = await startBroker({ home: home.root })
  t.after(() => broker.stop())
  writeConf(home.root, 'mqtt.acl_nomatch = deny')
  assert.deepEqual(
    (await broker.reload()).changes.map(({ key }) => key),
    ['mqtt.acl_nomatch']
  )
  const homeless = await startBroker(loopback)
  t.after(() => homeless.stop())
  await assert.rejects(homeless.reload(), { code: 'BAD_REQUEST' })
})
