import assert from 'node:assert/strict'
import { createPrivateKey, KeyObject, webcrypto, X509Certificate } from 'node:crypto'
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import http from 'node:http'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import tls from 'node:tls'
import mqtt, { type IClientOptions } from 'mqtt'
import { type ClientOptions, WebSocket } from 'ws'
import { BrokerError } from '../../src/base/errors.js'
import { createLog } from '../../src/base/log/log.js'
import { brokerSchema, listenersOf } from '../../src/config/broker-keys.js'
import { optionsFrom } from '../../src/config/schema.js'
import { ensureCertificates } from '../../src/net/certificates.js'
import { Listener } from '../../src/net/listener.js'
import {
  client,
  connectPacket,
  next,
  packet,
  pingreq,
  RawClient,
  type Running,
  startServer,
  text,
  until
} from '../support/server.js'

/** Certificates of two authorities that know nothing of each other. */
let ours: string
let theirs: string
before(async () => {
  ours = await mkdtemp(join(tmpdir(), 'listener-'))
  theirs = await mkdtemp(join(tmpdir(), 'listener-'))
  for (const dir of [ours, theirs]) await ensureCertificates(dir, { hostname: 'here' })
})
after(() => Promise.all([ours, theirs].map(dir => rm(dir, { recursive: true }))))

const read = (dir: string, file: string): Buffer => readFileSync(join(dir, file))
const trusting = (): { ca: Buffer } => ({ ca: read(ours, 'cacert.pem') })
/** Options of a client that shows a certificate. */
const showing = (dir: string) => ({
  ...trusting(),
  cert: read(dir, 'client-cert.pem'),
  key: read(dir, 'client-key.pem')
})

type Transport = 'tcp' | 'ssl' | 'ws' | 'wss'
const transports: readonly Transport[] = ['tcp', 'ssl', 'ws', 'wss']
const schemes = { tcp: 'mqtt', ssl: 'mqtts', ws: 'ws', wss: 'wss' } as const
const isSecure = (transport: Transport): boolean => transport === 'ssl' || transport === 'wss'
const isWeb = (transport: Transport): boolean => transport === 'ws' || transport === 'wss'

/** etc/broker.conf with `listener.<transport>.test` on a free port and what else is said of it. */
function listen(transport: Transport, more: Readonly<Record<string, string>> = {}, host = '127.0.0.1'): string {
  const at = `listener.${transport}.test`
  const certificates = isSecure(transport) ? { certfile: join(ours, 'cert.pem'), keyfile: join(ours, 'key.pem') } : {}
  const patience = more['proxy_protocol'] === 'on' ? { proxy_protocol_timeout: '1m' } : {} // on a busy machine
  const keys = Object.entries({ ...certificates, ...patience, ...more }).map(
    ([key, value]) => `${at}.${key} = ${value}\n`
  )
  return `${at} = ${host}:0\n${keys.join('')}`
}

async function connectBy(
  t: TestContext,
  transport: Transport,
  { port }: Pick<Running, 'port'>,
  options: IClientOptions = {}
): Promise<mqtt.MqttClient> {
  const path = isWeb(transport) ? '/mqtt' : ''
  const c = await mqtt.connectAsync(`${schemes[transport]}://localhost:${port}${path}`, {
    reconnectPeriod: 0,
    ...(isSecure(transport) ? trusting() : {}),
    ...options
  })
  t.after(() => c.endAsync(true))
  return c
}

/** A client's line of `clients list`; CONNACK may be with the client a moment before. */
async function clientRow({ admin }: Running, clientId: string) {
  return await until(clientId, async () =>
    (await admin.call('clients list', {})).find(({ client_id }) => client_id === clientId)
  )
}

function web(t: TestContext, { port }: Pick<Running, 'port'>, options: ClientOptions = {}, path = '/mqtt'): WebSocket {
  const ws = new WebSocket(`ws://127.0.0.1:${port}${path}`, 'mqtt', options)
  t.after(() => ws.terminate())
  return ws
}

/** CONNECT over a WebSocket, and the CONNACK's return code; 'closed' when there was none. */
async function webLogin(ws: WebSocket, id = 'web'): Promise<number | 'closed'> {
  ws.on('error', () => {})
  if (ws.readyState !== WebSocket.OPEN) await next(ws, 'open')
  ws.send(connectPacket({ id }))
  return await Promise.race([
    next(ws, 'message').then(([data]) => (data as Buffer)[3]!),
    next(ws, 'close').then(() => 'closed' as const)
  ])
}

/** The status of what should have been an upgrade. */
async function refusal(ws: WebSocket): Promise<number> {
  ws.on('error', () => {})
  const [, response] = await next(ws, 'unexpected-response')
  ;(response as http.IncomingMessage).resume()
  return (response as http.IncomingMessage).statusCode!
}

/** Logs in by TLS; the CONNACK's return code, or why there is none. */
async function secureLogin(
  t: TestContext,
  { port }: Pick<Running, 'port'>,
  options: tls.ConnectionOptions,
  connect: Buffer = connectPacket()
): Promise<number | string> {
  const socket = tls.connect({ port, host: '127.0.0.1', servername: 'localhost', ...trusting(), ...options })
  t.after(() => void socket.destroy())
  return await new Promise(resolve => {
    socket.once('error', (err: NodeJS.ErrnoException) => resolve(err.code ?? err.message))
    socket.once('close', () => resolve('closed'))
    socket.once('data', (data: Buffer) => resolve(data[3]!))
    socket.once('secureConnect', () => socket.write(connect))
  })
}

const v1 = (address: string, port = 4711): Buffer =>
  Buffer.from(`PROXY TCP4 ${address} 127.0.0.1 ${port} 1883\r\n`, 'latin1')

function v2(address: string, port = 4711, certificateName?: string): Buffer {
  const addresses = Buffer.alloc(12)
  for (const [i, part] of address.split('.').entries()) addresses[i] = Number(part)
  addresses.set([127, 0, 0, 1], 4)
  addresses.writeUInt16BE(port, 8)
  const tlv = (type: number, value: Buffer): Buffer =>
    Buffer.concat([Buffer.from([type, value.length >> 8, value.length & 255]), value])
  const tail =
    certificateName === undefined
      ? Buffer.alloc(0)
      : tlv(0x20, Buffer.concat([Buffer.from([3, 0, 0, 0, 0]), tlv(0x22, Buffer.from(certificateName))]))
  const length = addresses.length + tail.length
  const signature = Buffer.from('0d0a0d0a000d0a515549540a', 'hex')
  return Buffer.concat([signature, Buffer.from([0x21, 0x11, length >> 8, length & 255]), addresses, tail])
}

async function tcp(t: TestContext, { port }: Pick<Running, 'port'>, options: object = {}): Promise<net.Socket> {
  const socket = net.connect({ port, host: '127.0.0.1', ...options })
  t.after(() => void socket.destroy())
  socket.on('error', () => {})
  await next(socket, 'connect')
  return socket
}

describe('Listener', { concurrency: 4 }, () => {
  describe('transports', { concurrency: 3 }, () => {
    for (const transport of transports) {
      test(`Listener serves MQTT over ${transport}`, async t => {
        const running = await startServer(t, { conf: listen(transport) })
        const subscriber = await connectBy(t, transport, running, { clientId: 'subscriber' })
        await subscriber.subscribeAsync('t', { qos: 1 })
        const publisher = await connectBy(t, transport, running, { clientId: 'publisher' })
        const large = Buffer.alloc(200_000, 'x')
        const message = next(subscriber, 'message')
        await publisher.publishAsync('t', large, { qos: 1 })
        assert.deepEqual((await message)[1], large)
        const row = await clientRow(running, 'subscriber')
        assert.equal(row.listener, `${transport}:test`)
        const [listener] = await running.admin.call('listeners', {})
        assert.equal(listener!.current_clients, 2)
        assert.equal(listener!.protocol, `mqtt:${transport}`)
      })
    }

    for (const transport of transports) {
      test(`Listener of ${transport} lets a refusal arrive: CONNACK 4`, async t => {
        const running = await startServer(t, { conf: `${listen(transport)}mqtt.allow_anonymous = false` })
        await assert.rejects(connectBy(t, transport, running), { code: 4 })
      })

      test(`Server.stop('drain') sends what is written to a client of ${transport} before it closes`, async t => {
        const running = await startServer(t, { conf: listen(transport) })
        const c = await connectBy(t, transport, running)
        await c.subscribeAsync('t')
        let received = 0
        c.on('message', () => received++)
        const payload = Buffer.alloc(500_000)
        for (let i = 0; i < 20; i++) void running.server.clients.publish({ topic: 't', payload, qos: 0, retain: false })
        await until('something is written', () => received > 0)
        await running.server.stop('drain')
        await until('all', () => received === 20)
      })
    }

    test('Listener of ssl needs no certificate of the operator: Server makes one', async t => {
      const running = await startServer(t, { conf: 'listener.ssl.test = 127.0.0.1:0' })
      const ca = readFileSync(join(running.home.certs, 'cacert.pem'))
      const c = await connectBy(t, 'ssl', running, { ca })
      await c.publishAsync('t', 'x', { qos: 1 })
    })

    test('Listener.open() binds an IPv6 address and shows it', async t => {
      const running = await startServer(t, { conf: listen('tcp', {}, '[::1]') })
      const c = await mqtt.connectAsync(`mqtt://[::1]:${running.port}`, { clientId: 'six', reconnectPeriod: 0 })
      t.after(() => c.endAsync(true))
      assert.match((await clientRow(running, 'six')).peername, /^::1:\d+$/)
      assert.equal((await running.admin.call('listeners', {}))[0]!.listen, `[::1]:${running.port}`)
    })

    test('Listener.open() without a host binds IPv4 as well as IPv6', async t => {
      const running = await startServer(t, { conf: 'listener.tcp.test = 0' })
      await client(t, running, { clientId: 'four' })
      assert.match((await clientRow(running, 'four')).peername, /^127\.0\.0\.1:\d+$/)
    })

    test('Listener turns max_clients into a limit, and takes the next when one has left', async t => {
      const running = await startServer(t, { conf: listen('tcp', { max_clients: '2' }) })
      const first = await client(t, running, { clientId: '1' })
      await client(t, running, { clientId: '2' })
      for (let i = 0; i < 2; i++) {
        const third = await RawClient.connect(t, running)
        third.send(connectPacket())
        assert.equal((await third.read(4)).length, 0)
      }
      assert.equal(running.log.filter(line => line.includes('max_clients reached')).length, 1)
      await first.endAsync()
      await until('room', async () => (await running.admin.call('listeners', {}))[0]!.current_clients === 1)
      await client(t, running, { clientId: '3' })
    })
  })

  describe('access', { concurrency: 3 }, () => {
    const rules: readonly [string, Readonly<Record<string, string>>, boolean][] = [
      ['allow all', { 'access.1': 'allow all' }, true],
      ['deny all', { 'access.1': 'deny all' }, false],
      ['the lower number first', { 'access.10': 'allow all', 'access.9': 'deny 127.0.0.0/8' }, false],
      ['the lower number first, the other way round', { 'access.9': 'allow all', 'access.10': 'deny all' }, true],
      ['a single address', { 'access.1': 'allow 127.0.0.1', 'access.2': 'deny all' }, true],
      ['every IPv4 address', { 'access.1': 'deny 0.0.0.0/0' }, false],
      ['only IPv6', { 'access.1': 'deny ::/0' }, true],
      ['nothing that fits', { 'access.1': 'deny 10.0.0.0/8' }, true]
    ]
    for (const [name, keys, welcome] of rules) {
      test(`Listener ${welcome ? 'admits' : 'turns away'} by its access rules: ${name}`, async t => {
        const running = await startServer(t, { conf: listen('tcp', keys) })
        const raw = await RawClient.connect(t, running)
        raw.send(connectPacket())
        assert.equal((await raw.read(4)).length, welcome ? 4 : 0)
        if (!welcome) await until('log', () => running.log.some(line => line.includes('denied by an access rule')))
      })
    }
  })

  describe('WebSocket', { concurrency: 3 }, () => {
    test('Listener answers 404 to a wrong path, and MQTT.js sees it fail', async t => {
      const running = await startServer(t, { conf: listen('ws') })
      assert.equal(await refusal(web(t, running, {}, '/elsewhere')), 404)
      const c = mqtt.connect(`ws://127.0.0.1:${running.port}/elsewhere`, { reconnectPeriod: 0 })
      t.after(() => c.endAsync(true))
      await next(c, 'close')
      assert.equal(c.connected, false)
      await until('gone', async () => (await running.admin.call('listeners', {}))[0]!.current_clients === 0)
    })

    test('Listener serves the path it is told to, with a query', async t => {
      const running = await startServer(t, { conf: listen('ws', { path: '/broker/v1' }) })
      assert.equal(await webLogin(web(t, running, {}, '/broker/v1?token=x')), 0)
      assert.equal(await refusal(web(t, running)), 404)
    })

    test('Listener answers 400 without an MQTT sub-protocol [MQTT-6.0.0-3], unless told to do without', async t => {
      const strict = await startServer(t, { conf: listen('ws') })
      const lax = await startServer(t, { conf: `${listen('ws')}mqtt.websocket_protocol_header = off` })
      const open = ({ port }: Running, protocols: string[]): WebSocket => {
        const ws = new WebSocket(`ws://127.0.0.1:${port}/mqtt`, protocols)
        t.after(() => ws.terminate())
        return ws
      }
      assert.equal(await refusal(open(strict, [])), 400)
      assert.equal(await refusal(open(strict, ['stomp'])), 400)
      assert.equal(await webLogin(open(lax, [])), 0)
    })

    test('Listener names the sub-protocol it chose: mqtt before mqttv3.1 [MQTT-6.0.0-4]', async t => {
      const running = await startServer(t, { conf: listen('ws') })
      for (const [offered, chosen] of [
        [['mqttv3.1'], 'mqttv3.1'],
        [['mqttv3.1', 'mqtt'], 'mqtt'],
        [['stomp', 'mqtt'], 'mqtt']
      ] as const) {
        const ws = new WebSocket(`ws://127.0.0.1:${running.port}/mqtt`, [...offered])
        t.after(() => ws.terminate())
        await next(ws, 'open')
        assert.equal(ws.protocol, chosen)
      }
    })

    test('Listener closes over a text frame and does not look into it [MQTT-6.0.0-1]', async t => {
      const running = await startServer(t, { conf: listen('ws') })
      const ws = web(t, running)
      await next(ws, 'open')
      const seen: unknown[] = []
      ws.on('message', data => seen.push(data))
      ws.send(connectPacket().toString('latin1')) // all of it below 0x80, so the same bytes as text
      assert.equal((await next(ws, 'close'))[0], 1003)
      assert.deepEqual(seen, [])
      await until('counted', async () => {
        const [listener] = await running.admin.call('listeners', {})
        return listener!.shutdown_count['protocol_error'] === 1
      })
    })

    test('Listener takes packets that are cut and joined anyhow by frames [MQTT-6.0.0-2]', async t => {
      const running = await startServer(t, { conf: listen('ws') })
      const ws = web(t, running)
      await next(ws, 'open')
      let answer = Buffer.alloc(0)
      ws.on('message', data => {
        answer = Buffer.concat([answer, data as Buffer])
      })
      const bytes = Buffer.concat([connectPacket(), pingreq, pingreq])
      ws.send(Buffer.alloc(0))
      ws.send(bytes.subarray(0, 1))
      ws.send(bytes.subarray(1, 9))
      ws.send(bytes.subarray(9))
      await until('answers', () => answer.toString('hex') === '20020000d000d000')
    })

    test('Listener tells whoever asks for a page that it has none: 426', async t => {
      const running = await startServer(t, { conf: listen('ws') })
      const response = await new Promise<http.IncomingMessage>(resolve => {
        http.get(`http://127.0.0.1:${running.port}/`, resolve)
      })
      assert.equal(response.statusCode, 426)
      let body = ''
      for await (const chunk of response) body += String(chunk)
      assert.match(body, /MQTT.*\/mqtt/)
      await until('gone', async () => (await running.admin.call('listeners', {}))[0]!.current_clients === 0)
    })

    test('Listener closes a peer that takes too long to ask for a WebSocket', async t => {
      const { listener, port } = await bare(t, { upgradeTimeout: 200 })
      const silent = await RawClient.connect(t, { port })
      const dribbling = await RawClient.connect(t, { port })
      const refused = await RawClient.connect(t, { port })
      refused.send('GET /no HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n')
      const timer = setInterval(() => dribbling.send('GET / HTTP/1.1\r\nX: x'), 20)
      t.after(() => clearInterval(timer))
      await Promise.all([silent.closed, dribbling.closed, refused.closed])
      await until('counted', () => listener.info().currentClients === 0)
    })

    test('Listener does not fall over a peer that resets a WebSocket it is refused', async t => {
      for (const transport of ['ws', 'wss'] as const) {
        const running = await startServer(t, { conf: listen(transport) })
        for (let i = 0; i < 20; i++) {
          const raw = await tcp(t, running)
          const socket = isSecure(transport)
            ? tls.connect({ socket: raw, servername: 'localhost', ...trusting() })
            : raw
          socket.on('error', () => {})
          if (socket !== raw) await next(socket, 'secureConnect')
          socket.write('GET /no HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n')
          if (i % 2 === 0) await new Promise(setImmediate)
          raw.resetAndDestroy()
        }
        await until('gone', () => running.server.listeners[0]!.info().currentClients === 0)
      }
    })
  })

  describe('allow_anonymous = local', { concurrency: 3 }, () => {
    const origins: readonly [string, string | undefined, string | undefined, 0 | 4][] = [
      ['a program', undefined, undefined, 0],
      ['a page of this host', 'http://localhost:3000', undefined, 0],
      ['a page of this host by address', 'http://127.0.0.1:8080', undefined, 0],
      ['a page of this host by IPv6 address', 'https://[::1]', undefined, 0],
      ['a page of another site', 'https://evil.example', undefined, 4],
      ['a page in a sandbox', 'null', undefined, 4],
      ['a page whose site now resolves to this host', 'http://evil.example:8083', 'evil.example:8083', 4]
    ]
    for (const [who, origin, host, code] of origins) {
      test(`Listener ${code === 0 ? 'takes' : 'does not take'} ${who} for this host's own user`, async t => {
        const running = await startServer(t, { conf: listen('ws') })
        const headers = { ...(origin === undefined ? {} : { origin }), ...(host === undefined ? {} : { host }) }
        assert.equal(await webLogin(web(t, running, { headers })), code)
      })
    }

    test('Listener does not take a peer that a proxy announces for this host', async t => {
      const running = await startServer(t, { conf: listen('tcp', { proxy_protocol: 'on' }) })
      for (const [address, code] of [
        ['203.0.113.9', 4],
        ['127.0.0.1', 0]
      ] as const) {
        const raw = await RawClient.connect(t, running)
        raw.send(v1(address), connectPacket({ id: address }))
        assert.equal((await raw.read(4))[3], code)
      }
    })

    test('Listener does not take a proxy that announces nobody for this host', async t => {
      const running = await startServer(t, { conf: listen('tcp', { proxy_protocol: 'on' }) })
      const raw = await RawClient.connect(t, running)
      raw.send(Buffer.from('PROXY UNKNOWN\r\n'), connectPacket())
      assert.equal((await raw.read(4))[3], 4)
    })
  })

  describe('PROXY protocol', { concurrency: 3 }, () => {
    for (const transport of transports) {
      for (const [version, header] of [
        ['1', v1('203.0.113.9')],
        ['2', v2('203.0.113.9')]
      ] as const) {
        for (const pieces of [1, 3]) {
          test(`Listener of ${transport} takes a PROXY v${version} header in ${pieces} piece(s)`, async t => {
            const conf = `${listen(transport, { proxy_protocol: 'on' })}mqtt.allow_anonymous = true`
            const running = await startServer(t, { conf })
            const raw = await tcp(t, running)
            const size = Math.ceil(header.length / pieces)
            for (let at = 0; at < header.length; at += size) {
              if (at > 0) await sleep(15)
              raw.write(header.subarray(at, at + size))
            }
            const socket = isSecure(transport)
              ? tls.connect({ socket: raw, servername: 'localhost', ...trusting() })
              : raw
            if (isWeb(transport)) {
              const ws = new WebSocket('ws://localhost/mqtt', 'mqtt', { createConnection: () => socket })
              t.after(() => ws.terminate())
              assert.equal(await webLogin(ws, 'proxied'), 0)
            } else {
              const by = RawClient.over(t, socket)
              by.send(connectPacket({ id: 'proxied' }))
              assert.equal((await by.read(4))[3], 0)
            }
            assert.equal((await clientRow(running, 'proxied')).peername, '203.0.113.9:4711')
          })
        }
      }
    }

    test('Listener takes the header and all of MQTT from one segment', async t => {
      const conf = `${listen('tcp', { proxy_protocol: 'on' })}mqtt.allow_anonymous = true`
      const running = await startServer(t, { conf })
      const raw = await RawClient.connect(t, running)
      raw.send(v2('203.0.113.9'), connectPacket(), pingreq)
      assert.equal((await raw.read(6)).toString('hex'), '20020000d000')
    })

    const strangers: readonly [string, Buffer, RegExp][] = [
      ['no header', connectPacket(), /expected a PROXY header, got the bytes 10/],
      ['a bad one', Buffer.from('PROXY TCP4 1.2.3.4\r\n'), /got \\"PROXY TCP4 1.2.3.4\\"/],
      ['none in time', Buffer.alloc(0), /no PROXY header within 300 ms/],
      ['half of one in time', v1('1.2.3.4').subarray(0, 9), /no PROXY header within 300 ms/]
    ]
    for (const [what, bytes, why] of strangers) {
      test(`Listener turns away who sends ${what}`, async t => {
        const time: Record<string, string> = what.endsWith('time') ? { proxy_protocol_timeout: '300ms' } : {}
        const running = await startServer(t, { conf: listen('tcp', { proxy_protocol: 'on', ...time }) })
        const raw = await RawClient.connect(t, running)
        raw.send(bytes)
        assert.equal((await raw.read(4)).length, 0)
        await until('log', () => running.log.some(line => line.includes('turned away') && why.test(line)))
      })
    }

    test('Listener asks its access rules about the announced address', async t => {
      const running = await startServer(t, {
        conf: `${listen('tcp', { proxy_protocol: 'on', 'access.1': 'deny 203.0.113.0/24' })}mqtt.allow_anonymous = true`
      })
      for (const [address, bytes] of [
        ['203.0.113.9', 0],
        ['198.51.100.7', 4]
      ] as const) {
        const raw = await RawClient.connect(t, running)
        raw.send(v1(address), connectPacket())
        assert.equal((await raw.read(4)).length, bytes)
      }
    })

    test('Listener of tcp takes the user name from the certificate that PROXY v2 tells of', async t => {
      const keys = { proxy_protocol: 'on', peer_cert_as_username: 'cn' }
      const running = await startServer(t, { conf: `${listen('tcp', keys)}mqtt.allow_anonymous = true` })
      const raw = await RawClient.connect(t, running)
      raw.send(v2('203.0.113.9', 1, 'meter-7'), withUser('raw', 'claimed'))
      assert.equal((await raw.read(4))[3], 0)
      assert.equal((await clientRow(running, 'raw')).username, 'meter-7')
    })

    test('Listener tells two proxied connections apart that come from one port to two of its addresses', {
      skip: process.platform !== 'linux' && 'other systems have one loopback address'
    }, async t => {
      const conf = `${listen('ssl', { proxy_protocol: 'on' }, '0.0.0.0')}mqtt.allow_anonymous = true`
      const running = await startServer(t, { conf })
      const sockets: net.Socket[] = []
      for (const host of ['127.0.0.1', '127.0.0.2']) {
        const localPort = sockets[0]?.localPort
        const raw = await tcp(t, running, { host, localAddress: '127.0.0.1', ...(localPort && { localPort }) })
        raw.write(v1(`203.0.113.${sockets.length}`))
        sockets.push(raw)
        await sleep(30)
      }
      assert.equal(sockets[0]!.localPort, sockets[1]!.localPort)
      for (const [i, socket] of sockets.entries()) {
        const raw = RawClient.over(t, tls.connect({ socket, servername: 'localhost', ...trusting() }))
        raw.send(connectPacket({ id: `${i}` }))
        await raw.read(4)
      }
      for (const i of [0, 1]) assert.equal((await clientRow(running, `${i}`)).peername, `203.0.113.${i}:4711`)
    })
  })

  describe('proxy_address_header', { concurrency: 3 }, () => {
    const keys = { proxy_address_header: 'X-Forwarded-For', proxy_port_header: 'X-Forwarded-Port' }
    const cases: readonly [string, Readonly<Record<string, string>>, Readonly<Record<string, string>>, RegExp][] = [
      [
        'from a trusted proxy',
        {},
        { 'x-forwarded-for': '203.0.113.9', 'x-forwarded-port': '77' },
        /^203\.0\.113\.9:77$/
      ],
      ['no header', {}, {}, /^127\.0\.0\.1:\d+$/],
      [
        'hearsay before the proxy',
        {},
        { 'x-forwarded-for': '10.1.1.1, 203.0.113.9', 'x-forwarded-port': 'x' },
        /^203\.0\.113\.9:0$/
      ],
      [
        'a chain of trusted proxies',
        { trusted_proxies: '127.0.0.1,10.0.0.0/8' },
        { 'x-forwarded-for': '203.0.113.9, 10.2.2.2' },
        /^203\.0\.113\.9:0$/
      ],
      [
        'an untrusted peer',
        { trusted_proxies: '10.0.0.1' },
        { 'x-forwarded-for': '203.0.113.9' },
        /^127\.0\.0\.1:[1-9]/
      ],
      ['IPv6 and brackets', {}, { 'x-forwarded-for': '[2001:DB8:0:0::1]' }, /^2001:db8::1:0$/],
      ['IPv4 in IPv6', {}, { 'x-forwarded-for': '::FFFF:203.0.113.9' }, /^203\.0\.113\.9:0$/],
      ['an address with its port', {}, { 'x-forwarded-for': '127.0.0.1, 203.0.113.9:5555' }, /^203\.0\.113\.9:0$/],
      ['what the proxy added cannot be read', {}, { 'x-forwarded-for': '203.0.113.9, unknown' }, /^127\.0\.0\.1:[1-9]/],
      [
        'a port out of range',
        {},
        { 'x-forwarded-for': '203.0.113.9', 'x-forwarded-port': '70000' },
        /^203\.0\.113\.9:0$/
      ]
    ]
    for (const [name, more, headers, peername] of cases) {
      test(`Listener shows the peer behind a proxy: ${name}`, async t => {
        const running = await startServer(t, {
          conf: `${listen('ws', { ...keys, ...more })}mqtt.allow_anonymous = true`
        })
        assert.equal(await webLogin(web(t, running, { headers })), 0)
        assert.match((await clientRow(running, 'web')).peername, peername)
      })
    }

    test('Listener asks its access rules about that peer: 403', async t => {
      const running = await startServer(t, { conf: listen('ws', { ...keys, 'access.1': 'deny 203.0.113.9' }) })
      assert.equal(await refusal(web(t, running, { headers: { 'x-forwarded-for': '203.0.113.9' } })), 403)
    })

    test('Listener heeds no such header unless it is configured', async t => {
      const running = await startServer(t, { conf: listen('ws') })
      assert.equal(await webLogin(web(t, running, { headers: { 'x-forwarded-for': '203.0.113.9' } })), 0)
      assert.match((await clientRow(running, 'web')).peername, /^127\.0\.0\.1:/)
    })
  })

  describe('client certificates', { concurrency: 3 }, () => {
    const verify = (more: Readonly<Record<string, string>> = {}) => ({
      verify: 'verify_peer',
      cacertfile: join(ours, 'cacert.pem'),
      ...more
    })
    const refused = (answer: number | string): boolean => typeof answer === 'string'

    test('verify = verify_peer takes those it trusts and those without a certificate, and nobody of another CA', async t => {
      const running = await startServer(t, { conf: listen('ssl', verify()) })
      assert.equal(await secureLogin(t, running, {}), 0)
      assert.equal(await secureLogin(t, running, showing(ours)), 0)
      for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
        assert.ok(refused(await secureLogin(t, running, { ...showing(theirs), maxVersion })), maxVersion)
      }
      await until('log', () => running.log.some(line => line.includes('client certificate')))
    })

    test('fail_if_no_peer_cert refuses those without a certificate as well', async t => {
      for (const transport of ['ssl', 'wss'] as const) {
        const running = await startServer(t, { conf: listen(transport, verify({ fail_if_no_peer_cert: 'true' })) })
        for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
          assert.ok(refused(await secureLogin(t, running, { maxVersion })), maxVersion)
          assert.ok(refused(await secureLogin(t, running, { ...showing(theirs), maxVersion })), maxVersion)
        }
        await connectBy(t, transport, running, showing(ours))
      }
    })

    test('verify = verify_none asks for none', async t => {
      const running = await startServer(t, {
        conf: listen('ssl', { peer_cert_as_username: 'cn', proxy_protocol: 'on' })
      })
      const raw = await tcp(t, running)
      raw.write(v1('127.0.0.1'))
      assert.equal(await secureLogin(t, running, { ...showing(theirs), socket: raw }, withUser('raw', 'claimed')), 0)
      assert.equal((await clientRow(running, 'raw')).username, 'claimed')
    })

    for (const [part, expected] of [
      ['cn', 'client'],
      ['dn', 'CN=client']
    ] as const) {
      for (const transport of ['ssl', 'wss'] as const) {
        test(`peer_cert_as_username = ${part} replaces the user name, over ${transport}`, async t => {
          const running = await startServer(t, { conf: listen(transport, verify({ peer_cert_as_username: part })) })
          await connectBy(t, transport, running, { ...showing(ours), clientId: 'c', username: 'claimed' })
          assert.equal((await clientRow(running, 'c')).username, expected)
        })
      }
    }

    const subjects: readonly [string, string | undefined][] = [
      ['CN=Smith\\, John', 'Smith, John'],
      ['CN=żółw, O=Home', 'żółw'],
      ['O=Home+CN=lamp', 'lamp'],
      ['O=Home', undefined]
    ]
    for (const [subject, username] of subjects) {
      test(`peer_cert_as_username = cn finds ${username ?? 'no name, so nobody enters'} in ${subject}`, async t => {
        const running = await startServer(t, { conf: listen('ssl', verify({ peer_cert_as_username: 'cn' })) })
        const answer = await secureLogin(t, running, await issue(subject), withUser('raw', 'claimed'))
        if (username === undefined) {
          assert.equal(answer, 'closed')
          await until('log', () => running.log.some(line => line.includes('client certificate: it has no CN')))
        } else {
          assert.equal(answer, 0)
          assert.equal((await clientRow(running, 'raw')).username, username)
        }
      })
    }

    test('peer_cert_as_username holds when a TLS session is resumed', async t => {
      const keys = verify({ peer_cert_as_username: 'cn', fail_if_no_peer_cert: 'true' })
      const running = await startServer(t, { conf: listen('ssl', keys) })
      for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
        const options = { port: running.port, servername: 'localhost', ...showing(ours), maxVersion }
        const first = tls.connect(options)
        const [session] = await next(first, 'session')
        first.destroy()
        const second = tls.connect({ ...options, session: session as Buffer })
        const raw = RawClient.over(t, second)
        raw.send(withUser('resumed', 'claimed'))
        assert.equal((await raw.read(4))[3], 0)
        assert.ok(second.isSessionReused(), maxVersion)
        assert.equal((await clientRow(running, 'resumed')).username, 'client')
      }
    })
  })

  describe('TLS', { concurrency: 3 }, () => {
    test('tls_versions is what is offered', async t => {
      const running = await startServer(t, { conf: listen('ssl', { tls_versions: 'tlsv1.2' }) })
      assert.equal(await secureLogin(t, running, { maxVersion: 'TLSv1.2' }), 0)
      assert.match(String(await secureLogin(t, running, { minVersion: 'TLSv1.3' })), /PROTOCOL_VERSION|alert/i)
      const newer = await startServer(t, { conf: listen('ssl', { tls_versions: 'tlsv1.3' }) })
      assert.match(String(await secureLogin(t, newer, { maxVersion: 'TLSv1.2' })), /PROTOCOL_VERSION|alert/i)
    })

    test('Listener logs in words that a peer does not speak TLS', async t => {
      const running = await startServer(t, { conf: listen('ssl') })
      for (const bytes of [connectPacket(), Buffer.from('GET / HTTP/1.1\r\n\r\n')]) {
        const raw = await RawClient.connect(t, running)
        raw.send(bytes)
        await raw.closed
      }
      const said = (): boolean =>
        running.log.filter(line => /TLS handshake failed.*"the peer does not speak TLS"/.test(line)).length === 2
      await until('log', said)
    })

    test('handshake_timeout ends a handshake that is not finished, however it dribbles', async t => {
      const running = await startServer(t, { conf: listen('ssl', { handshake_timeout: '300ms' }) })
      const raw = await RawClient.connect(t, running)
      raw.send(Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]))
      const timer = setInterval(() => raw.send(1), 50)
      t.after(() => clearInterval(timer))
      await raw.closed
    })

    test('Listener reads changed certificates for the next client, and keeps who is connected', async t => {
      const dir = await mkdtemp(join(tmpdir(), 'listener-'))
      t.after(() => rm(dir, { recursive: true }))
      const put = (from: string): void => {
        for (const file of ['cert.pem', 'key.pem']) copyFileSync(join(from, file), join(dir, file))
      }
      put(ours)
      const keys = { certfile: join(dir, 'cert.pem'), keyfile: join(dir, 'key.pem') }
      const running = await startServer(t, { conf: listen('ssl', keys) })
      const issuer = async (): Promise<string> => {
        const socket = tls.connect({ port: running.port, rejectUnauthorized: false })
        await next(socket, 'secureConnect')
        const { issuer } = socket.getPeerX509Certificate()!
        socket.destroy()
        return issuer
      }
      const issuerOf = (where: string): string => new X509Certificate(read(where, 'cert.pem')).issuer
      const connected = await connectBy(t, 'ssl', running, { clientId: 'stays' })
      assert.equal(await issuer(), issuerOf(ours))

      put(theirs)
      await until('new certificate', async () => (await issuer()) === issuerOf(theirs))
      writeFileSync(join(dir, 'cert.pem'), 'spoilt')
      await until('log', () => running.log.some(line => line.includes('those in force stay')))
      assert.equal(await issuer(), issuerOf(theirs))
      await connected.publishAsync('t', 'x', { qos: 1 })
    })

    const mistakes: readonly [string, Readonly<Record<string, string>>, RegExp][] = [
      [
        'a missing file',
        { certfile: '/nowhere/cert.pem' },
        /^listener\.ssl\.test\.certfile: cannot read .*no such file$/
      ],
      ['a directory', { keyfile: '/' }, /^listener\.ssl\.test\.keyfile: cannot read \//]
    ]
    for (const [name, keys, message] of mistakes) {
      test(`Listener says what is wrong with ${name}`, async t => {
        await assert.rejects(startServer(t, { conf: listen('ssl', keys) }), (err: BrokerError) => {
          assert.ok(err instanceof BrokerError)
          assert.equal(err.code, 'CONFIG_INVALID')
          assert.match(err.message, message)
          return true
        })
      })
    }

    test('Listener says that a key does not belong to its certificate', async t => {
      const conf = listen('ssl', { keyfile: join(theirs, 'key.pem') })
      await assert.rejects(startServer(t, { conf }), (err: BrokerError) => {
        assert.equal(err.code, 'CONFIG_INVALID')
        assert.match(err.message, /^listener\.ssl\.test\.certfile: the key does not belong to the certificate \(/)
        return true
      })
    })
  })

  describe('ports', { concurrency: 3 }, () => {
    test('Listener.open() names who has the port', async t => {
      const { port } = await startServer(t)
      await assert.rejects(startServer(t, { conf: `listener.tcp.test = 127.0.0.1:${port}` }), (err: BrokerError) => {
        assert.ok(err instanceof BrokerError)
        assert.equal(err.code, 'UNAVAILABLE')
        const start = `listener.tcp.test: cannot listen on 127.0.0.1:${port}: the port is taken by `
        assert.ok(err.message.startsWith(start), err.message)
        assert.match(err.message.slice(start.length), new RegExp(`^(\\S+ \\(pid ${process.pid}\\)|another program)$`))
        return true
      })
    })

    test('Listener.open() says that an address is not of this host', async t => {
      await assert.rejects(startServer(t, { conf: 'listener.tcp.test = 192.0.2.1:0' }), {
        name: 'BrokerError',
        message: 'listener.tcp.test: cannot listen on 192.0.2.1:0: this host has no such address'
      })
    })

    test('Server.stop() frees every port, with clients on all of them', async t => {
      const running = await startServer(t, { conf: transports.map(transport => listen(transport)).join('') })
      for (const transport of transports) {
        await connectBy(t, transport, { port: running.portOf(`${transport}:test`) }, { clientId: transport })
      }
      const ports = running.server.listeners.map(({ port }) => port)
      await running.server.stop()
      assert.equal(running.server.clients.connectionCount, 0)
      for (const port of ports) {
        const socket = net.connect(port, '127.0.0.1')
        const [err] = await next(socket, 'error')
        assert.equal((err as NodeJS.ErrnoException).code, 'ECONNREFUSED')
      }
    })

    test('Server.start() that cannot open its second port frees the first', async t => {
      const { port } = await startServer(t)
      const first = net.createServer().listen(0, '127.0.0.1')
      await next(first, 'listening')
      const free = (first.address() as net.AddressInfo).port
      await new Promise(resolve => first.close(resolve))
      const conf = `listener.tcp.a = 127.0.0.1:${free}\nlistener.tcp.b = 127.0.0.1:${port}`
      await assert.rejects(startServer(t, { conf }), /the port is taken/)
      const again = net.createServer().listen(free, '127.0.0.1')
      await next(again, 'listening')
      again.close()
    })
  })
})

/** A listener of WebSockets alone, with nobody behind it. */
async function bare(t: TestContext, { upgradeTimeout }: { upgradeTimeout: number }) {
  const options = optionsFrom(brokerSchema, {
    listener: { ws: { test: { bind: { host: '127.0.0.1', port: 0 } } } }
  })
  const listener = new Listener(listenersOf(options)[0]!, {
    establish: () => assert.fail('nobody gets that far'),
    path: file => file,
    log: createLog(),
    needsSubprotocol: true,
    maxPacketSize: 1024,
    upgradeTimeout
  })
  await listener.open()
  t.after(() => listener.close())
  return { listener, port: listener.port }
}

/** A client's certificate from our authority. */
async function issue(subject: string): Promise<{ cert: string; key: string }> {
  await import('reflect-metadata')
  const { X509Certificate: Certificate, X509CertificateGenerator } = await import('@peculiar/x509')
  const { subtle } = webcrypto
  const signingAlgorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  const caKey = createPrivateKey(read(ours, 'cakey.pem')).export({ type: 'pkcs8', format: 'der' })
  const keys = await subtle.generateKey(signingAlgorithm, true, ['sign', 'verify'])
  const certificate = await X509CertificateGenerator.create({
    subject,
    issuer: new Certificate(read(ours, 'cacert.pem').toString()).subject,
    notAfter: new Date(Date.now() + 86_400_000),
    signingAlgorithm,
    signingKey: await subtle.importKey('pkcs8', caKey, signingAlgorithm, false, ['sign']),
    publicKey: keys.publicKey
  })
  const key = KeyObject.from(keys.privateKey).export({ type: 'pkcs8', format: 'pem' }) as string
  return { cert: certificate.toString('pem'), key }
}

/** A CONNECT with a user name. */
function withUser(id: string, username: string): Buffer {
  return packet(0x10, text('MQTT'), 4, 2 | 0x80, 0, 0, text(id), text(username))
}
