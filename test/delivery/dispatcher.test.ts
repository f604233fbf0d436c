import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { Hub, ShareStrategy } from '../../src/delivery/dispatcher.js'
import { Message } from '../../src/delivery/message.js'
import { Session } from '../../src/delivery/session/session.js'
import type { QoS } from '../../src/wire/frame.js'
import { encodeProperties } from '../../src/wire/properties.js'
import { hubOf } from '../support/dispatcher.js'
import { Peer, payloads } from '../support/packets.js'

interface Member {
  readonly session: Session
  readonly peer: Peer
}

/** A connected client with one subscription. */
function member(hub: Hub, clientId: string, filter: string, maxInflight = 32, maxQueued = 0): Member {
  const session = new Session(clientId, { maxInflight, maxQueued, storeQos0: false })
  hub.subscribe({ subscriber: session, filter, qos: 2, noLocal: false, retainAsPublished: false, identifier: 0 })
  const peer = new Peer()
  session.attach(peer)
  return { session, peer }
}

const message = (payload: string, topic = 't', from?: string, qos: QoS = 1): Message =>
  Message.of(topic, Buffer.from(payload), { qos, from })

const publish = (hub: Hub, names: Iterable<string>): void => {
  for (const name of names) hub.route(message(name))
}

const taken = ({ peer }: Member): string => payloads(peer.taken()).join('')

test('Hub.route() takes the members of a group in turn with round_robin', () => {
  const hub = hubOf()
  const members = ['a', 'b', 'c'].map(id => member(hub, id, '$share/g/t'))
  publish(hub, '012345')
  assert.deepEqual(members.map(taken).toSorted(), ['03', '14', '25'])
})

test('Hub.route() stays with one member with sticky, though others leave', () => {
  const hub = hubOf({ shareStrategy: 'sticky' })
  const [a, b, c] = ['a', 'b', 'c'].map(id => member(hub, id, '$share/g/t')) as [Member, Member, Member]
  publish(hub, '01')
  assert.equal(taken(a), '01')
  a.session.detach()
  b.session.detach()
  publish(hub, '23')
  assert.equal(taken(c), '23')
  hub.end(a.session)
  b.session.attach(b.peer)
  publish(hub, '45')
  assert.deepEqual([taken(b), taken(c)], ['', '0145'], 'and what the one that left had not acknowledged')
})

test('Hub.route() takes the member that the client id or the topic leads to with hash_clientid, hash_topic', () => {
  for (const shareStrategy of ['hash_clientid', 'hash_topic'] as const) {
    const hub = hubOf({ shareStrategy })
    const members = ['a', 'b', 'c'].map(id => member(hub, id, '$share/g/+'))
    const where = new Map<string, number>()
    for (let i = 0; i < 300; i++) {
      const [topic, from] = [`t${i % 20}`, `c${i % 30}`]
      hub.route(message('x', topic, from, 0))
      const at = members.findIndex(each => taken(each) !== '')
      const key = shareStrategy === 'hash_topic' ? topic : from
      assert.equal(where.get(key) ?? at, at, key)
      where.set(key, at)
    }
    assert.equal(new Set(where.values()).size, 3, 'everybody has some')
  }
})

test('Hub.route() takes any member with random', () => {
  const hub = hubOf({ shareStrategy: 'random' })
  const members = ['a', 'b'].map(id => member(hub, id, '$share/g/t', 0))
  for (let i = 0; i < 200; i++) hub.route(message('x'))
  const counts = members.map(each => taken(each).length)
  assert.equal(counts[0]! + counts[1]!, 200)
  assert.ok(Math.min(...counts) > 50, String(counts)) // fails once in 10^12 runs
})

const strategies: readonly ShareStrategy[] = ['random', 'round_robin', 'sticky', 'hash_clientid', 'hash_topic']

test('Hub.route() passes over members that are away or full, whatever the strategy', () => {
  for (const shareStrategy of strategies) {
    const hub = hubOf({ shareStrategy })
    const away = member(hub, 'away', '$share/g/t')
    const full = member(hub, 'full', '$share/g/t', 1)
    const free = member(hub, 'free', '$share/g/t')
    const slow = member(hub, 'slow', '$share/g/t')
    away.session.detach()
    full.session.deliver(message('-'), 1, false, undefined)
    slow.peer.stopReading()
    slow.session.deliver(message('-'.repeat(2_000_000)), 0, false, undefined)
    slow.peer.taken()
    publish(hub, '0123')
    assert.equal(taken(free), '0123', shareStrategy)
    assert.equal(away.session.queueLength + full.session.queueLength + slow.session.queueLength, 0)
  }
})

test('Hub.route() lets it wait in one member when no one can take it, sooner in one that is connected', () => {
  for (const shareStrategy of strategies) {
    const hub = hubOf({ shareStrategy })
    const members = ['a', 'b', 'c'].map(id => member(hub, id, '$share/g/t', 1))
    const [a, b, c] = members as [Member, Member, Member]
    a.session.detach()
    c.session.detach()
    publish(hub, '0123')
    assert.equal(b.session.queueLength, 3, shareStrategy)
    b.session.detach()
    publish(hub, '4')
    const queued = members.map(({ session }) => session.queueLength)
    assert.equal(queued[0]! + queued[1]! + queued[2]!, 4)
  }
})

test('Hub.end() gives what a member has not acknowledged to another, in order', () => {
  const hub = hubOf({ shareStrategy: 'sticky' })
  const a = member(hub, 'a', '$share/g/t', 2)
  publish(hub, '01234')
  a.session.acknowledged(1)
  const b = member(hub, 'b', '$share/g/t')
  a.session.detach()
  hub.end(a.session)
  assert.equal(taken(b), '1234')
  assert.equal(hub.router.size, 1)
  assert.equal(a.session.subscriptions.size, 0)
  hub.end(b.session) // the last: nobody is left to have it
  assert.equal(hub.router.size, 0)
  assert.equal(hub.route(message('5')), 0)
})

test('Hub.end() gives no other member a QoS 2 message that one was sent [MQTT-4.8.2-5]', () => {
  const hub = hubOf({ shareStrategy: 'sticky' })
  const a = member(hub, 'a', '$share/g/t', 1)
  for (const payload of ['sent', 'waits']) hub.route(Message.of('t', Buffer.from(payload), { qos: 2 }))
  const b = member(hub, 'b', '$share/g/t')
  hub.end(a.session)
  assert.equal(taken(b), 'waits')
})

test('Hub.end() keeps back what has expired meanwhile [MQTT-3.3.2-5]', (t: TestContext) => {
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000 })
  const hub = hubOf()
  const a = member(hub, 'a', '$share/g/t')
  const expiring = Message.of('t', Buffer.from('0'), { qos: 1 }, encodeProperties({ messageExpiryInterval: 10 }))
  expiring.expires(10, 1)
  hub.route(expiring)
  publish(hub, '1')
  const b = member(hub, 'b', '$share/g/t')
  t.mock.timers.tick(20_000)
  hub.end(a.session)
  assert.equal(taken(b), '1')
})

test('Hub.subscribe() makes a group of $queue/, and each group has its own copy', () => {
  const hub = hubOf()
  const queue = ['a', 'b'].map(id => member(hub, id, '$queue/t'))
  const group = ['c', 'd'].map(id => member(hub, id, '$share/g/t'))
  const other = member(hub, 'e', '$share/h/+')
  const plain = member(hub, 'f', 't')
  for (const name of '0123') assert.equal(hub.route(message(name)), 4)
  for (const members of [queue, group]) assert.deepEqual(members.map(taken).toSorted(), ['02', '13'])
  assert.equal(taken(other), '0123')
  assert.equal(taken(plain), '0123')
})

test('Hub.route() spares a client its own message if it is to be local nowhere [MQTT-3.8.3-3]', () => {
  for (const ignoreLoopDeliver of [false, true]) {
    const hub = hubOf({ ignoreLoopDeliver })
    const a = member(hub, 'a', 'other')
    const options = { subscriber: a.session, qos: 0, retainAsPublished: false, identifier: 0 } as const
    hub.subscribe({ ...options, filter: 't', noLocal: true })
    assert.equal(hub.route(message('0', 't', 'a')), 0)
    assert.equal(hub.route(message('1', 't', 'b')), 1)
    assert.equal(hub.route(message('2', 't')), 1)
    hub.subscribe({ ...options, filter: '#', noLocal: false })
    hub.route(message('3', 't', 'a'))
    assert.equal(taken(a), ignoreLoopDeliver ? '12' : '123')
  }
})

test('Hub.route() gives a client its own message by the filters that are not no-local alone [MQTT-3.8.3-3], [MQTT-3.3.4-4]', () => {
  const hub = hubOf()
  const a = member(hub, 'a', 'other')
  const heard = (from: string): unknown => {
    const at = a.peer.taken()
    hub.route(message('x', 't', from))
    return [...at, ...a.peer.taken()].map(({ qos, identifiers }) => [qos, identifiers?.toSorted()])
  }
  const options = { subscriber: a.session, retainAsPublished: false } as const
  hub.subscribe({ ...options, filter: 't', qos: 2, noLocal: true, identifier: 1 })
  hub.subscribe({ ...options, filter: '#', qos: 0, noLocal: false, identifier: 2 })
  assert.deepEqual([heard('a'), heard('b')], [[[0, [2]]], [[1, [1, 2]]]])
  hub.subscribe({ ...options, filter: '+', qos: 1, noLocal: false, identifier: 3 })
  assert.deepEqual(heard('a'), [[1, [2, 3]]])
  hub.unsubscribe(a.session, 't')
  assert.deepEqual(heard('a'), [[1, [2, 3]]])
})

test('Hub.route() keeps RETAIN for those that asked for it as published [MQTT-3.3.1-12] [MQTT-3.3.1-13]', () => {
  const hub = hubOf()
  const a = member(hub, 'a', 't')
  const b = member(hub, 'b', 'x')
  const options = { subscriber: b.session, filter: 't', qos: 1, noLocal: false, identifier: 0 } as const
  hub.subscribe({ ...options, retainAsPublished: true })
  hub.route(Message.of('t', Buffer.from('0'), { qos: 2, retain: true }))
  const [one] = a.peer.taken()
  const [two] = b.peer.taken()
  assert.deepEqual([one?.retain, one?.qos, two?.retain, two?.qos], [false, 2, true, 1])
})

test('Hub.retain() keeps to its limits', () => {
  const hub = hubOf({ maxRetained: 2, maxRetainedPayload: 3 })
  const retain = (topic: string, payload: string): boolean =>
    hub.retain(Message.of(topic, Buffer.from(payload), { retain: true }))
  assert.equal(retain('a', '123'), true)
  assert.equal(retain('a', '1234'), false)
  assert.equal(retain('b', '1'), true)
  assert.equal(retain('c', '1'), false)
  assert.equal(retain('a', '2'), true, 'one in the place of another')
  assert.equal(retain('c', ''), true)
  assert.equal(hub.retained.size, 2)
  assert.equal(retain('b', ''), true)
  assert.equal(retain('c', '1'), true)
  assert.deepEqual([...hub.retained.match('#')].map(({ topic, payload }) => topic + payload).toSorted(), ['a2', 'c1'])
  const free = hubOf()
  for (let i = 0; i < 100; i++) assert.equal(free.retain(message('x'.repeat(1000), `t/${i}`)), true)
  assert.equal(free.retained.size, 100)
})

test('Hub.retainedFor() has RETAIN, the lower QoS and the identifier (section 3.8.4)', () => {
  const hub = hubOf()
  for (const qos of [0, 1, 2] as const) hub.retain(message('x', `t/${qos}`, undefined, qos))
  const subscriber = new Session('a', { maxInflight: 0, maxQueued: 0, storeQos0: false })
  const options = { subscriber, noLocal: false, retainAsPublished: false }
  const found = (filter: string, qos: QoS, identifier: number) =>
    [...hub.retainedFor({ ...options, filter, qos, identifier })].map(each => {
      assert.equal(each.retain, true)
      return [each.message.topic, each.qos, each.identifiers?.[0]]
    })
  assert.deepEqual(found('t/+', 1, 5), [
    ['t/0', 0, 5],
    ['t/1', 1, 5],
    ['t/2', 1, 5]
  ])
  assert.deepEqual(found('t/2', 2, 0), [['t/2', 2, undefined]])
  assert.deepEqual(found('$local/t/2', 2, 0), [['t/2', 2, undefined]])
})

test('Hub.retainedFor() spares a no-local subscriber what it published itself [MQTT-3.8.3-3]', () => {
  const hub = hubOf({ shareStrategy: 'random' })
  const subscriber = new Session('c1', { maxInflight: 0, maxQueued: 0, storeQos0: true })
  for (const from of ['c1', 'c2']) hub.retain(Message.of(`t/${from}`, Buffer.from('x'), { retain: true, from }))
  const subscription = { subscriber, filter: 't/#', qos: 0, retainAsPublished: false, identifier: 0 } as const
  const topics = (noLocal: boolean): string[] =>
    [...hub.retainedFor({ ...subscription, noLocal })].map(({ message }) => message.topic)
  assert.deepEqual([topics(true), topics(false).sort()], [['t/c2'], ['t/c1', 't/c2']])
})

test('Hub.route() delivers at the lower QoS, and with upgradeQos at the higher', () => {
  for (const upgradeQos of [false, true]) {
    const hub = hubOf({ upgradeQos })
    const subscriber = new Session('c1', { maxInflight: 0, maxQueued: 0, storeQos0: true })
    const peer = new Peer()
    subscriber.attach(peer)
    hub.subscribe({ subscriber, filter: 't', qos: 1, noLocal: false, retainAsPublished: false, identifier: 0 })
    for (const qos of [0, 1, 2] as const) hub.route(Message.of('t', Buffer.from('x'), { qos }))
    assert.deepEqual(
      peer.taken().map(({ qos }) => qos),
      upgradeQos ? [1, 1, 2] : [0, 1, 1]
    )
  }
})

test('Hub.retain() keeps a message for retainExpiry, unless it has an expiry of its own', t => {
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000 })
  const hub = hubOf({ retainExpiry: 10_000 })
  hub.retain(Message.of('a', Buffer.from('x'), { retain: true }))
  const longer = Message.of('b', Buffer.from('x'), { retain: true }, encodeProperties({ messageExpiryInterval: 60 }))
  longer.expires(60, 1)
  hub.retain(longer)
  const topics = (): string[] => [...hub.retained.match('#')].map(({ topic }) => topic)
  assert.deepEqual(topics(), ['a', 'b'])
  t.mock.timers.setTime(1_011_000)
  assert.deepEqual(topics(), ['b'])
  assert.equal(hub.retained.size, 1)
})
