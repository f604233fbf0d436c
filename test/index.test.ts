import assert from 'node:assert/strict'
import test from 'node:test'
import mqtt from 'mqtt'
import { plugin, startBroker } from '../src/index.js'
import { integer } from '../src/plugin.js'
import { makeHome, next } from './support/server.js'

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
