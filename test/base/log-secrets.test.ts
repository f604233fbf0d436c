// A whole run at the level debug, as text and as JSON: no password and no payload is in any line.
import assert from 'node:assert/strict'
import { request } from 'node:http'
import net from 'node:net'
import { after, test } from 'node:test'
import { AdminClient } from '../../src/admin/client.js'
import { createLog } from '../../src/base/log/log.js'
import { Server } from '../../src/server/server.js'
import { readSettings } from '../../src/server/settings.js'
import { startPostgres } from '../support/postgres.js'
import { ScramClient } from '../support/scram.js'
import {
  client,
  makeHome,
  type Property,
  packet,
  propertyBytes,
  RawClient,
  Speaker,
  text,
  until
} from '../support/server.js'

const secret = (what: string): string => `hush-${what}-7f3a`

const undo: (() => Promise<void> | void)[] = []
after(async () => {
  for (const each of undo.reverse()) await each()
})
const postgres = await startPostgres({ after: f => void undo.push(f) })

/** What a client would send as its password, base64 and hex included. */
function formsOf(word: string): string[] {
  const bytes = Buffer.from(word)
  return [word, bytes.toString('base64').replace(/=+$/, '').slice(0, -2), bytes.toString('hex'), [...bytes].join(',')]
}

test('no password and no payload comes into the log, whatever a client or an operator does', async t => {
  await postgres.query(
    `create table mqtt_user (username text, password text); insert into mqtt_user values ('ann', '${secret('row')}')`
  )
  const conf = [
    'listener.tcp.test = 127.0.0.1:0',
    'listener.ws.test = 127.0.0.1:0',
    'listener.ssl.test = 127.0.0.1:0',
    'mqtt.max_packet_size = 4KB'
  ]
  const plugin = (password: string, more = ''): string =>
    [
      `auth.pgsql.server = ${postgres.host}:${postgres.port}`,
      `auth.pgsql.username = ${postgres.username}`,
      `auth.pgsql.password = ${password}`,
      `auth.pgsql.database = ${postgres.database}`,
      "auth.pgsql.auth_query = select password from mqtt_user where username = '%u'",
      'auth.pgsql.password_hash = plain',
      more
    ].join('\n')
  const home = makeHome(t, {
    conf: conf.join('\n'),
    plugins: { 'auth-pgsql': plugin(postgres.password), 'auth-scram': 'auth.scram.iterations = 4096' }
  })
  const lines: string[] = []
  const write = (line: string): void => void lines.push(line)
  const log = createLog({ level: 'debug', format: 'text', write }, { level: 'debug', format: 'json', write })
  const server = await Server.start({ home, settings: readSettings(home, {}), log })
  t.after(() => server.stop('fast'))
  const port = (name: string): number => server.listeners.find(l => l.name === name)!.port
  const at = { port: port('tcp:test') }

  // Before anybody judges: payloads and wills, of clients that come and go, and a hook that fails over a message.
  const scope = server.hooks.scope('embedding')
  scope.on('message.publish', message => {
    if (message.topic === 'fails') throw new Error('refused')
    return message.topic === 'moved' ? { ...message, topic: 'bad/#' } : message
  })
  const speaker = await Speaker.connect(t, at, {
    version: 5,
    id: 'teller',
    will: { topic: 'will', payload: secret('will') }
  })
  await speaker.subscribe([['#', 2]])
  for (const [topic, qos] of [
    ['a', 0],
    ['b', 1],
    ['c', 2],
    ['fails', 1],
    ['moved', 1]
  ] as const)
    await speaker.publish(topic, secret('payload'), {
      qos,
      retain: true,
      properties: [[0x26, ['k', secret('property')]]]
    })
  await speaker.drop()
  await until('the will is out', () => lines.some(line => line.includes('client disconnected')))

  // Packets that are wrong, each with a secret in it.
  for (const bytes of [
    packet(0x36, text('t'), 0, 1, Buffer.from(secret('packet'))), // QoS 3
    packet(0x30, text(`bad/#/${secret('packet')}`)),
    packet(0x30, text('big'), Buffer.from(secret('packet').repeat(500))),
    packet(0x31, 0, 1, 0xff, Buffer.from(secret('packet'))),
    packet(0xf0, Buffer.from(secret('packet')))
  ]) {
    const bad = await Speaker.connect(t, at, { id: 'bad' })
    bad.send(bytes)
    await bad.raw.closed
  }
  const stranger = await RawClient.connect(t, at)
  stranger.send(packet(0x10, text('MQTT'), 9, 0xc2, 0, 0, text('c'), text('u'), text(secret('connect'))))
  await stranger.closed
  const scram = await RawClient.connect(t, at)
  const method = Buffer.concat([Buffer.from([0x15]), text('SCRAM-SHA-256'), Buffer.from([0x16]), text(secret('scram'))])
  scram.send(packet(0x10, text('MQTT'), 5, 2, 0, 0, method.length, method, text('scram')))
  await scram.closed
  const garbage = await RawClient.connect(t, at)
  garbage.send(Buffer.from(`GET /${secret('http')} HTTP/1.1\r\nauthorization: ${secret('http')}\r\n\r\n`))
  await garbage.closed
  await badHttp(port('ws:test'))
  await badTls(port('ssl:test'))

  // SCRAM, where only proofs travel; with the right password and a wrong one.
  await server.plugins.load('auth_scram')
  await new AdminClient(home.adminSocket).call('scram add', { username: 'lamp', password: secret('scram') })
  for (const password of [secret('scram'), secret('wrong')]) {
    const scram = new ScramClient('lamp', password)
    const data = (text: string): Property[] => [
      [0x15, 'SCRAM-SHA-256'],
      [0x16, text]
    ]
    const lamp = await Speaker.connect(t, at, { version: 5, id: 'lamp', properties: data(scram.first) })
    const challenge = String(lamp.connack.properties.find(([id]) => id === 0x16)?.[1])
    lamp.send(packet(0xf0, 0x18, propertyBytes(data(scram.final(challenge)))))
    assert.equal((await lamp.next()).code, password === secret('scram') ? 0 : 0x87)
    await lamp.drop()
  }
  await server.plugins.unload('auth_scram')

  // Users, right and wrong, and a database that has other words than ours or goes away.
  await server.plugins.load('auth_pgsql')
  const right = { reconnectPeriod: 0, clientId: 'ann', username: 'ann', password: secret('row') }
  const connected = await client(t, at, right)
  await connected.endAsync()
  for (const [username, password] of [
    ['ann', secret('wrong')],
    ['nobody', secret('wrong')],
    ['', secret('wrong')]
  ] as const)
    await assert.rejects(client(t, at, { ...right, username, password }))
  await postgres.query('alter table mqtt_user rename to other')
  await assert.rejects(client(t, at, { ...right, password: secret('wrong') }))
  await postgres.stop()
  await assert.rejects(client(t, at, { ...right, password: secret('wrong') }))
  const { writeFileSync } = await import('node:fs')
  const file = home.path('etc/plugins/auth-pgsql.conf')
  writeFileSync(file, plugin(secret('pgsql')))
  await assert.rejects(server.plugins.reload('auth_pgsql'))
  writeFileSync(file, plugin(secret('pgsql'), 'auth.pgsql.pool = none'))
  await assert.rejects(server.plugins.reload('auth_pgsql'))
  await postgres.restart()
  await server.stop('fast')

  const all = lines.join('')
  // It has been a run that had something to say.
  for (const event of [
    'client connected',
    'bad packet',
    'CONNECT refused',
    'login refused',
    'wrong password',
    'no such user',
    'bad HTTP request',
    'TLS handshake failed',
    'failed in message.publish',
    'gave a bad topic',
    'nothing listens at'
  ])
    assert.ok(all.includes(event), event)
  for (const what of ['row', 'will', 'payload', 'property', 'packet', 'connect', 'scram', 'http', 'wrong', 'pgsql'])
    for (const form of formsOf(secret(what)))
      assert.ok(!all.includes(form), `${what}: ${lines.find(line => line.includes(form))}`)
})

/** Node's own error of it has the bytes that came. */
async function badHttp(port: number): Promise<void> {
  await new Promise<void>(resolve => {
    const socket = net.connect(port, '127.0.0.1', () => socket.write(`NONSENSE ${secret('http')}\r\n\r\n`))
    socket.on('error', () => {}).on('close', () => resolve())
    socket.resume()
  })
  await new Promise<void>(resolve => {
    const headers = { authorization: secret('http'), connection: 'close' }
    request({ port, path: `/${secret('http')}`, headers }, response => {
      response.resume().on('end', resolve)
    })
      .on('error', () => resolve())
      .end()
  })
}

async function badTls(port: number): Promise<void> {
  await new Promise<void>(resolve => {
    const socket = net.connect(port, '127.0.0.1', () => socket.write(secret('http').repeat(20)))
    socket.on('error', () => {}).on('close', () => resolve())
    socket.resume()
  })
}
