import assert from 'node:assert/strict'
import { once } from 'node:events'
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import tls from 'node:tls'
import mqtt from 'mqtt'
import type { BrokerError } from '../../src/base/errors.js'
import { fileSinks } from '../../src/base/log/files.js'
import { createLog } from '../../src/base/log/log.js'
import { brokerSchema, effectOf, inTable } from '../../src/config/broker-keys.js'
import { describeKeys, keysOf } from '../../src/config/schema.js'
import { ensureCertificates } from '../../src/net/certificates.js'
import type { Report } from '../../src/ops/operations.js'
import { Server } from '../../src/server/server.js'
import { readSettings } from '../../src/server/settings.js'
import { instance } from '../support/cli.js'
import {
  client,
  connectPacket,
  makeHome,
  next,
  RawClient,
  type Running,
  startServer,
  until,
  writeConf
} from '../support/server.js'

const conf = ({ home }: Pick<Running, 'home'>, text: string): void => writeConf(home.root, text)

const told = (changes: readonly { key: string; from: string | null; to: string | null }[]) =>
  changes.map(({ key, from, to }) => `${key}: ${from} → ${to}`)

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}

/** Whether somebody there lets a client in. */
async function answers(t: TestContext, port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  const raw = RawClient.over(t, socket)
  raw.send(connectPacket({ id: 'asks' }))
  const [first] = await raw.readPacket()
  socket.destroy()
  return first === 0x20
}

/** Whether the port accepts a connection, whatever comes then. */
const opens = async (port: number): Promise<boolean> =>
  await new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })

test('brokerSchema says of every key when it takes effect, and of a listener’s key the same for every transport', () => {
  for (const { key, effect } of describeKeys(brokerSchema)) {
    assert.notEqual(effect, undefined, key)
    assert.deepEqual(effectOf(key), effect, key)
  }
})

/** Another value of every key, so that none is forgotten. */
const others: Record<string, string> = {
  'node.name': 'other@127.0.0.1',
  'log.messages_per_second': '9',
  'log.console': 'both',
  'log.console.level': 'error',
  'log.console.format': 'json',
  'log.console.file': 'log/other.log',
  'log.console.size': '2MB',
  'log.console.count': '2',
  'log.error.file': 'log/other-error.log',
  'log.error.size': '2MB',
  'log.error.count': '2',
  'log.crash.file': 'log/other-crash.log',
  'mqtt.allow_anonymous': 'true',
  'mqtt.acl_nomatch': 'deny',
  'mqtt.acl_file': 'etc/other-acl.conf',
  'mqtt.acl_deny_action': 'disconnect',
  'mqtt.cache_acl': 'off',
  'mqtt.acl_cache.ttl': '2m',
  'mqtt.acl_cache.max_size': '2',
  'mqtt.max_clientid_len': '100',
  'mqtt.max_packet_size': '2MB',
  'mqtt.keepalive_backoff': '2',
  'mqtt.max_keepalive': '5m',
  'mqtt.check_payload_format': 'on',
  'mqtt.client.idle_timeout': '2m',
  'mqtt.client.max_publish_rate': '100,10',
  'mqtt.websocket_protocol_header': 'off',
  'mqtt.max_topic_levels': '9',
  'mqtt.max_topic_alias': '9',
  'mqtt.shared_subscription_strategy': 'sticky',
  'mqtt.broker.sys_interval': '9s',
  'mqtt.session.max_subscriptions': '9',
  'mqtt.session.max_inflight': '9',
  'mqtt.session.retry_interval': '9s',
  'mqtt.session.max_awaiting_rel': '9',
  'mqtt.session.await_rel_timeout': '9s',
  'mqtt.session.expiry_interval': '9s',
  'mqtt.session.ignore_loop_deliver': 'on',
  'mqtt.session.upgrade_qos': 'on',
  'mqtt.mqueue.type': 'priority',
  'mqtt.mqueue.priority': 'a=1',
  'mqtt.mqueue.max_length': '9',
  'mqtt.mqueue.low_watermark': '9%',
  'mqtt.mqueue.high_watermark': '99%',
  'mqtt.mqueue.store_qos0': 'off',
  'mqtt.retain.max_message_num': '9',
  'mqtt.retain.max_payload_size': '9KB',
  'mqtt.retain.expiry_interval': '9s',
  'mqtt.plugins.etc_dir': 'etc/other-plugins',
  'mqtt.plugins.loaded_file': 'data/other',
  'store.type': 'lmdb',
  'store.dir': 'data/other-store',
  'store.required': 'on',
  'store.sync': 'interval',
  'store.sync_interval': '9s',
  'listener.T.N.max_clients': '9',
  'listener.T.N.access.<n>': 'allow all',
  'listener.T.N.mountpoint': 'm/',
  'listener.T.N.rate_limit': '100,10',
  'listener.T.N.proxy_protocol': 'on',
  'listener.T.N.proxy_protocol_timeout': '9s',
  'listener.T.N.backlog': '9',
  'listener.T.N.send_timeout': '9s',
  'listener.T.N.send_timeout_close': 'off',
  'listener.T.N.nodelay': 'off',
  'listener.T.N.peer_cert_as_username': 'cn',
  'listener.T.N.certfile': 'etc/certs/client-cert.pem',
  'listener.T.N.keyfile': 'etc/certs/client-key.pem',
  'listener.T.N.cacertfile': 'etc/certs/cacert.pem',
  'listener.T.N.dhfile': '',
  'listener.T.N.verify': 'verify_peer',
  'listener.T.N.fail_if_no_peer_cert': 'on',
  'listener.T.N.tls_versions': 'tlsv1.3',
  'listener.T.N.ciphers': 'DEFAULT',
  'listener.T.N.honor_cipher_order': 'off',
  'listener.T.N.reuse_sessions': 'off',
  'listener.T.N.handshake_timeout': '9s',
  'listener.T.N.path': '/other',
  'listener.T.N.proxy_address_header': 'x-for',
  'listener.T.N.proxy_port_header': 'x-port',
  'listener.T.N.trusted_proxies': '10.0.0.1',
  'listener.api.N.max_clients': '9',
  'listener.api.N.access.<n>': 'allow all',
  'listener.api.N.certfile': 'etc/certs/client-cert.pem',
  'listener.api.N.keyfile': 'etc/certs/client-key.pem',
  'listener.api.N.public': 'metrics',
  'listener.api.N.allow_origins': 'https://ops.example.com'
}

test('a reload changes every key that it may, and tells of every one that needs a restart', async t => {
  const transports = ['tcp', 'ssl', 'ws', 'wss', 'api']
  const bind = (): string => transports.map(t => `listener.${t}.a = 127.0.0.1:0\n`).join('')
  const home = makeHome(t, { conf: `${bind()}store.type = memory` })
  const sinks = (of: Parameters<typeof fileSinks>[0]) => fileSinks(of, home.path)
  const settings = readSettings(home, {})
  const server = await Server.start({ home, settings, log: createLog(...sinks(settings.options.log)), sinks })
  t.after(() => server.stop('fast'))
  writeFileSync(home.path('etc/other-acl.conf'), '{allow, all}.\n')
  const lines: string[] = []
  const expected = new Set<string>()
  for (const key of keysOf(brokerSchema)) {
    if (/^listener\.\w+\.\*$/.test(key)) continue // its address: another test moves it
    const name = key.replace(/^(listener\.\w+)\.\*/, '$1.a').replace('.*', '.1')
    const value = others[inTable(name)]
    assert.notEqual(value, undefined, `no other value of ${key}`)
    if (value === '') continue // there is no file for it here
    lines.push(`${name} = ${value}`)
    expected.add(name)
  }
  const ports = server.listeners.map(l => l.port)
  writeFileSync(home.conf, `${bind()}${lines.join('\n')}\n`)
  const report = await server.ops.config.reload()
  assert.deepEqual(new Set(report.changes.map(({ key }) => key)), expected)
  for (const { key, effect } of report.changes) {
    assert.equal(effect === 'restart', typeof effectOf(key) === 'object', key)
    const [row] = server.ops.config.show(key)
    const other = others[inTable(key)]
    assert.equal(row!.file, other, key)
    if (effect === 'restart') assert.notEqual(row!.value, other, key)
    else assert.equal(row!.value, other, key)
  }
  assert.equal(server.options.node.name, 'broker@127.0.0.1')
  assert.equal(server.options.mqtt.aclNomatch, 'deny')
  assert.notDeepEqual(
    server.listeners.map(l => l.port),
    ports
  ) // backlog and others opened them anew
  assert(existsSync(home.path('log/other.log')))
})

test('a reload prints what has changed and what needs a restart; clients stay', async t => {
  const running = await startServer(t, { conf: 'mqtt.max_packet_size = 1MB' })
  const { server, admin, port } = running
  const c = await client(t, running)
  assert.deepEqual(await admin.call('reload', {}), { changes: [], certificates: [], plugins: [] })
  conf(running, 'mqtt.max_packet_size = 1KB\nnode.name = b@c\nmqtt.retain.max_payload_size = 1024KB')
  const { changes } = await admin.call('reload', {})
  assert.deepEqual(told(changes), ['node.name: broker@127.0.0.1 → b@c', 'mqtt.max_packet_size: 1MB → 1KB']) // 1024KB is 1MB
  assert.match(changes[0]!.why!, /clients/)
  assert.deepEqual(
    changes.map(({ effect }) => effect),
    ['restart', 'connect']
  )
  assert.deepEqual(
    (await admin.call('reload', {})).changes.map(({ key }) => key),
    ['node.name'],
    'still to come'
  )
  assert.equal(server.listeners[0]!.port, port)
  await c.publishAsync('a', Buffer.alloc(2000), { qos: 1 }) // it was told 1MB
  const d = await client(t, running, { clientId: 'd' })
  d.on('error', () => {})
  d.publish('a', Buffer.alloc(2000))
  await next(d, 'close')
})

test('a reload with a problem anywhere prints all of them, and changes nothing', async t => {
  const taken = createServer()
  await new Promise<void>(resolve => taken.listen(0, '127.0.0.1', resolve))
  t.after(() => taken.close())
  const { port } = taken.address() as { port: number }
  const running = await startServer(t, { conf: 'mqtt.acl_nomatch = allow' })
  const { server, home, admin } = running
  const c = await client(t, running)
  const { options, listeners } = server

  conf(running, 'mqtt.acl_nomatch = deny\nmqtt.max_packet_size = x\nmqtt.nosuch = 1')
  writeFileSync(home.path('etc/acl.conf'), '{allow, al}.\n')
  await assert.rejects(admin.call('reload', {}), (err: BrokerError) => {
    assert.equal(err.code, 'CONFIG_INVALID')
    assert.match(err.message, /broker\.conf:\d+:\d+: mqtt\.max_packet_size: expected a size/)
    assert.match(err.message, /mqtt\.nosuch: unknown key/)
    assert.match(err.message, /acl\.conf:1:\d+: /)
    assert.match(err.message, /\nnothing was changed$/)
    return true
  })
  writeFileSync(home.path('etc/acl.conf'), '{deny, all}.\n')
  const free = await freePort()
  for (const [bad, why] of [
    [
      `listener.tcp.b = 127.0.0.1:${port}`,
      /listener\.tcp\.b: cannot listen on 127\.0\.0\.1:\d+: the port is taken by node/
    ],
    [
      'listener.ssl.b = 127.0.0.1:0\nlistener.ssl.b.certfile = nosuch.pem',
      /listener\.ssl\.b\.certfile: cannot read .*nosuch\.pem: no such file/
    ]
  ] as const) {
    conf(
      running,
      `listener.tcp.test = 127.0.0.1:0\nlistener.tcp.free = 127.0.0.1:${free}\nmqtt.acl_nomatch = deny\n${bad}`
    )
    await assert.rejects(admin.call('reload', {}), why)
    assert.equal(await answers(t, free), false, 'the one that could be opened is closed again')
  }
  assert.equal(server.options, options)
  assert.equal(server.listeners, listeners)
  await c.subscribeAsync('a')
  const got = next(c, 'message')
  await c.publishAsync('a', 'b')
  await got
})

test('listeners come, go and move; the clients of the others, and of one that moves, stay', async t => {
  const [one, two] = [await freePort(), await freePort()]
  const at = (lines: Record<string, number>): string =>
    Object.entries(lines)
      .map(([name, port]) => `listener.tcp.${name} = 127.0.0.1:${port}`)
      .join('\n')
  const running = await startServer(t, { conf: at({ stays: 0, moves: one, goes: 0 }) })
  const { server, admin, portOf } = running
  const enter = async (name: string) => {
    const c = await client(t, { port: portOf(`tcp:${name}`) }, { clientId: name, protocolVersion: 5 })
    let ended = ''
    c.on('disconnect', ({ reasonCode }) => {
      ended = `0x${reasonCode!.toString(16)}`
    })
    c.on('close', () => {
      ended ||= 'closed'
    })
    return { c, ended: () => ended }
  }
  const [stays, moves, goes] = [await enter('stays'), await enter('moves'), await enter('goes')]
  const old = portOf('tcp:goes')
  const reasons: string[] = []
  server.hooks.scope('test').on('client.disconnected', (_client, reason) => void reasons.push(reason))

  conf(running, at({ stays: 0, moves: two, comes: one })) // the port of the one that moves
  assert.deepEqual(
    told((await admin.call('reload', {})).changes),
    [
      `listener.tcp.comes: null → 127.0.0.1:${one}`,
      `listener.tcp.moves: 127.0.0.1:${one} → 127.0.0.1:${two}`,
      'listener.tcp.goes: 127.0.0.1:0 → null',
      ...['max_clients: 102400 → null', 'mountpoint'].slice(2)
    ].concat([])
  )
  await until('the client of the one that is gone is told', () => goes.ended() !== '')
  assert.equal(goes.ended(), '0x98')
  assert.deepEqual(reasons, ['listener_closed'])
  assert.equal(await answers(t, old), false)
  assert.deepEqual([portOf('tcp:comes'), portOf('tcp:moves')], [one, two])
  const [c] = [
    await client(t, { port: two }, { clientId: 'new' }),
    await client(t, { port: one }, { clientId: 'newer' })
  ]
  const got = Promise.all([next(stays.c, 'message'), next(moves.c, 'message')])
  await Promise.all([stays.c.subscribeAsync('a'), moves.c.subscribeAsync('a')])
  await c.publishAsync('a', 'b')
  await got
  assert.deepEqual([stays.ended(), moves.ended()], ['', ''])
  assert.equal(server.listeners.find(l => l.name === 'tcp:moves')!.info().currentClients, 2)

  conf(running, at({ stays: 0, moves: one, comes: two })) // each takes the other's
  await admin.call('reload', {})
  assert.deepEqual([portOf('tcp:comes'), portOf('tcp:moves')], [two, one])
  assert(await answers(t, one))
  assert(await answers(t, two))
})

test('the clients of a listener that is gone are told so on every transport', async t => {
  const secure = ['ssl', 'ws', 'wss'].map(transport => `listener.${transport}.a = 127.0.0.1:0\n`).join('')
  const running = await startServer(t, { conf: `listener.tcp.a = 127.0.0.1:0\n${secure}` })
  const told = await Promise.all(
    running.server.listeners.map(async ({ name, port }) => {
      const scheme = { tcp: 'mqtt', ssl: 'mqtts' }[name.slice(0, -2)] ?? name.slice(0, -2)
      const options = { protocolVersion: 5, rejectUnauthorized: false, reconnectPeriod: 0 } as const
      const c = await mqtt.connectAsync(`${scheme}://127.0.0.1:${port}/mqtt`, options)
      t.after(() => c.endAsync(true))
      let code = 0
      c.on('disconnect', ({ reasonCode }) => {
        code = reasonCode!
      })
      const closed = next(c, 'close')
      return async () => {
        await closed
        return code
      }
    })
  )
  conf(running, 'listener.tcp.b = 127.0.0.1:0')
  await running.admin.call('reload', {})
  assert.deepEqual(await Promise.all(told.map(code => code())), [0x98, 0x98, 0x98, 0x98])
  assert.deepEqual(
    running.server.listeners.map(l => l.name),
    ['tcp:b']
  )
})

test('a port that cannot be had leaves the one that it was to replace open', async t => {
  const port = await freePort()
  const running = await startServer(t, { conf: `listener.tcp.a = 127.0.0.1:${port}` })
  const taken = createServer()
  await new Promise<void>(resolve => taken.listen(0, '127.0.0.1', resolve))
  t.after(() => taken.close())
  const other = (taken.address() as { port: number }).port
  // b wants a's port, and a one that is taken: a is closed for a moment, and open again.
  conf(running, `listener.tcp.a = 127.0.0.1:${other}\nlistener.tcp.b = 127.0.0.1:${port}`)
  await assert.rejects(running.admin.call('reload', {}), /cannot listen/)
  assert(await answers(t, port))
  assert.equal(running.portOf('tcp:a'), port)
})

test('what a listener allows changes for who comes from then on, and its port stays open', async t => {
  const running = await startServer(t)
  const { admin, port, server } = running
  const inside = await client(t, running, { clientId: 'inside' })
  const at = 'listener.tcp.test'
  const is = async (lines: string) => {
    conf(running, `${at} = 127.0.0.1:0\n${lines}`)
    await admin.call('reload', {})
    assert.equal(server.listeners[0]!.port, port)
  }
  await is(`${at}.access.1 = deny all`)
  assert.equal(await answers(t, port), false)
  await is(`${at}.max_clients = 1`)
  assert.equal(await answers(t, port), false)
  await is(`${at}.mountpoint = m/`)
  const mounted = await client(t, running, { clientId: 'mounted' })
  await inside.subscribeAsync('m/a')
  const got = next(inside, 'message')
  await mounted.publishAsync('a', 'b')
  assert.equal((await got)[0], 'm/a')
})

test('certificates on disk and TLS options are those of the next handshake', async t => {
  const home = makeHome(t, { conf: 'listener.ssl.test = 127.0.0.1:0' })
  const server = await Server.start({ home, settings: readSettings(home, {}), log: createLog() })
  t.after(() => server.stop('fast'))
  const { port } = server.listeners[0]!
  const ca = readFileSync(join(home.certs, 'cacert.pem'))
  const enter = async (options: Parameters<typeof mqtt.connectAsync>[1] = {}) => {
    const c = await mqtt.connectAsync(`mqtts://localhost:${port}`, { ca, reconnectPeriod: 0, ...options })
    t.after(() => c.endAsync(true))
    return c
  }
  const first = await enter()
  const serial = async () => {
    const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
    socket.on('error', () => {})
    await next(socket, 'secureConnect')
    const { serialNumber } = socket.getPeerCertificate()
    socket.destroy()
    return serialNumber
  }
  const before = await serial()
  const fresh = join(home.root, 'fresh')
  mkdirSync(fresh)
  await ensureCertificates(fresh, { hostname: 'here' })
  for (const file of ['cert.pem', 'key.pem']) copyFileSync(join(fresh, file), join(home.certs, file))
  const report = await server.ops.config.reload()
  assert.deepEqual(report, { changes: [], certificates: ['ssl:test'], plugins: [] })
  assert.notEqual(await serial(), before)
  assert(first.connected)

  // A key that is not the certificate's: those in force stay.
  copyFileSync(join(home.certs, 'client-key.pem'), join(home.certs, 'key.pem'))
  await assert.rejects(server.ops.config.reload(), /the key does not belong to the certificate/)
  copyFileSync(join(fresh, 'key.pem'), join(home.certs, 'key.pem'))
  assert.notEqual(await serial(), before)

  // A ticket of before is worth nothing once clients must show a certificate.
  const session = await new Promise<Buffer>(resolve => {
    const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
    socket.once('session', ticket => {
      socket.destroy()
      resolve(ticket)
    })
    socket.on('error', () => {})
    socket.on('secureConnect', () => socket.write(connectPacket()))
  })
  writeFileSync(
    home.conf,
    ['', '.verify = verify_peer', '.fail_if_no_peer_cert = on', '.cacertfile = etc/certs/cacert.pem']
      .map(line => (line === '' ? 'listener.ssl.test = 127.0.0.1:0' : `listener.ssl.test${line}`))
      .join('\n')
  )
  await server.ops.config.reload()
  assert.equal(server.listeners[0]!.port, port)
  const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, session })
  socket.on('error', () => {})
  socket.on('secureConnect', () => socket.write(connectPacket()))
  let heard = 0
  socket.on('data', chunk => {
    heard += chunk.length
  })
  await next(socket, 'close')
  assert.equal(heard, 0)
  await enter({
    ca: readFileSync(join(fresh, 'cacert.pem')),
    cert: readFileSync(join(home.certs, 'client-cert.pem')),
    key: readFileSync(join(home.certs, 'client-key.pem'))
  })
  assert(first.connected)
})

test('rules, and what no rule speaks of, count at once for who is connected, cached verdicts included', async t => {
  const running = await startServer(t, { acl: '{allow, all}.' })
  const { home, admin } = running
  const c = await client(t, running)
  await c.subscribeAsync('#')
  const topics: string[] = []
  c.on('message', topic => void topics.push(topic))
  await c.publishAsync('a', '1', { qos: 1 })
  writeFileSync(home.path('etc/acl.conf'), '{deny, all, publish, ["a"]}.\n{allow, all}.\n')
  assert.deepEqual(await admin.call('reload', {}), { changes: [], certificates: [], plugins: [], rules: 2 })
  await c.publishAsync('a', '2', { qos: 1 })
  await c.publishAsync('b', '3', { qos: 1 })
  assert.deepEqual(topics, ['a', 'b'])
  writeFileSync(home.path('etc/acl.conf'), '')
  conf(running, 'mqtt.acl_nomatch = deny\nmqtt.acl_deny_action = disconnect')
  await admin.call('reload', {})
  const closed = next(c, 'close')
  c.on('error', () => {})
  c.publish('b', '4')
  await closed
})

test('the limits of a queue count for sessions that are there', async t => {
  const running = await startServer(t)
  const { server, admin } = running
  const away = await client(t, running, { clientId: 'away', clean: false })
  await away.subscribeAsync(['a', 'b'], { qos: 1 })
  await away.endAsync()
  const send = async (topic: string, payload: string) =>
    await server.clients.publish({ topic, payload: Buffer.from(payload), qos: 1, retain: false })
  for (const i of [1, 2, 3, 4]) await send('a', String(i))
  conf(running, 'mqtt.mqueue.max_length = 3\nmqtt.mqueue.type = priority\nmqtt.mqueue.priority = b=5')
  await admin.call('reload', {})
  await send('b', '5')
  const back = mqtt.connect(`mqtt://127.0.0.1:${running.port}`, { clientId: 'away', clean: false, reconnectPeriod: 0 })
  t.after(() => back.endAsync(true))
  const got: string[] = []
  back.on('message', (_topic, payload) => void got.push(String(payload)))
  await until('what is left', () => got.length >= 3)
  assert.deepEqual(got, ['5', '3', '4'])
})

test('the log changes its level, format and files', async t => {
  const home = makeHome(t)
  const sinks = (of: Parameters<typeof fileSinks>[0]) => fileSinks(of, home.path)
  const settings = readSettings(home, {})
  const log = createLog(...sinks(settings.options.log))
  const server = await Server.start({ home, settings, log, sinks })
  t.after(async () => {
    await server.stop('fast')
    await log.close()
  })
  log.debug('not said')
  await server.ops.config.set('log.console.level', 'debug')
  log.debug('said')
  conf({ home }, 'log.console.file = log/new.log\nlog.console.format = json')
  await server.ops.config.reload()
  log.info('elsewhere')
  const read = (file: string) => (existsSync(home.path(file)) ? readFileSync(home.path(file), 'utf8') : '')
  await until('both files', () => read('log/broker.log').includes(' said') && read('log/new.log').includes('elsewhere'))
  assert(!read('log/broker.log').includes('not said'))
  assert(!read('log/broker.log').includes('elsewhere'))
  assert.equal(JSON.parse(read('log/new.log').trim().split('\n').at(-1)!).msg, 'elsewhere')
  conf({ home }, 'log.console.file = etc/broker.conf/no.log')
  await assert.rejects(server.ops.config.reload(), /nothing was changed/)
  log.info('still there')
  await until('the same file', () => read('log/new.log').includes('still there'))
})

/**
 * A plugin of the home: lets in who says the secret; its backend is away when that is `lost`, answers when the test
 * says so when it is `slow`, and `broken` does not start.
 */
const gate = `
const text = { parse: raw => raw, fallback: { value: '', text: '' } }
export default {
  name: 'gate', description: 'x', prefix: 'gate', options: { password: text, note: text },
  start({ options, hooks }) {
    if (options.password === 'broken') throw new Error('it does not start')
    hooks.on('client.authenticate', (_client, password) => String(password) === options.password ? 'allow' : 'deny')
    return { probe: async () => { if (options.password.includes('slow')) await globalThis.tried; if (options.password.includes('lost')) throw new Error('the backend is away') } }
  }
}
`

test('a plugin whose file has changed is loaded anew; one that cannot work with it goes on as it was', async t => {
  const running = await startServer(t, { plugins: { gate: 'gate.password = one' } })
  const { home, admin, server } = running
  mkdirSync(home.path('plugins'))
  writeFileSync(home.path('plugins/gate.mjs'), gate)
  await admin.call('plugins load', { plugin: 'gate' })
  const enters = async (password?: string) => {
    try {
      const c = await client(t, running, password === undefined ? {} : { username: 'u', password })
      await c.endAsync(true)
      return true
    } catch {
      return false
    }
  }
  const is = (text: string) => writeFileSync(home.path('etc/plugins/gate.conf'), text)
  is('gate.password = two\ngate.note = hello')
  assert.deepEqual(await admin.call('reload', {}), {
    changes: [
      { key: 'gate.password', from: '******', to: '******', effect: 'now' },
      { key: 'gate.note', from: null, to: 'hello', effect: 'now' }
    ],
    certificates: [],
    plugins: ['gate']
  })
  assert.deepEqual([await enters('one'), await enters('two'), await enters()], [false, true, false])
  assert.equal((await admin.call('show', { key: 'gate.password' }))[0]!.value, '******')

  for (const [text, why] of [
    ['gate.password = lost', /gate: the backend is away\nnothing was changed/],
    ['gate.password = broken', /gate: it does not start\nnothing was changed/],
    ['gate.nosuch = 1', /gate\.conf:1:1: gate\.nosuch: unknown key.*\nnothing was changed/s]
  ] as const) {
    is(text)
    conf(running, 'mqtt.acl_nomatch = deny')
    await assert.rejects(admin.call('reload', {}), why)
    assert.deepEqual([await enters('two'), await enters()], [true, false], text)
    assert.equal(server.options.mqtt.aclNomatch, 'allow')
  }
  await assert.rejects(admin.call('plugins reload', { plugin: 'gate' }))
  is('gate.password = broken')
  await assert.rejects(admin.call('plugins reload', { plugin: 'gate' }), /it does not start/)
  assert.deepEqual([await enters('two'), await enters()], [true, false])
})

test('who comes to a new port while a plugin is being tried waits, and is let in only when all is well', async t => {
  const running = await startServer(t, { plugins: { gate: 'gate.password = one' } })
  const { home, admin } = running
  mkdirSync(home.path('plugins'))
  writeFileSync(home.path('plugins/gate.mjs'), gate)
  await admin.call('plugins load', { plugin: 'gate' })
  for (const [password, isIn] of [
    ['slow', true],
    ['slow and lost', false]
  ] as const) {
    const port = await freePort()
    let answer = (): void => {}
    Object.assign(globalThis, {
      tried: new Promise<void>(resolve => {
        answer = resolve
      })
    })
    writeFileSync(home.path('etc/plugins/gate.conf'), `gate.password = ${password}`)
    conf(running, `listener.tcp.new = 127.0.0.1:${port}`)
    const reloaded = admin.call('reload', {}).then(
      () => true,
      () => false
    )
    await until('the port is open', () => opens(port))
    const raw = RawClient.over(t, connect(port, '127.0.0.1'))
    raw.send(connectPacket())
    await once(raw.socket, 'connect')
    assert.equal(raw.socket.bytesRead, 0)
    answer()
    assert.equal((await raw.readPacket()).toString('hex'), isIn ? '20020004' : '') // no password: refused by the plugin
    assert.equal(await reloaded, isIn)
  }
})

test('reloads and sets take turns; a listener that was stopped stays so, and starts with what is in force', async t => {
  const port = await freePort()
  const running = await startServer(t, { conf: `listener.tcp.a = 127.0.0.1:${port}\nlistener.tcp.b = 127.0.0.1:0` })
  const { admin, server } = running
  await admin.call('listeners stop', { proto: 'mqtt:tcp', port: `127.0.0.1:${port}` })
  const other = await freePort()
  conf(running, `listener.tcp.a = 127.0.0.1:${other}\nlistener.tcp.b = 127.0.0.1:0`)
  const done = await Promise.all([
    admin.call('reload', {}),
    admin.call('set', { key: 'mqtt.max_topic_levels=7' }),
    admin.call('reload', {}),
    admin.call('set', { key: 'mqtt.max_topic_levels=8' }),
    admin.call('set', { key: 'listener.tcp.c', value: '127.0.0.1:0' })
  ])
  assert.deepEqual(told((done[2] as Report).changes), ['mqtt.max_topic_levels: 7 → 128'])
  assert.equal(server.options.mqtt.maxTopicLevels, 8)
  assert(await answers(t, running.portOf('tcp:c')))
  assert.deepEqual([await answers(t, port), await answers(t, other)], [false, false])
  await admin.call('listeners start', { proto: 'mqtt:tcp', port: `127.0.0.1:${other}` })
  assert(await answers(t, other))
})

test('set takes the words of the file, until a reload; show tells the value, the file and the default', async t => {
  const running = await startServer(t, { conf: 'mqtt.max_packet_size = 2MB' })
  const { admin, server } = running
  const key = 'mqtt.max_packet_size'
  assert.deepEqual(await admin.call('set', { key, value: '64KB' }), {
    key,
    from: '2MB',
    to: '64KB',
    effect: 'connect'
  })
  assert.equal(server.options.mqtt.maxPacketSize, 65_536)
  assert.deepEqual(await admin.call('show', { key }), [
    { key, value: '64KB', file: '2MB', default: '1MB', effect: 'connect' }
  ])
  await admin.call('set', { key: 'listener.tcp.test.max_clients=7' })
  assert.equal(server.listeners[0]!.info().maxClients, 7)
  assert.equal(server.options.mqtt.maxPacketSize, 65_536)
  for (const [name, value, why] of [
    [key, '1', /^mqtt\.max_packet_size: expected a size from 64/],
    ['mqtt.max_packet_sise', '1', /^mqtt\.max_packet_sise: unknown key; did you mean mqtt\.max_packet_size\?/],
    ['node.name', 'a@b', /^node\.name needs a restart: /],
    [key, '1KB\nmqtt.acl_nomatch = deny', /a value is one line/],
    ['mqtt.mqueue.high_watermark', '1%', /low_watermark: is above/]
  ] as const) {
    await assert.rejects(admin.call('set', { key: name, value }), (err: BrokerError) => {
      assert.equal(err.code, 'BAD_REQUEST')
      assert.match(err.message, why)
      return true
    })
  }
  assert.equal((await admin.call('show', { key: 'mqtt.session.' })).length, 8)
  assert((await admin.call('show', {})).length > 50)
  await assert.rejects(admin.call('show', { key: 'mqtt.sesion' }), { code: 'NOT_FOUND' })
  assert.deepEqual(
    told((await admin.call('reload', {})).changes),
    ['listener.tcp.test.max_clients: 7 → 102400', 'mqtt.max_packet_size: 64KB → 2MB'].sort((a, b) => (a < b ? 1 : -1))
  )
  assert.equal(server.options.mqtt.maxPacketSize, 2 * 1024 * 1024)
})

test('broker reload, broker-ctl reload and SIGHUP do the same, in the words of broker check', async t => {
  const i = instance(t)
  assert.deepEqual(await i.broker('reload').then(({ code, err }) => [code, err]), [
    1,
    "Node 'broker@127.0.0.1' not responding to pings.\n"
  ])
  const running = i.begin('foreground')
  await until('it runs', () => running.out().includes('broker is running'))
  const is = (text: string) => writeFileSync(i.home.conf, `listener.tcp.test = 127.0.0.1:0\n${text}\n`)
  assert.equal((await i.broker('reload')).out, 'nothing has changed\n')
  is('mqtt.acl_nomatch = deny\nmqtt.max_packet_size = 2MB\nnode.name = b@c')
  assert.equal(
    (await i.broker('reload')).out,
    [
      'mqtt.acl_nomatch: allow → deny',
      'mqtt.max_packet_size: 1MB → 2MB, for new connections',
      'node.name: broker@127.0.0.1 → b@c, needs a restart: clients and $SYS topics know the node by it',
      'ok\n'
    ].join('\n')
  )
  const set = await i.ctl('set', 'mqtt.max_packet_size', '3MB')
  assert.equal(set.out, '"mqtt.max_packet_size" set to "3MB" successfully\n')
  assert.equal(
    (await i.ctl('show', 'mqtt.max_packet_size')).out,
    'mqtt.max_packet_size = 3MB (file: 2MB, default: 1MB)\n'
  )
  is('mqtt.max_packet_size = 4MB\nmqtt.acl_nomatch = nobody')
  for (const { code, err } of [await i.broker('reload'), await i.ctl('reload')]) {
    assert.equal(code, 1)
    assert.match(
      err,
      /broker\.conf:3:20: mqtt\.acl_nomatch: expected allow \| deny, got "nobody"\n {2}mqtt.*\n *\^\nnothing was changed\n$/
    )
  }
  running.child.kill('SIGHUP')
  await until('the log says so', () => running.out().includes('configuration is not read again'))
  is('mqtt.max_packet_size = 4MB')
  running.child.kill('SIGHUP')
  await until('the log says so', () => running.out().includes('configuration is read again'))
  assert.match((await i.ctl('show', 'mqtt.max_packet_size')).out, /= 4MB/)
  running.child.kill('SIGTERM')
  assert.equal((await running.ended).code, 0)
})
