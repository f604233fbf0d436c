// Every route of the management API over HTTP, against what emqttd 2.3.11 answered, and against its own description.
import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import { Validator } from '@seriousme/openapi-schema-validator'
import { version } from '../../src/base/home.js'
import { makeApp, routesOf } from '../../src/mgmt/app.js'
import { Login } from '../../src/mgmt/login.js'
import { openApi, templateOf } from '../../src/mgmt/openapi.js'
import type { Schema } from '../../src/mgmt/route.js'
import { type Asking, basic, startWithApi, type WithApi } from '../support/api.js'
import { client, next, Speaker, until } from '../support/server.js'

const node = 'broker@127.0.0.1'
const all = routesOf('1.2.3')

/** What was asked of which route; the last test wants every one of the table to be in it. */
const tried = new Set<string>()

/** Asks, and holds the answer to what the description says of the route. */
async function get(running: WithApi, path: string, asking: Asking = {}): Promise<any> {
  const { method = 'GET' } = asking
  const parts = path.split('?')[0]!.split('/')
  const fits = (template: string[]): boolean =>
    template.length === parts.length && template.every((part, i) => part.startsWith(':') || part === parts[i])
  const route = all.find(r => r.method === method && fits(r.path.split('/')))
  assert.ok(route, `${method} ${path} is in the table`)
  const { status, body, text, headers } = await running.ask(path, asking)
  tried.add(`${method} ${route.path}`)
  if (route.gives !== undefined) {
    assert.match(String(headers['content-type']), new RegExp(`^${route.gives[0]}`))
    conforms(route.gives[1], body ?? text, path)
    return body ?? text
  }
  assert.equal(status, 200, `${path}: ${text}`)
  if (body.code === 0 && route.paged) for (const each of body.result.objects) conforms(route.result!, each, path)
  else if (body.code === 0) conforms(route.result!, body.result, path)
  return body
}

const post = (body: unknown): Asking => ({ method: 'POST', body })
const put = (body: unknown): Asking => ({ method: 'PUT', body })
const del: Asking = { method: 'DELETE' }
const ok = { code: 0, result: [] }

/** JSON Schema, as much of it as the table uses; an object has no more than it says. */
function conforms(schema: Schema, value: unknown, at: string): void {
  const is = value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value
  const types = [schema['type'] ?? []].flat() as string[]
  const fits = types.includes(is) || (is === 'number' && types.includes('integer') && Number.isInteger(value))
  if (types.length > 0) assert.ok(fits, `${at}: ${JSON.stringify(value)} is no ${types.join(' or ')}`)
  if (is === 'array') for (const each of value as unknown[]) conforms((schema['items'] ?? {}) as Schema, each, at)
  const {
    properties,
    required = [],
    additionalProperties
  } = schema as {
    properties?: Record<string, Schema>
    required?: string[]
    additionalProperties?: Schema
  }
  if (is !== 'object' || (properties === undefined && additionalProperties === undefined)) return
  for (const name of required) assert.ok(Object.hasOwn(value as object, name), `${at}: no ${name}`)
  for (const [name, each] of Object.entries(value as object)) {
    const of = properties?.[name] ?? additionalProperties
    if (of !== undefined) conforms(of, each, `${at}.${name}`)
    else assert.ok(at.includes('openapi'), `${at}: ${name} is not described`)
  }
}

const time = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/

async function withClient(t: TestContext, conf = ''): Promise<WithApi> {
  const running = await startWithApi(t, { conf })
  const c = await client(t, running, { clientId: 'restsub', username: 'alice', keepalive: 60 })
  await c.subscribeAsync('rest/#', { qos: 1 })
  return running
}

test('nodes', async t => {
  const running = await startWithApi(t)
  const { result } = await get(running, '/api/v2/management/nodes')
  const { uptime, datetime, version: said, otp_release, ...rest } = result[0]
  assert.deepEqual(rest, { name: node, sysdescr: 'tsmqttd MQTT Broker', node_status: 'Running' })
  assert.match(uptime, /^\d+ seconds$/)
  assert.match(datetime, time)
  assert.equal(said, version)
  assert.equal(otp_release, `Node.js ${process.version}`)
  const one = await get(running, `/api/v2/management/nodes/${node}`)
  assert.deepEqual(Object.keys(one.result), Object.keys(result[0]).slice(1), 'without the name, as in emqttd')
  assert.deepEqual(await get(running, '/api/v2/management/nodes/other@host'), {
    code: 101,
    message: 'no such node: other@host'
  })

  const load = await get(running, '/api/v2/monitoring/nodes')
  assert.deepEqual(
    Object.keys(load.result[0]).join(),
    'name,otp_release,memory_total,memory_used,process_available,process_used,max_fds,clients,node_status,load1,load5,load15'
  )
  assert.match(load.result[0].memory_total, /^\d+\.\d\dM$/)
  assert.equal((await get(running, `/api/v2/monitoring/nodes/${node}`)).result.name, node)
})

test('listeners, metrics and stats', async t => {
  const running = await withClient(t)
  const listeners = await get(running, `/api/v2/monitoring/listeners/${node}`)
  assert.deepEqual(listeners.result, [
    {
      protocol: 'mqtt:tcp',
      listen: `127.0.0.1:${running.port}`,
      acceptors: 1,
      max_clients: 102400,
      current_clients: 1,
      shutdown_count: []
    },
    {
      protocol: 'mqtt:api',
      listen: `127.0.0.1:${running.api}`,
      acceptors: 1,
      max_clients: 64,
      current_clients: 1,
      shutdown_count: []
    }
  ])
  assert.deepEqual(Object.keys((await get(running, '/api/v2/monitoring/listeners')).result[0]), [node])

  const metrics = await get(running, '/api/v2/monitoring/metrics')
  assert.equal(Object.keys(metrics.result[0][node]).length, 38)
  assert.equal((await running.ask('/api/v2/monitoring/metrics/')).status, 200, 'as emqttd’s own list has it')
  assert.equal(metrics.result[0][node]['packets/connect'], 1)
  const { result } = await get(running, `/api/v2/monitoring/metrics/${node}`)
  assert.deepEqual(result, metrics.result[0][node])
  const stats = await get(running, `/api/v2/monitoring/stats/${node}`)
  assert.equal(Object.keys(stats.result).length, 14)
  assert.equal(stats.result['subscriptions/count'], 1)
  assert.deepEqual((await get(running, '/api/v2/monitoring/stats')).result, [{ [node]: stats.result }])
})

test('clients: listed, shown and kicked', async t => {
  const running = await withClient(t)
  const page = await get(running, `/api/v2/nodes/${node}/clients`)
  const { objects, ...rest } = page.result
  assert.deepEqual(rest, { current_page: 1, page_size: 20, total_num: 1, total_page: 1 })
  const { port, connected_at, ...row } = objects[0]
  assert.deepEqual(row, {
    client_id: 'restsub',
    username: 'alice',
    ipaddress: '127.0.0.1',
    clean_sess: true,
    proto_ver: 4,
    keepalive: 60
  })
  assert.ok(port > 0)
  assert.match(connected_at, time)
  assert.deepEqual((await get(running, `/api/v2/nodes/${node}/clients?curr_page=1&page_size=20`)).result, page.result)
  for (const path of [`/api/v2/nodes/${node}/clients/restsub`, '/api/v2/clients/restsub']) {
    assert.deepEqual(await get(running, path), { code: 0, result: { objects } })
  }
  assert.deepEqual(await get(running, '/api/v2/clients/nosuch'), { code: 0, result: { objects: [] } })

  const anonymous = await Speaker.connect(t, running, { id: 'a/b ü+%' })
  const found = await get(running, `/api/v2/clients/${encodeURIComponent('a/b ü+%')}`)
  assert.deepEqual([found.result.objects[0].client_id, found.result.objects[0].username], ['a/b ü+%', 'undefined'])

  assert.deepEqual(await get(running, '/api/v2/clients/nosuch', del), { code: 112 })
  assert.deepEqual(await get(running, `/api/v2/clients/${encodeURIComponent('a/b ü+%')}`, del), ok)
  await anonymous.raw.closed
  assert.deepEqual((await get(running, `/api/v2/nodes/${node}/clients`)).result.total_num, 1)
})

test('clean_acl_cache: what the ACL said of a topic is asked anew', async t => {
  const running = await startWithApi(t)
  const c = await client(t, running, { clientId: 'c' })
  let asked = 0
  running.server.hooks.scope('test').on('client.authorize', (_client, action) => {
    if (action === 'publish') asked++
    return 'allow'
  })
  const publish = async (): Promise<number> => {
    await c.publishAsync('t', 'x', { qos: 1 })
    return asked
  }
  assert.deepEqual([await publish(), await publish()], [1, 1], 'the second from the cache')
  assert.deepEqual(await get(running, '/api/v2/clients/c/clean_acl_cache', put({ topic: 'other' })), ok)
  assert.equal(await publish(), 1)
  assert.deepEqual(await get(running, '/api/v2/clients/c/clean_acl_cache', put({ topic: 't' })), ok)
  assert.equal(await publish(), 2)
  assert.deepEqual(await get(running, '/api/v2/clients/nosuch/clean_acl_cache', put({ topic: 't' })), { code: 112 })
  assert.equal((await get(running, '/api/v2/clients/c/clean_acl_cache', put({}))).code, 107)
})

test('sessions, subscriptions and routes', async t => {
  const running = await withClient(t)
  const sessions = (await get(running, `/api/v2/nodes/${node}/sessions`)).result
  const { created_at, ...row } = sessions.objects[0]
  assert.deepEqual(row, {
    client_id: 'restsub',
    clean_sess: true,
    subscriptions: 1,
    max_inflight: 32,
    inflight_len: 0,
    mqueue_len: 0,
    mqueue_dropped: 0,
    awaiting_rel_len: 0,
    deliver_msg: 0,
    enqueue_msg: 0
  })
  assert.match(created_at, time)
  for (const path of ['/api/v2/sessions/restsub', `/api/v2/nodes/${node}/sessions/restsub`])
    assert.deepEqual((await get(running, path)).result.objects, sessions.objects)
  assert.deepEqual((await get(running, '/api/v2/sessions/nosuch')).result, { objects: [] })

  const objects = [{ client_id: 'restsub', topic: 'rest/#', qos: 1 }]
  const one = { current_page: 1, page_size: 20, total_num: 1, total_page: 1 }
  assert.deepEqual((await get(running, `/api/v2/nodes/${node}/subscriptions`)).result, { ...one, objects })
  for (const path of ['/api/v2/subscriptions/restsub', `/api/v2/nodes/${node}/subscriptions/restsub`])
    assert.deepEqual((await get(running, path)).result, { objects })
  assert.deepEqual((await get(running, '/api/v2/subscriptions/nosuch')).result, { objects: [] })

  const routes = [{ topic: 'rest/#', node }]
  assert.deepEqual((await get(running, '/api/v2/routes')).result, { ...one, objects: routes })
  assert.deepEqual((await get(running, '/api/v2/routes/rest%2F%23')).result, { objects: routes })
  assert.deepEqual((await get(running, '/api/v2/routes/nosuch')).result, { objects: [] })
})

test('publish, subscribe and unsubscribe, with emqttd’s answers', async t => {
  const running = await startWithApi(t)
  const c = await client(t, running, { clientId: 'restsub' })
  await c.subscribeAsync('rest/#', { qos: 1 })
  const publish = (body: unknown) => get(running, '/api/v2/mqtt/publish', post(body))

  const came = next(c, 'message')
  assert.deepEqual(await publish({ topic: 'rest/1', payload: 'hello', qos: 1, retain: false, client_id: 'http' }), ok)
  const [topic, payload, packet] = await came
  assert.deepEqual([topic, String(payload), packet.qos], ['rest/1', 'hello', 1])
  const bytes = next(c, 'message')
  await publish({ topic: 'rest/2', payload: Buffer.from([0, 255]).toString('base64'), encoding: 'base64' })
  assert.deepEqual([...(await bytes)[1]], [0, 255])

  for (const [body, answer] of [
    [{ payload: 'hello' }, { code: 107, message: 'params error' }],
    [
      { topic: 5, payload: 'hello' },
      { code: 108, message: 'params type error' }
    ],
    [
      { topic: 't', qos: 3 },
      { code: 108, message: 'params type error' }
    ],
    [
      { topic: 't', qos: '1' },
      { code: 108, message: 'params type error' }
    ],
    [[], { code: 108, message: 'params type error' }],
    ['notjson', { code: 109, message: 'Body not json' }],
    ['', { code: 109, message: 'Body not json' }],
    ['null', { code: 109, message: 'Body not json' }],
    [
      { topic: 'rest/#', payload: 'hello' },
      { code: 102, message: 'validate topic: rest/# fail' }
    ],
    [{ topic: '' }, { code: 102, message: 'validate topic:  fail' }]
  ] as const)
    assert.deepEqual(await publish(body), answer, JSON.stringify(body))

  const api = (what: string, body: unknown) => get(running, `/api/v2/mqtt/${what}`, post(body))
  assert.deepEqual(await api('subscribe', { topic: 'api/sub', qos: 1, client_id: 'restsub' }), ok)
  const subscribed = next(c, 'message')
  await publish({ topic: 'api/sub', payload: 'x' })
  assert.equal((await subscribed)[0], 'api/sub')
  const notFound = { code: 102, message: 'Clientid: nosuch not found' }
  assert.deepEqual(await api('subscribe', { topic: 'api/sub', qos: 1, client_id: 'nosuch' }), notFound)
  assert.deepEqual(await api('unsubscribe', { topic: 'api/sub', client_id: 'nosuch' }), notFound)
  assert.deepEqual(await api('subscribe', { topic: 'a/#/b', client_id: 'restsub' }), {
    code: 102,
    message: 'validate topic: a/#/b fail'
  })
  assert.deepEqual(await api('unsubscribe', { topic: 'api/sub', client_id: 'restsub' }), ok)
  assert.equal((await get(running, '/api/v2/subscriptions/restsub')).result.objects.length, 1)
})

test('a body counts as JSON whatever its content type says, as with curl -d', async t => {
  const running = await startWithApi(t)
  for (const type of ['application/json', 'application/x-www-form-urlencoded', 'text/plain']) {
    const asking = { ...post({ topic: 't' }), headers: { 'content-type': type } }
    assert.deepEqual(await get(running, '/api/v2/mqtt/publish', asking), ok, type)
  }
  const large = await running.ask('/api/v2/mqtt/publish', post({ topic: 't', payload: 'x'.repeat(9 * 1024 * 1024) }))
  assert.equal(large.status, 413)
})

test('retained messages: listed, shown and forgotten', async t => {
  const running = await startWithApi(t)
  const c = await client(t, running, { clientId: 'pub' })
  await c.publishAsync('keep/me', 'kept', { retain: true, qos: 1 })
  await c.publishAsync('raw', Buffer.from([0xff]), { retain: true, qos: 1 })
  const kept = { topic: 'keep/me', qos: 1, size: 4, from: 'pub' }
  const { result } = await get(running, '/api/v2/retained')
  assert.equal(result.total_num, 2)
  assert.deepEqual(result.objects[0], kept)
  assert.deepEqual((await get(running, '/api/v2/retained/keep%2Fme')).result.objects, [
    { ...kept, encoding: 'plain', payload: 'kept' }
  ])
  assert.equal((await get(running, '/api/v2/retained/raw')).result.objects[0].payload, '/w==')
  assert.deepEqual((await get(running, '/api/v2/retained/no')).result, { objects: [] })
  assert.deepEqual(await get(running, '/api/v2/retained/keep%2Fme', del), ok)
  assert.deepEqual(await get(running, '/api/v2/retained/keep%2Fme', del), {
    code: 102,
    message: 'Topic: keep/me not found'
  })
})

test('plugins: listed, loaded and unloaded', async t => {
  const running = await startWithApi(t, { plugins: { 'auth-scram': 'auth.scram.iterations = 4096' } })
  const path = `/api/v2/nodes/${node}/plugins`
  const active = async () => (await get(running, path)).result.map((p: any) => [p.name, p.active])
  assert.deepEqual(await active(), [['auth_scram', false]])
  assert.deepEqual(await get(running, `${path}/emq_auth_scram`, put({ active: true })), ok)
  assert.deepEqual(await active(), [['auth_scram', true]])
  assert.equal((await get(running, `${path}/auth_scram`, put({ active: true }))).code, 110)
  assert.deepEqual(await get(running, `${path}/auth_scram`, put({ active: false })), ok)
  assert.equal((await get(running, `${path}/auth_scram`, put({ active: false }))).code, 111)
  assert.equal((await get(running, `${path}/nosuch`, put({ active: true }))).code, 102)
  assert.equal((await get(running, `${path}/auth_scram`, put({ active: 'yes' }))).code, 108)
})

test('alarms: those that last, and those that are over', async t => {
  const running = await startWithApi(t)
  const { alarms } = running.server
  const path = `/api/v2/nodes/${node}/alarms`
  assert.deepEqual(await get(running, path), ok)
  alarms.raise('high', 'warning', 'the queue is long', { clientId: 'c', length: 7 })
  const { occurred_at, ...alarm } = (await get(running, path)).result[0]
  assert.deepEqual(alarm, {
    id: 'high',
    severity: 'warning',
    title: 'the queue is long',
    summary: 'clientId=c length=7'
  })
  assert.match(occurred_at, time)
  alarms.clear('high')
  assert.deepEqual(await get(running, path), ok)
  assert.match((await get(running, `${path}/history`)).result[0].cleared_at, time)
})

test('bans: made, listed and lifted; who is banned goes and stays away', async t => {
  const running = await startWithApi(t)
  const path = '/api/v2/banned'
  const ban = { as: 'clientid', who: 'a/b', for: '1h', reason: 'noise' }
  const speaker = await Speaker.connect(t, running, { id: 'a/b' })
  assert.deepEqual(await get(running, path), ok)
  const { at, until, ...rest } = (await get(running, path, post(ban))).result
  assert.deepEqual(rest, { as: 'clientid', who: 'a/b', reason: 'noise', kicked: 1 })
  assert.equal(until - at, 3600)
  await speaker.raw.closed
  assert.notEqual((await Speaker.connect(t, running, { id: 'a/b' })).connack.code, 0)
  assert.deepEqual((await get(running, path)).result, [{ as: 'clientid', who: 'a/b', at, until, reason: 'noise' }])
  assert.deepEqual(await get(running, `${path}/clientid/a%2Fb`, del), ok)
  assert.equal((await get(running, `${path}/clientid/a%2Fb`, del)).code, 102)
  assert.equal((await Speaker.connect(t, running, { id: 'a/b' })).connack.code, 0)
  assert.equal((await get(running, path, post({ as: 'shoe', who: 'x' }))).code, 108)
  assert.equal((await get(running, path, post({ as: 'ip' }))).code, 107)
  assert.match((await get(running, path, post({ as: 'ip', who: 'x' }))).message, /expected an IP address/)
})

test('configs: shown as emqttd does, set, and with passwords masked', async t => {
  const running = await startWithApi(t, {
    conf: 'mqtt.retain.max_payload_size = 9KB',
    plugins: { 'auth-scram': 'auth.scram.iterations = 4096', vault: 'vault.password = hush-7f3a' }
  })
  const path = `/api/v2/nodes/${node}/configs`
  const value = async (key: string) => (await get(running, path)).result.find((c: any) => c.key === key)
  const one = { key: 'mqtt.retain.max_payload_size', value: '9KB', datatpye: 'bytesize', app: 'emqttd' }
  assert.deepEqual(await value(one.key), one)
  const { result } = await get(running, '/api/v2/configs')
  assert.deepEqual(Object.keys(result), [node])
  assert.ok(result[node].some((c: any) => c.key === one.key))
  const set = (at: string, body: unknown) => get(running, at, put(body))
  assert.deepEqual(await set('/api/v2/configs/emqttd', { key: one.key, value: '8KB' }), ok)
  assert.equal((await value(one.key)).value, '8KB')
  assert.equal(running.server.options.mqtt.retain.maxPayloadSize, 8192)
  assert.deepEqual(await set(`${path}/emqttd`, { key: one.key, value: '7KB' }), ok)
  assert.equal((await set(`${path}/other`, { key: one.key, value: '7KB' })).code, 102)
  assert.match((await set(`${path}/emqttd`, { key: one.key, value: 'much' })).message, /expected a size/)
  assert.match((await set(`${path}/emqttd`, { key: 'node.name', value: 'a@b' })).message, /needs a restart/)
  assert.equal((await set(`${path}/emqttd`, { key: one.key, value: 7 })).code, 108)

  const keys = `/api/v2/nodes/${node}/plugin_configs`
  assert.equal((await get(running, `${keys}/auth_scram`)).code, 102, 'not loaded')
  await running.server.plugins.load('auth_scram')
  const [, iterations] = (await get(running, `${keys}/emq_auth_scram`)).result
  assert.deepEqual(iterations, { key: 'auth.scram.iterations', value: '4096', desc: '', required: true })
  mkdirSync(running.home.path('plugins'))
  const options = '{ password: { parse: text => text } }'
  const code = `export default { name: 'vault', prefix: 'vault', version: '1', description: '', options: ${options}, start: () => ({}) }`
  writeFileSync(running.home.path('plugins/vault.mjs'), code)
  await running.server.plugins.load('vault')
  assert.equal((await get(running, `${keys}/vault`)).result[0].value, '******')
  assert.doesNotMatch(JSON.stringify(await get(running, '/api/v2/configs')), /hush/)
})

test('users: added, shown, changed and deleted; their passwords count at once', async t => {
  const running = await startWithApi(t)
  const users = '/api/v2/users'
  const admin = { username: 'admin', tags: 'administrator' }
  assert.deepEqual(await get(running, users), { code: 0, result: [admin] })
  assert.deepEqual(await get(running, users, post({ username: 'op2', password: 'pw', tags: 'viewer' })), ok)
  assert.equal((await get(running, users, post({ username: 'op2', password: 'pw' }))).code, 113)
  assert.equal((await get(running, users, post({ username: 'op3' }))).code, 107)
  assert.equal((await get(running, users, post({ username: 'op3', password: '' }))).code, 104)
  assert.deepEqual((await get(running, `${users}/op2`)).result, { username: 'op2', tags: 'viewer' })
  assert.equal((await get(running, `${users}/nosuch`)).code, 105)
  assert.deepEqual(await get(running, `${users}/op2`, put({ tags: 'operator' })), ok)
  assert.equal((await get(running, `${users}/nosuch`, put({ tags: '' }))).code, 105)
  const as = (password: string): Asking => ({ as: basic('op2', password) })
  assert.equal((await running.ask(users, as('pw'))).status, 200)

  const change = (name: string, old_pwd: string, new_pwd: string) =>
    get(running, `/api/v2/change_pwd/${name}`, put({ old_pwd, new_pwd }))
  assert.equal((await change('op2', 'bad', 'new')).code, 114)
  assert.equal((await change('nosuch', 'pw', 'new')).code, 105)
  assert.equal((await change('op2', 'pw', '')).code, 104)
  assert.deepEqual(await change('op2', 'pw', 'new'), ok)
  assert.equal((await running.ask(users, as('pw'))).status, 401)
  assert.equal((await running.ask(users, as('new'))).status, 200)

  assert.equal((await get(running, `${users}/admin`, del)).code, 106)
  assert.deepEqual(await get(running, `${users}/op2`, del), ok)
  assert.equal((await get(running, `${users}/op2`, del)).code, 105)
  assert.equal((await running.ask(users, as('new'))).status, 401)
})

test('auth: tells whether a password is right, without a login', async t => {
  const running = await startWithApi(t)
  const auth = (body: unknown) => get(running, '/api/v2/auth', { ...post(body), as: '' })
  assert.deepEqual(await auth({ username: 'admin', password: running.password }), ok)
  assert.deepEqual(await auth({ username: 'admin', password: 'bad' }), { code: 103, message: 'Password error' })
  assert.equal((await auth({ username: 'admin', password: '' })).code, 104)
  assert.equal((await auth({ username: 'admin' })).code, 107)
})

test('pages: each row once, and never more than there are', async t => {
  const running = await startWithApi(t)
  const { clients } = running.server
  for (let i = 0; i < 45; i++) clients.sessions.open(`s${i}`, false, 3600, undefined)
  const page = async (query: string) => (await get(running, `/api/v2/nodes/${node}/sessions${query}`)).result
  const ids: string[] = []
  for (const n of [1, 2, 3]) {
    const { objects, ...rest } = await page(`?curr_page=${n}`)
    assert.deepEqual(rest, { current_page: n, page_size: 20, total_num: 45, total_page: 3 })
    ids.push(...objects.map((o: any) => o.client_id))
  }
  assert.deepEqual(
    ids,
    Array.from({ length: 45 }, (_, i) => `s${i}`)
  )
  assert.deepEqual((await page('?curr_page=4')).objects, [])
  assert.equal((await page('?page_size=45')).objects.length, 45)
  assert.equal((await page('?page_size=44')).objects.length, 44)
  assert.deepEqual((await page('?page_size=1&curr_page=45')).objects[0].client_id, 's44')
  for (const query of ['?curr_page=0', '?curr_page=x', '?page_size=-1', '?page_size=', '?page_size=1&page_size=2'])
    assert.equal((await get(running, `/api/v2/nodes/${node}/sessions${query}`)).code, 108, query)
})

test('30 000 sessions: few rows are made in one turn of the event loop, wherever the page is', async t => {
  const running = await startWithApi(t)
  const { sessions } = running.server.clients
  for (let i = 0; i < 30_000; i++) sessions.open(`s${i}`, false, 3600, undefined)
  await running.ask('/status') // fastify is there
  let [rows, most, scheduled] = [0, 0, false]
  const each = sessions.each.bind(sessions)
  sessions.each = function* () {
    for (const session of each()) {
      rows++
      if (!scheduled) {
        setImmediate(() => {
          most = Math.max(most, rows)
          ;[rows, scheduled] = [0, false]
        })
      }
      scheduled = true
      yield session
    }
  }
  const { objects } = (await running.ask(`/api/v2/nodes/${node}/sessions?page_size=100000`)).body.result
  assert.equal(objects.length, 30_000)
  assert.equal(objects[29_999].client_id, 's29999')
  assert.ok(most < 15_000, `${most} rows in one turn`)
  const last = (await get(running, `/api/v2/nodes/${node}/sessions?page_size=1&curr_page=30000`)).result
  assert.equal(last.objects[0].client_id, 's29999')
})

test('status, healthz and readyz need no login, and say what is wrong', async t => {
  const running = await startWithApi(t)
  const open: Asking = { as: '' }
  assert.equal(await get(running, '/status', open), `Node ${node} is started\nbroker is running`)
  assert.deepEqual(await get(running, '/healthz', open), { alive: true })
  assert.deepEqual(await get(running, '/readyz', open), { ready: true, why: [] })
  const { server } = running
  await server.listeners[0]!.close()
  assert.deepEqual(await get(running, '/readyz', open), { ready: false, why: ['tcp:test is not open'] })
  assert.equal((await running.ask('/readyz', open)).status, 503)
  await server.listeners[0]!.open()
  server.alarms.raise('store_unwritable', 'critical', 'the store cannot be written')
  assert.deepEqual((await get(running, '/readyz', open)).why, ['the store cannot be written'])
  server.alarms.clear('store_unwritable')
  assert.equal((await running.ask('/readyz', open)).status, 200)
})

test('metrics are emqttd’s and more, as Prometheus reads them, and equal to what the broker counted', async t => {
  const running = await withClient(t, 'store.type = lmdb')
  await get(running, '/api/v2/mqtt/publish', post({ topic: 'rest/1', payload: 'x' }))
  const c = await client(t, running, { clientId: 'pub' })
  for (let i = 0; i < 5; i++) await c.publishAsync('rest/a', 'x', { qos: 1 })
  assert.equal((await running.ask('/metrics', { as: '' })).status, 401)
  const { clients } = running.server
  await until('all is acknowledged', () => clients.sessions.get('restsub')?.inflightLength === 0)
  const text: string = await get(running, '/metrics')
  const values = new Map(
    [...text.matchAll(/^([a-z]\w*(?:\{[^}]*\})?) (\S+)$/gm)].map(([, name, value]) => [name!, Number(value)])
  )
  for (const [name, value] of Object.entries(clients.metrics.standard(clients.dispatcher.retained.size))) {
    const at = `broker_${name.replaceAll('/', '_')}${name === 'messages/retained' ? '' : '_total'}`
    assert.equal(values.get(at), value, at)
  }
  assert.equal(values.get('broker_messages_qos1_received_total'), 5)
  for (const [name, value] of Object.entries(running.server.ops.broker.stats()))
    assert.equal(values.get(`broker_${name.replaceAll('/', '_')}`), value, name)
  const samples = values.get('broker_message_latency_seconds_count')!
  assert.ok(samples > 0)
  assert.equal(values.get('broker_message_latency_seconds_bucket{le="+Inf"}'), samples)
  for (const name of [
    'process_cpu_user_seconds_total',
    'process_resident_memory_bytes',
    'process_open_fds',
    'nodejs_eventloop_lag_p99_seconds',
    'nodejs_gc_pause_seconds_total',
    'broker_listener_up{listener="tcp:test"}',
    'broker_alarms{severity="critical"}',
    'broker_store_size_bytes',
    'broker_store_commits_total'
  ])
    assert.ok(values.has(name), name)
  assert.equal(
    [...text.matchAll(/^# TYPE (\S+)/gm)].length,
    new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map(m => m[1])).size
  )
})

test('the description is valid OpenAPI, and has every route of fastify and no other', async t => {
  const running = await startWithApi(t)
  const described = await get(running, '/api/v2/openapi.json')
  const { valid, errors } = await new Validator().validate(structuredClone(described))
  assert.ok(valid, JSON.stringify(errors))
  const operations = Object.entries<Record<string, { operationId: string }>>(described.paths)
  const ids = operations.flatMap(([, methods]) => Object.values(methods).map(({ operationId }) => operationId))
  assert.equal(new Set(ids).size, ids.length)

  const { server } = running
  const { admins } = server.management!
  const app = await makeApp(
    { ops: server.ops, admins, login: new Login(admins, server.log), log: server.log },
    [...server.options.listener.api.values()].map(o => ({ ...o, name: 'x' }))[0]!
  )
  t.after(() => app.close())
  const inFastify: string[] = []
  const walk = (lines: string[], prefix: string[] = []): void => {
    for (const line of lines) {
      const [, indent = '', segment = '', methods] = /^([│ ]*)[├└]── (.*?)(?: \(([A-Z, ]+)\))?$/.exec(line) ?? []
      if (segment === '') continue
      const depth = indent.length / 4
      prefix.length = depth
      prefix[depth] = segment === '(empty root node)' ? '' : segment
      for (const method of methods?.split(', ') ?? []) inFastify.push(`${method} ${templateOf(prefix.join(''))}`)
    }
  }
  walk(app.printRoutes({ commonPrefix: false }).split('\n'))
  const inTable = all.map(({ method, path }) => `${method} ${templateOf(path)}`)
  const inDescription = operations.flatMap(([path, methods]) =>
    Object.keys(methods).map(method => `${method.toUpperCase()} ${path}`)
  )
  assert.deepEqual(inFastify.sort(), inDescription.sort())
  assert.deepEqual(inTable.sort(), inDescription)
  for (const name of inTable)
    assert.ok(
      app.hasRoute({ method: name.split(' ')[0]! as 'GET', url: name.split(' ')[1]!.replace(/\{(\w+)\}/g, ':$1') }),
      name
    )
  assert.deepEqual(JSON.parse(JSON.stringify(openApi(all, version))), described)
})

test('/ has emqttd’s list of paths', async t => {
  const running = await startWithApi(t)
  const { paths } = await get(running, '/', { as: '' })
  for (const path of ['api/v2/management/nodes', 'api/v2/clients/{clientid}', 'api/v2/mqtt/publish'])
    assert.ok(paths.includes(path), path)
})

test('what there is not is 404, and nobody learns that without a login', async t => {
  const running = await startWithApi(t)
  for (const path of ['/api/v2/nosuch', '/nosuch', '/api/clients']) {
    const { status, text, headers } = await running.ask(path)
    assert.deepEqual([status, text], [404, ''])
    assert.match(String(headers['content-type']), /^text\/plain/)
    assert.equal((await running.ask(path, { as: '' })).status, 401)
  }
})

test('every route has been tried', () => {
  assert.deepEqual([...tried].sort(), all.map(({ method, path }) => `${method} ${path}`).sort())
})
