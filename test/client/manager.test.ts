import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import net from 'node:net'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { MqttClient } from 'mqtt'
import { Access } from '../../src/access/access.js'
import { AclRules } from '../../src/access/acl-file.js'
import type { ClientInfo } from '../../src/base/client-info.js'
import { BrokerError } from '../../src/base/errors.js'
import { createLog } from '../../src/base/log/log.js'
import { ClientManager } from '../../src/client/manager.js'
import { brokerSchema } from '../../src/config/broker-keys.js'
import { optionsFrom } from '../../src/config/schema.js'
import { Alarms } from '../../src/observe/alarms.js'
import { plugin } from '../../src/plugin.js'
import { type Handler, type HookName, Hooks } from '../../src/plugins/hooks.js'
import {
  client,
  connectPacket,
  disconnect,
  hangMs,
  next,
  packet,
  pingreq,
  publishPacket,
  RawClient,
  type Running,
  startServer,
  subscribePacket,
  text,
  until
} from '../support/server.js'

const connackOf = (code: number, sessionPresent = 0): Buffer => Buffer.from([0x20, 2, sessionPresent, code])
const pingresp = Buffer.from([0xd0, 0])
const puback = (id: number): Buffer => Buffer.from([0x40, 2, id >> 8, id & 255])

/** A raw client that has sent `connect`, and what it was answered; nothing when it was closed without. */
async function arrive(
  t: TestContext,
  on: Pick<Running, 'port'>,
  connect: Buffer = connectPacket()
): Promise<{ raw: RawClient; connack: Buffer }> {
  const raw = await RawClient.connect(t, on)
  raw.send(connect)
  return { raw, connack: await raw.readPacket() }
}

/** A raw client that is in. */
async function join(t: TestContext, on: Pick<Running, 'port'>, connect?: Buffer): Promise<RawClient> {
  const { raw, connack } = await arrive(t, on, connect)
  assert.equal(connack[3], 0)
  return raw
}

interface Connect {
  id?: string
  clean?: boolean
  keepAlive?: number
  username?: string
  password?: string
  will?: { topic: string; payload?: string }
}

/** A CONNECT with whatever is given. */
function fullConnect({ id = 'raw', clean = true, keepAlive = 0, username, password, will }: Connect): Buffer {
  const flags =
    (clean ? 2 : 0) | (will && 4 ? 4 : 0) | (password === undefined ? 0 : 0x40) | (username === undefined ? 0 : 0x80)
  const rest = [will?.topic, will && (will.payload ?? 'will'), username, password]
  const fields = [id, ...rest.filter(value => value !== undefined)].map(text)
  return packet(0x10, text('MQTT'), 4, flags, keepAlive >> 8, keepAlive & 255, ...fields)
}

/** A CONNECT with these flags and what stands behind the client id. */
function withFlags(flags: number, ...rest: Buffer[]): Buffer {
  return packet(0x10, text('MQTT'), 4, flags, 0, 0, text('raw'), ...rest)
}

/** Registers a hook for the time of a test. */
function hook<N extends HookName>({ server }: Pick<Running, 'server'>, name: N, handler: Handler<N>): void {
  server.hooks.scope('test').on(name, handler)
}

/** Lets in by a table of user names. */
function authenticate(running: Running, users: Record<string, 'allow' | 'superuser' | 'deny' | 'ignore'>): void {
  hook(running, 'client.authenticate', ({ username }) => users[username ?? ''] ?? 'ignore')
}

/** Everything that is published from now on, as `topic=payload`. */
async function watch(t: TestContext, on: Running, filters: string | string[] = '#'): Promise<string[]> {
  const got: string[] = []
  const c = await client(t, on, { clientId: 'watcher', username: 'root' })
  c.on('message', (topic, payload) => got.push(`${topic}=${payload.toString()}`))
  await c.subscribeAsync(filters)
  return got
}

/** When a message of the broker's own has come through, all before it have. */
async function settled({ server }: Running, got: readonly string[]): Promise<void> {
  await sleep(20)
  await server.clients.publish({ topic: 'settled', payload: Buffer.alloc(0), qos: 0, retain: false })
  await until('settled', () => got.includes('settled='))
}

/** The broker tells of itself below $SYS/. */
const withoutOwn = (got: readonly string[]): string[] =>
  got.filter(m => !/^\$SYS\/brokers\/broker@127\.0\.0\.1\//.test(m))

/** Facts in the order in which hooks were told them. */
function facts(running: Running): string[] {
  const told: string[] = []
  hook(running, 'client.connected', ({ clientId }) => void told.push(`${clientId} connected`))
  hook(running, 'client.disconnected', ({ clientId }, reason) => void told.push(`${clientId} ${reason}`))
  hook(running, 'session.subscribed', ({ clientId }, filter, qos) => void told.push(`${clientId} +${filter} ${qos}`))
  hook(running, 'session.unsubscribed', ({ clientId }, filter) => void told.push(`${clientId} -${filter}`))
  return told
}

const publish = async (c: MqttClient, topic: string): Promise<void> => {
  await c.publishAsync(topic, 'x', { qos: 1 })
}

describe('Broker', { concurrency: 4 }, () => {
  describe('CONNECT', { concurrency: 3 }, () => {
    const refusals: readonly [string, Buffer, string][] = [
      ['level 6 in the words of MQTT 5, reason code 0x84 [MQTT-3.1.2-2]', connectPacket({ level: 6 }), '2003008400'],
      ['MQTT of level 3 with CONNACK 1', connectPacket({ level: 3 }), '20020001'],
      ['MQIsdp of level 4 with CONNACK 1', connectPacket({ name: 'MQIsdp', level: 4 }), '20020001'],
      ['another protocol by closing [MQTT-3.1.2-1]', connectPacket({ name: 'FOO' }), ''],
      ['a client id over the limit with CONNACK 2', connectPacket({ id: 'x'.repeat(1025) }), '20020002'],
      [
        'no client id without clean session with CONNACK 2 [MQTT-3.1.3-8]',
        fullConnect({ id: '', clean: false }),
        '20020002'
      ],
      ['no client id in MQTT 3.1 with CONNACK 2', connectPacket({ name: 'MQIsdp', level: 3, id: '' }), '20020002'],
      ['a set reserved flag by closing [MQTT-3.1.2-3]', withFlags(3), ''],
      ['a will of QoS 3 by closing [MQTT-3.1.2-14]', withFlags(0x1e, text('w'), text('x')), ''],
      ['a will QoS without a will by closing [MQTT-3.1.2-13]', withFlags(0x0a), ''],
      ['a retained will without a will by closing [MQTT-3.1.2-15]', withFlags(0x22), ''],
      ['a password without a user name by closing [MQTT-3.1.2-22]', withFlags(0x42, text('secret')), ''],
      ['a will to a filter by closing', fullConnect({ will: { topic: 'a/#' } }), ''],
      ['a will to an empty topic by closing', fullConnect({ will: { topic: '' } }), ''],
      ['a packet cut short by closing', packet(0x10, text('MQTT'), 4, 2, 0, 0), ''],
      ['a packet of nothing by closing', packet(0x10), '']
    ]
    for (const [what, connect, answer] of refusals) {
      test(`Broker refuses ${what}`, async t => {
        const running = await startServer(t)
        const { raw, connack } = await arrive(t, running, connect)
        assert.equal(connack.toString('hex'), answer)
        await raw.closed
        assert.equal(running.server.clients.clientCount, 0)
      })
    }

    const welcome: readonly [string, Buffer, Partial<ClientInfo>][] = [
      ['MQTT 3.1', connectPacket({ name: 'MQIsdp', level: 3, id: 'old' }), { clientId: 'old', protocolVersion: 3 }],
      ['a bridge, which sets the top bit of its level', connectPacket({ level: 0x84 }), { protocolVersion: 4 }],
      ['the longest client id', connectPacket({ id: 'x'.repeat(1024) }), { clientId: 'x'.repeat(1024) }],
      ['a session that stays', connectPacket({ clean: false, keepAlive: 60 }), { cleanSession: false, keepAlive: 60 }],
      ['the id "constructor" (GHSA-52qw-whmv-87c5)', connectPacket({ id: 'constructor' }), { clientId: 'constructor' }],
      ['the id "__proto__"', connectPacket({ id: '__proto__', clean: false }), { clientId: '__proto__' }]
    ]
    for (const [what, connect, expected] of welcome) {
      test(`Broker takes ${what}`, async t => {
        const running = await startServer(t)
        const raw = await join(t, running, connect)
        raw.send(pingreq)
        assert.deepEqual(await raw.read(2), pingresp)
        const [info] = running.server.clients.clients()
        for (const [key, value] of Object.entries(expected)) assert.equal(info![key as keyof ClientInfo], value)
        assert.equal(running.server.clients.client(info!.clientId), info)
        raw.send(disconnect)
        await raw.closed
        await until('gone', () => running.server.clients.clientCount === 0)
      })
    }

    test('Broker gives an id to a client that has none and wants no session [MQTT-3.1.3-6]', async t => {
      const running = await startServer(t)
      for (let i = 0; i < 2; i++) await join(t, running, connectPacket({ id: '' }))
      await until('both', () => running.server.clients.clientCount === 2)
      for (const { clientId } of running.server.clients.clients()) assert.match(clientId, /^auto-[0-9a-f-]{36}$/)
    })

    test('Broker closes over a second CONNECT [MQTT-3.1.0-2]', async t => {
      const running = await startServer(t)
      const raw = await join(t, running)
      raw.send(connectPacket())
      await raw.closed
      const early = await RawClient.connect(t, running)
      early.send(connectPacket(), connectPacket())
      assert.deepEqual(await early.read(5), Buffer.from([0x20, 2, 0, 0]), 'the first was good')
    })
  })

  describe('one client id', { concurrency: 3 }, () => {
    test('Broker leaves one of five that race with one client id, whatever authentication takes', async t => {
      const running = await startServer(t)
      const told = facts(running)
      hook(running, 'client.authenticate', async () => {
        await sleep(Math.random() * 30)
        return 'allow' as const
      })
      for (const clean of [true, false]) {
        const racing = await Promise.all(Array.from({ length: 5 }, () => RawClient.connect(t, running)))
        let closed = 0
        for (const raw of racing) {
          void raw.closed.then(() => closed++)
          raw.send(connectPacket({ clean }))
        }
        await until('four are gone', () => closed === 4)
        await sleep(60)
        assert.equal(closed, 4)
        const left = racing.find(raw => !raw.socket.destroyed)!
        assert.equal((await left.read(4))[3], 0)
        left.send(pingreq)
        assert.deepEqual(await left.read(2), pingresp)
        assert.equal(running.server.clients.clientCount, 1)
        assert.equal(running.server.clients.connectionCount, 1)
        left.send(disconnect)
        await left.closed
      }
      await until('all told', () => told.length === 20)
      const count = (fact: string): number => told.filter(f => f === `raw ${fact}`).length
      assert.deepEqual([count('connected'), count('takeover'), count('normal')], [10, 8, 2])
    })

    test('Broker holds up no client for others that only claim its client id', async t => {
      const hooks = new Hooks(createLog(), { timeoutMs: hangMs })
      let judged = 0
      hooks.scope('test').on('client.authenticate', ({ username }) => {
        if (username === 'owner') return 'allow'
        judged++
        return new Promise(() => {})
      })
      const to = await bare(t, hooks)
      const claims = await Promise.all([1, 2, 3].map(() => RawClient.connect(t, to)))
      for (const raw of claims) raw.send(fullConnect({ id: 'meter' }))
      await until('all are being judged', () => judged === 3)
      await join(t, to, fullConnect({ id: 'meter', username: 'owner' }))
      assert.ok(
        claims.every(({ socket }) => !socket.destroyed && socket.bytesRead === 0),
        'they wait still'
      )
    })

    test('Broker keeps the subscriptions of a session that is taken over [MQTT-3.1.4-2]', async t => {
      const running = await startServer(t)
      const first = await join(t, running, connectPacket({ clean: false }))
      first.send(subscribePacket([['t/1', 1]]))
      await first.readPacket()
      const { raw: second, connack } = await arrive(t, running, connectPacket({ clean: false }))
      await first.closed
      assert.deepEqual(connack, connackOf(0, 1))
      await running.server.clients.publish({ topic: 't/1', payload: Buffer.from('x'), qos: 0, retain: false })
      assert.deepEqual(await second.readPacket(), publishPacket('t/1', 'x'))
    })

    test('Broker forgets the session of an earlier client when the next wants a clean one [MQTT-3.1.2-6]', async t => {
      const running = await startServer(t)
      const first = await join(t, running, connectPacket({ clean: false }))
      first.send(subscribePacket([['t', 1]]))
      await first.readPacket()
      await join(t, running, connectPacket({ clean: true }))
      const { connack } = await arrive(t, running, connectPacket({ clean: false }))
      assert.deepEqual(connack, connackOf(0, 0))
    })

    test('Broker sends the will of a client that is taken over', async t => {
      const running = await startServer(t)
      const got = await watch(t, running)
      await join(t, running, fullConnect({ will: { topic: 'will' } }))
      await join(t, running)
      await until('will', () => got.includes('will=will'))
    })
  })

  describe('hooks', { concurrency: 3 }, () => {
    test('Broker tells each fact once, in order, with its reason', async t => {
      const running = await startServer(t)
      const told = facts(running)
      const ends: readonly [string, string, (raw: RawClient) => void][] = [
        ['polite', 'normal', raw => raw.send(disconnect)],
        ['rude', 'closed', raw => void raw.socket.resetAndDestroy()],
        ['victim', 'kicked', () => void running.admin.call('clients kick', { clientId: 'victim' })],
        ['silent', 'keepalive_timeout', () => {}],
        ['broken', 'protocol_error', raw => raw.send(0)]
      ]
      for (const [id, , end] of ends) {
        const raw = await join(t, running, connectPacket({ id, keepAlive: id === 'silent' ? 1 : 0 }))
        await until(id, () => told.includes(`${id} connected`))
        end(raw)
        await raw.closed
        await until(`${id} is gone`, () => told.filter(f => f.startsWith(`${id} `)).length === 2)
      }
      await sleep(20)
      assert.deepEqual(
        told,
        ends.flatMap(([id, reason]) => [`${id} connected`, `${id} ${reason}`])
      )
    })

    test('Broker tells of subscriptions that were granted, with their QoS', async t => {
      const running = await startServer(t, { acl: '{deny, all, subscribe, ["no"]}.' })
      const told = facts(running)
      const raw = await join(t, running)
      const filters = { a: 1, no: 0, 'b/+': 2 }
      raw.send(subscribePacket(Object.entries(filters)))
      assert.deepEqual(await raw.readPacket(), Buffer.from([0x90, 5, 0, 1, 1, 0x80, 2]))
      raw.send(packet(0xa2, 0, 2, text('a')))
      await raw.readPacket()
      await until('facts', () => told.length === 4)
      assert.deepEqual(told, ['raw connected', 'raw +a 1', 'raw +b/+ 2', 'raw -a'])
    })

    test('Broker tells nothing of a client that was never in', async t => {
      const running = await startServer(t, { conf: 'mqtt.allow_anonymous = false' })
      const told = facts(running)
      await arrive(t, running)
      await arrive(t, running, connectPacket({ level: 5 }))
      await until('gone', () => running.server.clients.connectionCount === 0)
      assert.deepEqual(told, [])
    })

    test('message.publish changes topic, payload and retain, and drops', async t => {
      const running = await startServer(t)
      const from = new Set<string | undefined>()
      hook(running, 'message.publish', async message => {
        await sleep(1)
        from.add(message.from)
        if (message.topic === 'drop') return null
        return { ...message, topic: `seen/${message.topic}`, payload: Buffer.from(`${message.payload}!`), retain: true }
      })
      const got = await watch(t, running)
      const raw = await join(t, running)
      for (const qos of [0, 1, 2]) {
        raw.send(publishPacket('drop', 'x', { qos, id: 5 }), publishPacket('t', `${qos}`, { qos, id: 7 + qos }))
      }
      const acknowledgements = (await raw.read(16)).toString('hex').match(/.{8}/g)!
      assert.deepEqual(acknowledgements.sort(), ['40020005', '40020008', '50020005', '50020009'])
      await settled(running, got)
      assert.deepEqual([...got].sort(), ['seen/t=0!', 'seen/t=1!', 'seen/t=2!', 'settled='])
      assert.deepEqual([...from], ['raw'])
      raw.send(subscribePacket([['seen/#', 0]]))
      await raw.readPacket()
      assert.equal((await raw.readPacket())[0]! & 0xf1, 0x31, 'it is retained')
    })

    test('message.publish cannot change what acknowledges the publish: its QoS', async t => {
      const running = await startServer(t)
      hook(running, 'message.publish', message => ({ ...message, qos: message.qos === 0 ? 1 : 0 }))
      const raw = await join(t, running)
      raw.send(publishPacket('t', 'x', { qos: 1, id: 9 }), publishPacket('t', 'x'), pingreq)
      const answers = (await raw.read(6)).toString('hex').match(/40020009|d000/g)!
      assert.deepEqual(answers.sort(), ['40020009', 'd000'])
    })

    test('message.publish that gives a bad topic loses that message and nothing else', async t => {
      const running = await startServer(t)
      hook(running, 'message.publish', message => ({ ...message, topic: message.payload.toString() }))
      const got = await watch(t, running)
      const raw = await join(t, running)
      for (const topic of ['', 'a/#', 'good']) raw.send(publishPacket('t', topic, { qos: 1, id: 3 }))
      assert.deepEqual(await raw.read(12), Buffer.concat([puback(3), puback(3), puback(3)]))
      await settled(running, got)
      assert.deepEqual(got, ['good=good', 'settled='])
      assert.equal(running.log.filter(line => line.includes('bad topic')).length, 2)
    })

    test('message.publish that drops is not the ACL that denies: nobody is disconnected', async t => {
      const running = await startServer(t, { conf: 'mqtt.acl_deny_action = disconnect' })
      hook(running, 'message.publish', () => null)
      const raw = await join(t, running)
      raw.send(publishPacket('t', 'x', { qos: 1, id: 3 }))
      assert.deepEqual(await raw.read(4), puback(3))
      raw.send(pingreq)
      assert.deepEqual(await raw.read(2), pingresp)
    })

    test('message.publish is asked about wills', async t => {
      const running = await startServer(t)
      hook(running, 'message.publish', message => (message.topic === 'w' ? { ...message, topic: 'changed' } : null))
      const got = await watch(t, running)
      for (const topic of ['w', 'x']) {
        ;(await join(t, running, fullConnect({ id: topic, will: { topic } }))).socket.destroy()
      }
      await until('gone', () => running.server.clients.connectionCount === 1)
      await settled(running, got)
      assert.deepEqual(got, ['changed=will', 'settled='])
    })
  })

  describe('authentication', { concurrency: 3 }, () => {
    for (const [anonymous, code] of [
      ['local', 0],
      ['true', 0],
      ['false', 4]
    ] as const) {
      test(`allow_anonymous = ${anonymous} answers a client of this host with ${code}`, async t => {
        const running = await startServer(t, { conf: `mqtt.allow_anonymous = ${anonymous}` })
        const { raw, connack } = await arrive(t, running)
        assert.deepEqual(connack, connackOf(code))
        if (code !== 0) await raw.closed
      })
    }

    test('allow_anonymous counts no more once there is an authenticator', async t => {
      const running = await startServer(t, { conf: 'mqtt.allow_anonymous = true' })
      authenticate(running, { alice: 'allow', root: 'superuser', mallory: 'deny', nobody: 'ignore' })
      for (const [username, code] of Object.entries({ alice: 0, root: 0, mallory: 4, nobody: 4, unknown: 4 })) {
        assert.deepEqual((await arrive(t, running, fullConnect({ username }))).connack, connackOf(code), username)
      }
      assert.deepEqual((await arrive(t, running)).connack, connackOf(4))
      running.server.hooks.release('test')
      assert.deepEqual((await arrive(t, running)).connack, connackOf(0))
    })

    test('Broker gives an authenticator the name, the password and where the client comes from', async t => {
      const running = await startServer(t)
      const seen: { info: ClientInfo; password: Buffer | undefined }[] = []
      hook(running, 'client.authenticate', (info, password) => {
        seen.push({ info, password })
        return 'allow'
      })
      await join(t, running, fullConnect({ id: 'c', username: 'u', password: 'p', keepAlive: 7, clean: false }))
      await join(t, running, fullConnect({ id: 'd', username: '' }))
      await join(t, running, fullConnect({ id: 'e' }))
      const { connectedAt, peer, ...rest } = seen[0]!.info
      assert.deepEqual(rest, {
        clientId: 'c',
        username: 'u',
        local: true,
        listener: 'tcp:test',
        cleanSession: false,
        keepAlive: 7,
        protocolVersion: 4
      })
      assert.equal(peer.address, '127.0.0.1')
      assert.ok(connectedAt.getTime() <= Date.now())
      assert.deepEqual(
        seen.map(({ info: { username }, password }) => [username, password?.toString()]),
        [
          ['u', 'p'],
          ['', undefined],
          [undefined, undefined]
        ]
      )
    })

    const failing: readonly [string, Handler<'client.authenticate'>][] = [
      ['throws', () => assert.fail('no database')],
      ['rejects', () => Promise.reject(new Error('no database'))],
      ['is late', () => new Promise(() => {})]
    ]
    for (const [how, handler] of failing) {
      test(`Broker answers CONNACK 3 when an authenticator ${how}`, async t => {
        const hooks = new Hooks(createLog(), { timeoutMs: 50 })
        hooks.scope('test').on('client.authenticate', handler)
        const { raw, connack } = await arrive(t, await bare(t, hooks))
        assert.deepEqual(connack, connackOf(3))
        await raw.closed
      })
    }
  })

  describe('authorization', { concurrency: 3 }, () => {
    const acl = `
      {allow, {client, "watcher"}, subscribe, ["#", "$SYS/#"]}.
      {deny, all, publish, ["no/#"]}.
      {deny, all, subscribe, ["secret/#"]}.
      {allow, all}.`

    test('Broker acknowledges a denied publish and drops it, and the client stays', async t => {
      const running = await startServer(t, { acl })
      const got = await watch(t, running)
      const raw = await join(t, running)
      for (const qos of [0, 1, 2]) raw.send(publishPacket('no/x', 'x', { qos, id: 4 }))
      assert.deepEqual([(await raw.readPacket())[0], (await raw.readPacket())[0]].sort(), [0x40, 0x50])
      raw.send(packet(0x62, 0, 4))
      assert.deepEqual(await raw.readPacket(), Buffer.from([0x70, 2, 0, 4]))
      raw.send(publishPacket('yes', 'x', { qos: 1, id: 5 }))
      assert.deepEqual(await raw.readPacket(), puback(5))
      await settled(running, got)
      assert.deepEqual(got, ['yes=x', 'settled='])
      assert.ok(running.log.some(line => /denied .*action=publish topic=no\/x by=acl.conf:3/.test(line)))
    })

    test('acl_deny_action = disconnect closes over a denied publish', async t => {
      const running = await startServer(t, { acl, conf: 'mqtt.acl_deny_action = disconnect' })
      const told = facts(running)
      const got = await watch(t, running)
      for (const qos of [0, 1, 2]) {
        const raw = await join(t, running)
        raw.send(publishPacket('no/x', 'x', { qos, id: 4 }))
        assert.equal((await raw.read(1)).length, 0)
      }
      await settled(running, got)
      assert.deepEqual(got, ['settled='])
      assert.equal(told.filter(f => f === 'raw not_authorized').length, 3)
    })

    test('Broker sends what was denied to nobody, subscribers to $SYS included', async t => {
      const running = await startServer(t, { acl })
      const got = await watch(t, running, ['#', '$SYS/#'])
      const raw = await join(t, running)
      for (let i = 0; i < 5; i++) raw.send(publishPacket('no/x', 'x', { qos: 1, id: 4 }))
      await raw.read(20)
      await settled(running, got)
      assert.deepEqual(withoutOwn(got), ['settled='])
    })

    test('Broker answers 0x80 for a denied filter, and only for that one [MQTT-3.9.3-2]', async t => {
      const running = await startServer(t, { acl })
      const raw = await join(t, running)
      raw.send(subscribePacket(Object.entries({ 'secret/1': 1, ok: 1, '#': 0, 'ok/2': 2 }), 6))
      assert.deepEqual(await raw.readPacket(), Buffer.from([0x90, 6, 0, 6, 0x80, 1, 0x80, 2]))
      const publisher = await client(t, running)
      for (const topic of ['secret/1', 'other', 'ok']) await publish(publisher, topic)
      assert.match((await raw.readPacket()).toString('latin1'), /ok/)
    })

    for (const slow of [false, true]) {
      test(`Broker keeps no denied filter in a session, judged ${slow ? 'late' : 'at once'}`, async t => {
        const running = await startServer(t)
        hook(running, 'client.authorize', (_client, action, topic) => {
          const verdict = action === 'subscribe' && topic === 'secret' ? 'deny' : 'allow'
          return slow ? sleep(topic === 'secret' ? 20 : 1, verdict) : verdict
        })
        const connect = connectPacket({ clean: false })
        const raw = await join(t, running, connect)
        raw.send(subscribePacket(Object.entries({ ok: 1, secret: 1 })))
        assert.deepEqual(await raw.readPacket(), Buffer.from([0x90, 4, 0, 1, 1, 0x80]))
        raw.send(disconnect)
        await raw.closed
        const publisher = await client(t, running)
        for (const topic of ['secret', 'ok']) await publish(publisher, topic)
        const { raw: again, connack } = await arrive(t, running, connect)
        assert.deepEqual(connack, connackOf(0, 1))
        assert.match((await again.readPacket()).toString('latin1'), /ok/)
        again.send(pingreq)
        assert.deepEqual(await again.read(2), pingresp)
      })
    }

    test('Broker stores nothing of a denied retained publish, and leaves what is stored', async t => {
      const running = await startServer(t, { acl: '{deny, {user, "guest"}, publish, ["kept"]}.' })
      await (await client(t, running)).publishAsync('kept', 'good', { qos: 1, retain: true })
      const raw = await join(t, running, fullConnect({ username: 'guest' }))
      for (const payload of ['bad', '']) raw.send(publishPacket('kept', payload, { qos: 1, retain: true }))
      await raw.read(8)
      raw.send(subscribePacket([['kept', 0]]))
      await raw.readPacket()
      assert.deepEqual(await raw.readPacket(), publishPacket('kept', 'good', { retain: true }))
    })

    test('Broker does not send a denied will, whichever way its client goes', async t => {
      const running = await startServer(t, { acl })
      const got = await watch(t, running, ['#', '$SYS/#'])
      for (const end of ['end', 'destroy', 'resetAndDestroy'] as const) {
        const raw = await join(t, running, fullConnect({ id: end, will: { topic: 'no/will' } }))
        raw.socket[end]()
      }
      const raw = await join(t, running, fullConnect({ id: 'allowed', will: { topic: 'will' } }))
      raw.socket.destroy()
      await until('gone', () => running.server.clients.connectionCount === 1)
      await settled(running, got)
      assert.deepEqual(withoutOwn(got), ['will=will', 'settled='])
    })

    test('Broker takes nothing for $SYS/ from a client, whatever the ACL says and whoever it is', async t => {
      const running = await startServer(t, { acl: '{allow, all}.' })
      authenticate(running, { root: 'superuser', alice: 'allow' })
      const got = await watch(t, running, ['#', '$SYS/#'])
      // To aedes this is another node's word that the client has moved there.
      const moved = { topic: '$SYS/x/new/clients', payload: 'watcher' }
      for (const username of ['root', 'alice']) {
        const raw = await join(t, running, fullConnect({ username, will: moved }))
        raw.send(publishPacket(moved.topic, moved.payload, { qos: 1, id: 2 }))
        assert.deepEqual(await raw.readPacket(), puback(2))
        raw.socket.destroy()
      }
      await until('gone', () => running.server.clients.connectionCount === 1)
      await settled(running, got)
      assert.deepEqual(withoutOwn(got), ['settled='])
    })

    test('Broker asks neither acl.conf nor plugins about a superuser', async t => {
      const running = await startServer(t, { acl: '{deny, all}.' })
      authenticate(running, { root: 'superuser', alice: 'allow' })
      hook(running, 'client.authorize', () => 'deny')
      const got = await watch(t, running)
      for (const username of ['alice', 'root']) {
        const raw = await join(t, running, fullConnect({ id: username, username }))
        raw.send(publishPacket('t', username, { qos: 1 }))
        await raw.readPacket()
      }
      await settled(running, got)
      assert.deepEqual(got, ['t=root', 'settled='])
    })

    test('Broker asks plugins before acl.conf, which decides what they ignore; a failure denies', async t => {
      const running = await startServer(t, {
        acl: '{allow, all, publish, ["file", "fails"]}. {deny, all, publish, "#"}.'
      })
      hook(running, 'client.authorize', (_client, _action, topic) => {
        if (topic === 'fails') throw new Error('no database')
        return topic === 'plugin' ? 'allow' : 'ignore'
      })
      const got = await watch(t, running)
      const raw = await join(t, running)
      for (const topic of ['plugin', 'file', 'other', 'fails']) raw.send(publishPacket(topic, 'x'))
      await until('two', () => got.length === 2)
      await settled(running, got)
      assert.deepEqual([...got].sort(), ['file=x', 'plugin=x', 'settled='])
    })

    test('acl_nomatch decides where no rule does', async t => {
      for (const [nomatch, code] of Object.entries({ allow: 0, deny: 0x80 })) {
        const running = await startServer(t, { conf: `mqtt.acl_nomatch = ${nomatch}` })
        const raw = await join(t, running)
        raw.send(subscribePacket([['t', 0]]))
        assert.equal((await raw.readPacket())[4], code)
      }
    })
  })

  describe('cached verdicts', { concurrency: 3 }, () => {
    /** Whether a publish to `t` gets through now. */
    async function passes(running: Running, raw: RawClient, got: string[]): Promise<boolean> {
      const before = got.length
      raw.send(publishPacket('t', 'x', { qos: 1 }))
      await raw.readPacket()
      await running.server.clients.publish({ topic: 'mark', payload: Buffer.alloc(0), qos: 0, retain: false })
      await until('mark', () => got.at(-1) === 'mark=' && got.length > before)
      return got.length - before === 2
    }

    test('Access.reloadAcl() forgets them: what acl.conf says now counts at once', async t => {
      const running = await startServer(t)
      const got = await watch(t, running)
      const raw = await join(t, running)
      assert.equal(await passes(running, raw, got), true)
      writeFileSync(running.home.path('etc/acl.conf'), '{deny, all, publish, ["t"]}.')
      assert.equal(await passes(running, raw, got), true)
      assert.deepEqual(await running.admin.call('acl reload', {}), { rules: 1 })
      assert.equal(await passes(running, raw, got), false)
      writeFileSync(running.home.path('etc/acl.conf'), '')
      await running.admin.call('acl reload', {})
      assert.equal(await passes(running, raw, got), true)
    })

    test('Access.reloadAcl() keeps the rules in force when the file is broken, and says where', async t => {
      const running = await startServer(t, { acl: '{deny, all, publish, ["t"]}.' })
      const got = await watch(t, running)
      const raw = await join(t, running)
      writeFileSync(running.home.path('etc/acl.conf'), '{allow, all}.\n{deny, everybody}.')
      await assert.rejects(running.admin.call('acl reload', {}), (err: BrokerError) => {
        assert.ok(err instanceof BrokerError)
        assert.equal(err.code, 'CONFIG_INVALID')
        assert.match(err.message, /acl\.conf:2:\d+: .*the rules in force stay$/s)
        return true
      })
      assert.equal(await passes(running, raw, got), false)
    })

    test('Access.forgetVerdicts() is called when a plugin comes or goes', async t => {
      const running = await startServer(t)
      const got = await watch(t, running)
      const raw = await join(t, running)
      assert.equal(await passes(running, raw, got), true)
      const denying = plugin({
        name: 'denying',
        description: 'Denies',
        prefix: 'denying',
        options: {},
        start({ hooks }) {
          hooks.on('client.authorize', (_client, action) => (action === 'publish' ? 'deny' : 'ignore'))
          return undefined
        }
      })
      await running.server.plugins.adopt(denying)
      assert.equal(await passes(running, raw, got), false)
      await running.server.plugins.unload('denying')
      assert.equal(await passes(running, raw, got), true)
    })

    test('Access.authorize() keeps a verdict for acl_cache.ttl, and a failure not at all', async t => {
      const running = await startServer(t, { conf: 'mqtt.acl_cache.ttl = 500ms' })
      const got = await watch(t, running)
      let asked = 0
      let works = false
      hook(running, 'client.authorize', () => {
        asked++
        if (works) return 'allow'
        throw new Error('no database')
      })
      const raw = await join(t, running)
      assert.equal(await passes(running, raw, got), false)
      works = true
      assert.equal(await passes(running, raw, got), true)
      assert.equal(asked, 2)
      // A machine that is slow for a moment may take so long for a round that the verdict is too old within it.
      for (let tookMs = Infinity; tookMs > 450; ) {
        await sleep(550)
        const before: number = asked
        const began = performance.now()
        await passes(running, raw, got)
        assert.equal(asked, before + 1, 'it has forgotten')
        await passes(running, raw, got)
        tookMs = performance.now() - began
        if (tookMs <= 450) assert.equal(asked, before + 1, 'it remembers')
      }
    })

    test('cache_acl = off asks each time', async t => {
      const running = await startServer(t, { conf: 'mqtt.cache_acl = off' })
      const got = await watch(t, running)
      let asked = 0
      hook(running, 'client.authorize', () => {
        asked++
        return 'allow'
      })
      const raw = await join(t, running)
      for (let i = 0; i < 3; i++) await passes(running, raw, got)
      assert.equal(asked, 3)
    })
  })

  describe('filters and topics', { concurrency: 3 }, () => {
    for (const filter of ['a#', '+a', 'a+', 'a/#/b', 'a/+b', '', 'a\0b', '$share/g', '$share/g/a#', '#/']) {
      test(`Broker closes over the filter ${JSON.stringify(filter)} [MQTT-4.7.1-2] [MQTT-4.7.1-3]`, async t => {
        const running = await startServer(t)
        const raw = await join(t, running)
        raw.send(subscribePacket(Object.entries({ fine: 0, [filter]: 0 })))
        await raw.closed
      })
    }

    for (const topic of ['a/#', '+', '', 'a\0b']) {
      test(`Broker closes over a publish to ${JSON.stringify(topic)} [MQTT-3.3.2-2] [MQTT-4.7.3-2]`, async t => {
        const running = await startServer(t)
        const got = await watch(t, running)
        const raw = await join(t, running)
        raw.send(publishPacket(topic, 'x', { qos: 1 }))
        assert.equal((await raw.read(1)).length, 0)
        await settled(running, got)
        assert.deepEqual(got, ['settled='])
      })
    }

    test('Broker grants $share/, $queue/ and $local/ in the order of the packet', async t => {
      const running = await startServer(t)
      const raw = await join(t, running)
      raw.send(subscribePacket(Object.entries({ '$share/g/t': 1, t: 1, '$queue/t': 0, '$local/t': 0 })))
      assert.deepEqual(await raw.readPacket(), Buffer.from([0x90, 6, 0, 1, 1, 1, 0, 0]))
    })

    test('Broker takes filters named "constructor" and "__proto__" (GHSA-52qw-whmv-87c5)', async t => {
      const running = await startServer(t)
      const raw = await join(t, running, connectPacket({ clean: false }))
      const filters: [string, number][] = [
        ['constructor', 0],
        ['__proto__', 1],
        ['a/__proto__/#', 0]
      ]
      raw.send(subscribePacket(filters))
      assert.deepEqual(await raw.readPacket(), Buffer.from([0x90, 5, 0, 1, 0, 1, 0]))
      await running.server.clients.publish({ topic: '__proto__', payload: Buffer.from('x'), qos: 0, retain: false })
      assert.deepEqual(await raw.readPacket(), publishPacket('__proto__', 'x'))
    })
  })

  describe('the broker itself', { concurrency: 3 }, () => {
    test('Ingress.publish() asks no ACL and no hook, and retains', async t => {
      const running = await startServer(t, { acl: '{deny, all, publish, ["#"]}.' })
      hook(running, 'message.publish', () => null)
      const { clients } = running.server
      await clients.publish({ topic: 't', payload: Buffer.from('x'), qos: 1, retain: true })
      await clients.publish({ topic: '$SYS/own', payload: Buffer.from('y'), qos: 0, retain: true })
      const raw = await join(t, running)
      for (const [topic, payload] of Object.entries({ t: 'x', '$SYS/own': 'y' })) {
        raw.send(subscribePacket([[topic, 0]]))
        await raw.readPacket()
        assert.deepEqual(await raw.readPacket(), publishPacket(topic, payload, { retain: true }))
      }
    })

    test('Ingress.publish() refuses what is no topic', async t => {
      const { server } = await startServer(t)
      for (const topic of ['', 'a/#', 'a/+/b', 'a\0', Array(200).fill('x').join('/')]) {
        const message = { topic, payload: Buffer.alloc(0), qos: 0, retain: false } as const
        await assert.rejects(server.clients.publish(message), { name: 'BrokerError', code: 'BAD_REQUEST' })
      }
    })

    test('ClientManager.kick() ends a connection and sends its will; an unknown client is NOT_FOUND', async t => {
      const running = await startServer(t)
      const got = await watch(t, running)
      const raw = await join(t, running, fullConnect({ will: { topic: 'will' } }))
      await until('in', () => running.server.clients.clientCount === 2)
      assert.deepEqual(await running.admin.call('clients kick', { clientId: 'raw' }), { client_id: 'raw' })
      await raw.closed
      await until('will', () => got.includes('will=will'))
      for (const clientId of ['raw', 'constructor', '__proto__', 'nobody']) {
        const kicked = running.admin.call('clients kick', { clientId })
        await assert.rejects(kicked, { code: 'NOT_FOUND', message: 'Not Found.' })
        assert.throws(() => running.server.clients.client(clientId), { code: 'NOT_FOUND' })
      }
    })

    test('ClientManager.clients() is in the order of the ids', async t => {
      const running = await startServer(t)
      for (const id of ['b', 'c', 'a', 'B']) await join(t, running, connectPacket({ id }))
      await until('in', () => running.server.clients.clientCount === 4)
      const ids = running.server.clients.clients().map(({ clientId }) => clientId)
      assert.deepEqual(ids, ['B', 'a', 'b', 'c'])
    })

    test("Server.stop('drain') sends what is written before it closes", async t => {
      const running = await startServer(t)
      const raw = await join(t, running)
      raw.send(subscribePacket([['t', 0]]))
      await raw.readPacket()
      raw.socket.pause()
      const count = 12
      const payload = Buffer.alloc(60_000, 'x') // together less than what may wait for a slow reader
      for (let i = 0; i < count; i++) {
        void running.server.clients.publish({ topic: 't', payload, qos: 0, retain: false })
      }
      await sleep(100)
      const stopped = running.server.stop('drain', hangMs)
      raw.socket.resume()
      for (let i = 0; i < count; i++) assert.equal((await raw.readPacket()).length, payload.length + 7)
      await stopped
      await raw.closed
    })

    test('Server.stop() ends every connection and tells its hooks of it', async t => {
      const running = await startServer(t)
      const told = facts(running)
      const raw = await join(t, running)
      await until('in', () => running.server.clients.clientCount === 1)
      await running.server.stop()
      await raw.closed
      assert.deepEqual(told, ['raw connected', 'raw shutdown'])
    })

    test('Broker keeps nothing of clients that are gone', async t => {
      const running = await startServer(t)
      const { clients } = running.server
      for (let round = 0; round < 10; round++) {
        await Promise.all(
          Array.from({ length: 20 }, async (_, i) => {
            const id = i % 4 === 0 ? 'same' : `c${i}`
            const { raw } = await arrive(t, running, fullConnect({ id, clean: i % 2 === 0, will: { topic: 'w' } }))
            if (i % 3 === 0) raw.send(subscribePacket([[`t/${i}`, 1]]), publishPacket('t/3', 'x', { qos: 1 }))
            if (i % 5 === 0) raw.socket.resetAndDestroy()
            else raw.socket.end(disconnect)
            await raw.closed
          })
        )
      }
      await until('all gone', () => clients.connectionCount === 0 && clients.clientCount === 0)
      assert.deepEqual(clients.clients(), [])
      await until('listener', () => running.server.listeners[0]!.info().currentClients === 0)
    })
  })
})

/** A broker on a port of its own, with hooks that the test made. */
async function bare(t: TestContext, hooks: Hooks): Promise<{ port: number }> {
  const { mqtt } = optionsFrom(brokerSchema)
  const log = createLog()
  const broker = await ClientManager.create(
    mqtt,
    new Access(mqtt, () => new AclRules([]), hooks, log),
    hooks,
    log,
    new Alarms(log)
  )
  const server = net.createServer(socket => {
    broker.establish(socket, {
      peer: { address: '127.0.0.1', port: socket.remotePort! },
      local: true,
      listener: 'tcp:test',
      certificateName: undefined,
      mountpoint: '',
      sendTimeout: hangMs,
      sendTimeoutClose: true,
      rateLimit: undefined,
      ended() {}
    })
  })
  server.listen(0, '127.0.0.1')
  await next(server, 'listening')
  t.after(async () => {
    server.close()
    await broker.close()
  })
  return { port: (server.address() as net.AddressInfo).port }
}
