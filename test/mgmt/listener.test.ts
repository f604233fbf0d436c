import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { request as httpsRequest } from 'node:https'
import net from 'node:net'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import { createLog } from '../../src/base/log/log.js'
import { startBroker } from '../../src/index.js'
import { Management } from '../../src/mgmt/management.js'
import { Server } from '../../src/server/server.js'
import { readSettings } from '../../src/server/settings.js'
import { ask, basic, startWithApi } from '../support/api.js'
import { instance } from '../support/cli.js'
import { client, hangMs, makeHome, startServer, until } from '../support/server.js'

const built = fileURLToPath(new URL('../..', import.meta.url))

/** In a process of its own: whether fastify is there after a start, and after a request. */
async function loaded(home: string): Promise<{ start: string[]; asked: string[]; ports: number }> {
  const program = `
    import { createRequire } from 'node:module'
    import { startBroker } from '${built}src/index.js'
    import { Server } from '${built}src/server/server.js'
    const modules = () => [...new Set(Object.keys(createRequire('${built}src/index.js').cache)
      .map(file => /node_modules\\/(fastify|prom-client|find-my-way)\\//.exec(file)?.[1]))].filter(Boolean)
    let server
    const start = Server.start
    Server.start = async options => (server = await start(options))
    const broker = await startBroker({ home: '${home}' })
    const found = { start: modules(), asked: [], ports: process.getActiveResourcesInfo().filter(r => r === 'TCPServerWrap').length }
    for (const { port } of server.management.listeners) await fetch('http://127.0.0.1:' + port + '/status')
    found.asked = modules()
    console.log(JSON.stringify(found))
    await broker.stop('fast')`
  return await new Promise((resolve, reject) => {
    execFile(process.execPath, ['--input-type=module', '-e', program], { timeout: hangMs }, (err, out) =>
      err === null ? resolve(JSON.parse(out)) : reject(err)
    )
  })
}

test('without the listener there is no port, no fastify and no user', async t => {
  const home = makeHome(t)
  assert.deepEqual(await loaded(home.root), { start: [], asked: [], ports: 1 })
  assert.throws(() => readFileSync(home.path('data/admins')))
})

test('with it, fastify is loaded by the first request and not by the start', async t => {
  const home = makeHome(t, { conf: 'listener.tcp.test = 127.0.0.1:0\nlistener.api.mgmt = 127.0.0.1:0' })
  const { start, asked, ports } = await loaded(home.root)
  assert.deepEqual([start, ports], [[], 2])
  assert.deepEqual(asked.sort(), ['fastify', 'find-my-way', 'prom-client'])
})

test('without a home there are no users, so there is no management API', async () => {
  const bind = { host: '127.0.0.1', port: 0 }
  await assert.rejects(startBroker({ listener: { tcp: { main: { bind } }, api: { mgmt: { bind } } } }), {
    code: 'CONFIG_INVALID'
  })
})

test('a port that is taken: MQTT runs, an alarm lasts, broker start says so, and an operator opens it later', async t => {
  const taken = net.createServer().listen(0, '127.0.0.1')
  t.after(() => void taken.close())
  await new Promise(resolve => taken.once('listening', resolve))
  const { port } = taken.address() as net.AddressInfo
  const running = await startServer(t, {
    conf: `listener.tcp.test = 127.0.0.1:0\nlistener.api.mgmt = 127.0.0.1:${port}`
  })
  await client(t, running, { clientId: 'c' })
  const { server, admin } = running
  const [alarm] = server.alarms.list()
  assert.equal(alarm?.id, 'listener_down.api:mgmt')
  const { notices, listeners } = await admin.call('node ping', {})
  assert.match(
    notices.join('\n'),
    new RegExp(`cannot listen on 127\\.0\\.0\\.1:${port}: the port is taken.*runs without it`)
  )
  assert.deepEqual(
    listeners.map(l => l.name),
    ['tcp:test']
  )
  await new Promise(resolve => taken.close(resolve))
  await admin.call('listeners start', { proto: 'mqtt:api', port: `127.0.0.1:${port}` })
  assert.equal((await ask(port, '/readyz')).status, 200)
  assert.equal((await admin.call('listeners list', {})).at(-1)!.protocol, 'mqtt:api')
  assert.deepEqual(server.alarms.list(), [])
})

test('a port that is taken is tried again and again, until it is free or the broker stops', async t => {
  const taken = net.createServer().listen(0, '127.0.0.1')
  t.after(() => void taken.close())
  await new Promise(resolve => taken.once('listening', resolve))
  const { port } = taken.address() as net.AddressInfo
  const { home, server } = await startServer(t, {
    conf: `listener.tcp.test = 127.0.0.1:0\nlistener.api.mgmt = 127.0.0.1:${port}`
  })
  await server.management!.stop()
  const { ops, log, alarms } = server
  const management = new Management(server.options, { ops, home, log, alarms, phase: () => server.phase, retryMs: 20 })
  t.after(() => management.stop())
  await management.start()
  assert.equal(server.alarms.list().length, 1)
  await new Promise(resolve => taken.close(resolve))
  await until('it is open', () => management.listeners[0]!.listening)
  assert.deepEqual(server.alarms.list(), [])
})

test('users that cannot be read: the API stays shut, and MQTT runs', async t => {
  const home = makeHome(t, { conf: 'listener.tcp.test = 127.0.0.1:0\nlistener.api.mgmt = 127.0.0.1:0' })
  mkdirSync(home.data)
  writeFileSync(home.path('data/admins'), '{"users":')
  const server = await Server.start({ home, settings: readSettings(home, {}), log: createLog() })
  t.after(() => server.stop('fast'))
  const { listeners, notices } = server.management!
  assert.equal(listeners[0]!.listening, false)
  assert.match(notices.join(), /data\/admins is damaged.*the broker runs without it/)
  assert.equal(server.listeners[0]!.listening, true)
  assert.equal(readFileSync(home.path('data/admins'), 'utf8'), '{"users":')
})

test('a certificate that is not there stops the start, as with the other listeners', async t => {
  const conf =
    'listener.tcp.t = 0\nlistener.api.mgmt = 127.0.0.1:0\nlistener.api.mgmt.certfile = no.pem\nlistener.api.mgmt.keyfile = no.pem'
  const home = makeHome(t, { conf })
  const settings = readSettings(home, {})
  await assert.rejects(Server.start({ home, settings, log: createLog() }), {
    code: 'CONFIG_INVALID',
    message: /listener\.api\.mgmt\.certfile/
  })
})

test('with a certificate it is HTTPS', async t => {
  const files = 'certfile = etc/certs/cert.pem\nlistener.api.mgmt.keyfile = etc/certs/key.pem'
  const { home, server } = await startServer(t, {
    conf: `listener.tcp.test = 127.0.0.1:0\nlistener.api.mgmt = 127.0.0.1:0\nlistener.api.mgmt.${files}`
  })
  const { port } = server.management!.listeners[0]!
  const ca = readFileSync(home.path('etc/certs/cacert.pem'))
  const status = await new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, path: '/readyz', ca, agent: false }
    httpsRequest(options, response => resolve(response.resume().statusCode))
      .on('error', reject)
      .end()
  })
  assert.equal(status, 200)
  await assert.rejects(ask(port, '/readyz'))
})

test('access rules and max_clients', async t => {
  const denied = await startWithApi(t, { conf: 'listener.api.mgmt.access.1 = deny 127.0.0.1' })
  await assert.rejects(denied.ask('/status'))
  const { api } = await startWithApi(t, { conf: 'listener.api.mgmt.max_clients = 1' })
  const first = net.connect(api, '127.0.0.1')
  t.after(() => void first.destroy())
  await new Promise(resolve => first.once('connect', resolve))
  await assert.rejects(ask(api, '/status'))
  first.destroy()
  await until('there is room', () => ask(api, '/status').catch(() => undefined))
})

test('public: what it names needs no login, and what it does not name does', async t => {
  const { api } = await startWithApi(t, { conf: 'listener.api.mgmt.public = metrics, openapi' })
  for (const [path, status] of [
    ['/metrics', 200],
    ['/api/v2/openapi.json', 200],
    ['/status', 401],
    ['/healthz', 401],
    ['/readyz', 401]
  ] as const)
    assert.equal((await ask(api, path)).status, status, path)
  const none = await startWithApi(t, { conf: 'listener.api.mgmt.public =' })
  assert.equal((await ask(none.api, '/healthz')).status, 401)
  assert.equal((await none.ask('/healthz')).status, 200)
})

test('a page of another site may not ask, unless allow_origins has it', async t => {
  const { api, password } = await startWithApi(t, { conf: 'listener.api.mgmt.allow_origins = https://ops.example.com' })
  const path = '/api/v2/users'
  const as = basic('admin', password)
  const from = (origin: string, method = 'GET') => ask(api, path, { method, as, headers: { origin } })
  for (const origin of ['https://evil.example', 'null']) {
    const { status, headers } = await from(origin)
    assert.deepEqual([status, headers['access-control-allow-origin']], [403, undefined])
  }
  assert.equal((await from(`http://127.0.0.1:${api}`)).status, 200, 'its own')
  const allowed = await from('https://ops.example.com')
  assert.deepEqual([allowed.status, allowed.headers['access-control-allow-origin']], [200, 'https://ops.example.com'])
  const preflight = await ask(api, path, { method: 'OPTIONS', headers: { origin: 'https://ops.example.com' } })
  assert.equal(preflight.status, 204)
  assert.match(String(preflight.headers['access-control-allow-headers']), /Authorization/)
  assert.equal((await from('https://evil.example', 'OPTIONS')).status, 403)
})

test('while the store is read it says that it is not ready, and does nothing else', async t => {
  const home = makeHome(t, { conf: 'listener.tcp.test = 127.0.0.1:0\nlistener.api.mgmt = 127.0.0.1:0' })
  const listening: number[] = []
  const write = (line: string): void => {
    const port = /listening listener=api:mgmt on=127\.0\.0\.1:(\d+)/.exec(line)?.[1]
    if (port !== undefined) listening.push(Number(port))
  }
  let go = (): void => {}
  const slow = {
    name: 'slow',
    prefix: 'slow',
    description: 'waits',
    version: '1',
    options: {},
    start: async () =>
      await new Promise<object>(resolve => {
        go = () => resolve({})
      })
  }
  const log = createLog({ level: 'info', format: 'text', write })
  const starting = Server.start({ home, settings: readSettings(home, {}), log, plugins: [{ plugin: slow as never }] })
  const port = await until('the API is open', () => listening[0])
  const ready = await ask(port, '/readyz')
  assert.deepEqual([ready.status, ready.body], [503, { ready: false, why: ['the broker is starting'] }])
  assert.equal((await ask(port, '/healthz')).status, 200)
  assert.match((await ask(port, '/status')).text, /broker is starting/)
  const as = basic('admin', readFileSync(home.path('data/initial_admin_password'), 'utf8').trim())
  const early = await ask(port, '/api/v2/mqtt/publish', { method: 'POST', as, body: { topic: 't' } })
  assert.equal(early.status, 503)
  assert.equal((await ask(port, '/metrics', { as })).status, 200)
  go()
  const server = await starting
  t.after(() => server.stop('fast'))
  assert.equal((await ask(port, '/readyz')).status, 200)
})

test('broker start prints the port and where the first password is, once', async t => {
  const conf = 'listener.tcp.test = 127.0.0.1:0\nlistener.api.mgmt = 127.0.0.1:0\nstore.type = memory\n'
  const { broker, home } = instance(t, { conf })
  const { code, out, err } = await broker('start')
  assert.equal(code, 0, err)
  assert.match(out, /^listening on api:mgmt {7}127\.0\.0\.1:\d+$/m)
  assert.ok(
    out.includes(`management API: user admin, its password is in ${home.path('data/initial_admin_password')}\n`)
  )
  const port = Number(/api:mgmt\s+127\.0\.0\.1:(\d+)/.exec(out)![1])
  const password = readFileSync(home.path('data/initial_admin_password'), 'utf8').trim()
  assert.ok(!out.includes(password) && !readFileSync(home.path('log/broker.log'), 'utf8').includes(password))
  assert.equal((await ask(port, '/api/v2/users', { as: basic('admin', password) })).status, 200)
  assert.equal((await broker('stop')).code, 0)
  assert.doesNotMatch((await broker('start')).out, /password/)
  assert.equal((await broker('stop')).code, 0)
})

test('what is wrong with its configuration is found before the start', async t => {
  for (const [line, problem] of [
    [
      'listener.api.mgmt.certfile = x.pem',
      /listener\.api\.mgmt\.certfile: has no effect without listener\.api\.mgmt\.keyfile/
    ],
    ['listener.api.mgmt.acceptors = 4', /acceptors: not here for the management API; remove the line/],
    ['listener.api.mgmt.public = all', /expected status \| healthz \| readyz \| metrics \| openapi, got "all"/],
    ['listener.api.other = 127.0.0.1:1', /listener\.api\.other: 127\.0\.0\.1:1 is taken by listener\.api\.mgmt/]
  ] as const) {
    const home = makeHome(t, { conf: `listener.tcp.t = 0\nlistener.api.mgmt = 127.0.0.1:1\n${line}` })
    assert.throws(() => readSettings(home, {}), problem, line)
  }
  const alone = makeHome(t, { conf: 'listener.api.mgmt = 127.0.0.1:1' })
  assert.throws(() => readSettings(alone, {}), /no listener is configured/)
})
