import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import test, { type TestContext } from 'node:test'
import mqtt from 'mqtt'
import { AdminClient } from '../../src/admin/client.js'
import { BrokerError } from '../../src/base/errors.js'
import type { Home } from '../../src/base/home.js'
import { createLog } from '../../src/base/log/log.js'
import { Server } from '../../src/server/server.js'
import { readSettings } from '../../src/server/settings.js'
import { client, makeHome, next, startServer, until } from '../support/server.js'

test('Server.start() of a second broker on a home is refused, and the first goes on', async t => {
  const { home, admin } = await startServer(t)
  await assert.rejects(
    Server.start({ home, settings: readSettings(home, {}), log: createLog() }),
    (err: unknown) => err instanceof BrokerError && err.code === 'CONFLICT' && err.message.includes('already running')
  )
  assert.equal((await admin.call('status', {})).running, true)
})

test('Server.start() that fails leaves nothing behind: the next one works', async t => {
  const taken = createServer()
  await new Promise<void>(resolve => taken.listen(0, '127.0.0.1', resolve))
  t.after(() => taken.close())
  const { port } = taken.address() as { port: number }
  const home = makeHome(t, { conf: `listener.tcp.a = 127.0.0.1:0\nlistener.tcp.b = 127.0.0.1:${port}` })
  const start = async () => await Server.start({ home, settings: readSettings(home, {}), log: createLog() })
  await assert.rejects(start(), /listener\.tcp\.b: cannot listen on 127\.0\.0\.1:\d+: the port is taken by node/)
  assert.deepEqual(readdirSync(home.data), [])
  await new Promise(resolve => taken.close(resolve))
  await (await start()).stop()
})

test('Server.stop() frees its ports, ends its clients and removes what is in data/', async t => {
  const { home, server, port } = await startServer(t)
  const c = await client(t, { port })
  const closed = next(c, 'close')
  await Promise.all([server.stop(), server.stop()])
  await closed
  assert.deepEqual(readdirSync(home.data), [])
  const refused = await new Promise<string>(resolve =>
    connect(port, '127.0.0.1').once('error', err => resolve((err as NodeJS.ErrnoException).code!))
  )
  assert.equal(refused, 'ECONNREFUSED')
})

test('Server.stop() delivers what is written before it ends a client', async t => {
  const { server, port } = await startServer(t)
  const sub = await client(t, { port }, { clientId: 'sub' })
  await sub.subscribeAsync('a')
  let got = 0
  sub.on('message', () => got++)
  const pub = await client(t, { port }, { clientId: 'pub' })
  for (let i = 0; i < 500; i++) pub.publish('a', Buffer.alloc(1000))
  await pub.publishAsync('b', 'last', { qos: 1 })
  await server.stop('drain')
  await until('all 500', () => got === 500)
})

/** A home that remembers a plugin `slow` with this code. */
function homeWithPlugin(t: TestContext, code: string): Home {
  const home = makeHome(t, { plugins: { slow: '' } })
  mkdirSync(home.path('plugins'))
  mkdirSync(home.data)
  writeFileSync(home.path('data/loaded_plugins'), 'slow.\n')
  writeFileSync(home.path('plugins/slow.mjs'), code)
  return home
}

test('listeners open after the remembered plugins are up: nobody slips in before them', async t => {
  const home = homeWithPlugin(
    t,
    `export default { name: 'slow', description: '', prefix: 'slow', options: {},
      async start ({ hooks }) { await new Promise(r => setTimeout(r, 200)); hooks.on('client.authenticate', () => 'deny'); return { probe: async () => { throw new Error('backend away') } } } }`
  )
  const lines: string[] = []
  const log = createLog({ level: 'debug', format: 'text', write: line => void lines.push(line) })
  const server = await Server.start({ home, settings: readSettings(home, {}), log })
  t.after(() => server.stop('fast'))
  assert(lines.findIndex(l => l.includes('plugin loaded')) < lines.findIndex(l => l.includes('listening')))
  await assert.rejects(mqtt.connectAsync(`mqtt://127.0.0.1:${server.listeners[0]!.port}`, { reconnectPeriod: 0 }), {
    code: 4
  })
  assert.equal((await server.plugins.list())[0]?.trouble, 'backend away')
})

test('certificates are made for the listeners that use them, and only then', async t => {
  const plain = await startServer(t)
  assert(!existsSync(plain.home.path('etc/certs/cert.pem')))
  const secure = await startServer(t, { conf: 'listener.ssl.test = 127.0.0.1:0' })
  assert(existsSync(secure.home.path('etc/certs/cert.pem')))
})

test('Server.stop() while the broker starts leaves no listener open', async t => {
  const home = homeWithPlugin(
    t,
    `export default { name: 'slow', description: '', prefix: 'slow', options: {}, start: async () => { await new Promise(r => setTimeout(r, 300)) } }`
  )
  const starting = Server.start({ home, settings: readSettings(home, {}), log: createLog() })
  const admin = new AdminClient(home.adminSocket)
  await until('the admin socket', () => existsSync(home.adminSocket))
  await admin.call('node stop', { mode: 'fast', timeoutMs: '1000' })
  const server = await starting
  await server.stopped
  assert.equal(server.phase, 'stopping')
  const refused = await new Promise<string>(resolve => {
    connect(server.listeners[0]!.port, '127.0.0.1').once('error', err => resolve((err as NodeJS.ErrnoException).code!))
  })
  assert.match(refused, /ECONNREFUSED|EADDRNOTAVAIL/)
})
