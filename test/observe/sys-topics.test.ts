/** $SYS: what emqttd publishes there, when, retained or not, and who may read it. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { AclCache } from '../../src/access/acl-cache.js'
import { version } from '../../src/base/home.js'
import { SysTopics } from '../../src/observe/sys-topics.js'
import { packageRoot } from '../support/cli.js'
import { client, next, Speaker, startServer, until } from '../support/server.js'

const root = '$SYS/brokers/broker@127.0.0.1'

test('$SYS has version, uptime, stats and metrics at their intervals, retained as in emqttd', async t => {
  const running = await startServer(t, { conf: 'mqtt.broker.sys_interval = 200ms' })
  const got = new Map<string, { payload: string; retain: boolean; qos: number }>()
  const reader = await client(t, running)
  reader.on('message', (topic, payload, { qos, retain }) => void got.set(topic, { payload: `${payload}`, retain, qos }))
  await reader.subscribeAsync('$SYS/#', { qos: 1 })
  const told = (topic: string): string | undefined => got.get(`${root}/${topic}`)?.payload
  const under = (part: string): string[] => [...got.keys()].filter(topic => topic.startsWith(`${root}/${part}/`))
  const all = (): boolean => told('uptime') !== undefined && under('stats').length > 13 && under('metrics').length > 37
  await until('all was told', all)
  assert.equal(got.get('$SYS/brokers')?.payload, 'broker@127.0.0.1')
  assert.deepEqual([told('version'), told('sysdescr')], [version, 'tsmqttd MQTT Broker'])
  assert.match(told('uptime')!, /^\d+ seconds$/)
  assert.match(told('datetime')!, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/)
  assert.equal(under('stats').length, 14)
  assert.equal(under('metrics').length, 38)
  assert.deepEqual([told('stats/clients/count'), told('stats/subscriptions/max')], ['1', '1'])
  assert.equal(told('metrics/packets/subscribe'), '1')
  assert.equal(told('metrics/messages/sent'), '0', '$SYS itself does not count')
  assert.ok([...got.values()].every(({ qos }) => qos === 0))

  const late = await Speaker.connect(t, running, { id: 'late' })
  await late.subscribe([['$SYS/#', 0]])
  const retained: string[] = []
  for (let each = await late.nextOf(3); each.retain; each = await late.nextOf(3)) retained.push(each.topic)
  assert.deepEqual(retained.sort(), ['$SYS/brokers', `${root}/sysdescr`, `${root}/version`])
})

test('$SYS tells who came, who was refused and who went', async t => {
  const running = await startServer(t, { conf: 'mqtt.broker.sys_interval = 0s\nmqtt.allow_anonymous = true' })
  running.server.hooks
    .scope('door')
    .on('client.authenticate', ({ username }) => (username === 'mallory' ? 'deny' : 'allow'))
  const reader = await client(t, running, { clientId: 'reader' })
  await reader.subscribeAsync('$SYS/#', { qos: 2 })
  const message = async (): Promise<[string, Record<string, unknown>, number]> => {
    const [topic, payload, packet] = await next(reader, 'message')
    return [topic, JSON.parse(String(payload)), packet.qos]
  }
  const since = Math.floor(Date.now() / 1000)

  let told = message()
  const lamp = await client(t, running, { clientId: 'hall/lamp', username: 'alice', clean: false })
  let [topic, said, qos] = await told
  const { ts, ...connected } = said
  assert.ok(Number(ts) >= since && Number(ts) <= Date.now() / 1000)
  assert.equal(
    JSON.stringify(connected),
    '{"clientid":"hall/lamp","username":"alice","ipaddress":"127.0.0.1","clean_sess":false,"protocol":4,"connack":0}'
  )
  assert.deepEqual([topic, qos], [`${root}/clients/hall/lamp/connected`, 1])

  told = message()
  await lamp.endAsync()
  ;[topic, said] = await told
  assert.equal(topic, `${root}/clients/hall/lamp/disconnected`)
  assert.deepEqual(said, { clientid: 'hall/lamp', username: 'alice', reason: 'normal', ts: said['ts'] })

  told = message()
  await assert.rejects(client(t, running, { clientId: 'm#', username: 'mallory' }), { code: 4 })
  ;[topic, said] = await told
  assert.deepEqual([topic, said['connack'], said['clientid']], [`${root}/clients/m%23/connected`, 4, 'm#'])
  assert.equal(running.server.clients.dispatcher.retained.size, 0)
})

test('$SYS is for the dashboard’s user and this host, and nobody publishes to it, as acl.conf is shipped', async t => {
  const acl = readFileSync(join(packageRoot, 'etc/acl.conf'), 'utf8')
  const running = await startServer(t, { acl, conf: 'mqtt.broker.sys_interval = 200ms' })
  const local = await Speaker.connect(t, running, { id: 'local', version: 5 })
  assert.deepEqual(await local.subscribe([['$SYS/#', 1]]), [1])
  await until('retained', () => running.server.clients.dispatcher.retained.size === 3)
  assert.equal((await local.publish('$SYS/brokers', 'mine', { qos: 1, retain: true })).code, 0x87)
  assert.equal(`${running.server.clients.dispatcher.retained.get('$SYS/brokers')?.payload}`, 'broker@127.0.0.1')

  const elsewhere = { peer: { address: '10.1.2.3', port: 1 }, local: false, listener: 'tcp:test', cleanSession: true }
  const about = { ...elsewhere, clientId: 'c', keepAlive: 0, protocolVersion: 4, connectedAt: new Date() }
  const may = (username: string | undefined, filter: string): unknown =>
    running.server.access.authorize(
      { client: { ...about, username }, superuser: false, cache: new AclCache(0, 1) },
      'subscribe',
      filter
    )
  assert.equal(await may('dashboard', '$SYS/#'), true)
  for (const filter of ['$SYS/#', '$SYS/brokers', '$SYS/+/+/clients/#']) assert.equal(await may('alice', filter), false)
})

test('$SYS tells of alarms', async t => {
  const running = await startServer(t, { conf: 'mqtt.broker.sys_interval = 0s' })
  const reader = await client(t, running)
  await reader.subscribeAsync('$SYS/brokers/+/alarms/#')
  const { alarms } = running.server
  const id = 'queue_high_watermark.lamp'
  const since = Math.floor(Date.now() / 1000)
  let told = next(reader, 'message')
  alarms.raise(id, 'warning', 'a long queue', { length: 800, limit: 1000 })
  let [topic, payload] = await told
  const { ts, ...said } = JSON.parse(payload)
  assert.equal(topic, `${root}/alarms/${id}/alert`)
  assert.deepEqual(said, { id, severity: 'warning', title: 'a long queue', summary: 'length=800 limit=1000' })
  assert.ok(ts >= since && ts <= Date.now() / 1000)
  told = next(reader, 'message')
  alarms.clear(id)
  ;[topic, payload] = await told
  assert.deepEqual([topic, JSON.parse(payload).id], [`${root}/alarms/${id}/clear`, id])
})

test('SysTopics.stop() leaves neither timer nor hook', async t => {
  const { server } = await startServer(t, { conf: 'mqtt.broker.sys_interval = 0s' })
  const about = { node: 'other@here', version: '1', startedAt: new Date(), interval: 1000 }
  const sys = new SysTopics(about, server.clients.ingress, () => server.ops.broker.stats(), server.hooks)
  const before = server.hooks.has('client.refused')
  const timers = (): number => process.getActiveResourcesInfo().length
  const idle = timers()
  sys.start()
  sys.stop()
  assert.deepEqual([timers(), before, server.hooks.has('client.refused')], [idle, true, false])
})
