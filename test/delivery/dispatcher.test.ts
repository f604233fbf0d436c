import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { Dispatcher, ShareStrategy } from '../../src/delivery/dispatcher.js'
import { Message } from '../../src/delivery/message.js'
import { Session } from '../../src/delivery/session/session.js'
import type { QoS } from '../../src/wire/frame.js'
import { encodeProperties } from '../../src/wire/properties.js'
import { dispatcherOf, ingressTo } from '../support/dispatcher.js'
import { Peer, payloads } from '../support/packets.js'

interface Member {
  readonly session: Session
  readonly peer: Peer
}

/** A connected client with one subscription. */
function member(dispatcher: Dispatcher, clientId: string, filter: string, maxInflight = 32, maxQueued = 0): Member {
  const session = new Session(clientId, { maxInflight, maxQueued, storeQos0: false })
  dispatcher.subscribe({ subscriber: session, filter, qos: 2, noLocal: false, retainAsPublished: false, identifier: 0 })
  const peer = new Peer()
  session.attach(peer)
  return { session, peer }
}

const message = (payload: string, topic = 't', from?: string, qos: QoS = 1): Message =>
  Message.of(topic, Buffer.from(payload), { qos, from })

const publish = (dispatcher: Dispatcher, names: Iterable<string>): void => {
  for (const name of names) dispatcher.route(message(name))
}

const taken = ({ peer }: Member): string => payloads(peer.taken()).join('')

test('Dispatcher.route() takes the members of a group in turn with round_robin', () => {
  const dispatcher = dispatcherOf()
  const members = ['a', 'b', 'c'].map(id => member(dispatcher, id, '$share/g/t'))
  publish(dispatcher, '012345')
  assert.deepEqual(members.map(taken).toSorted(), ['03', '14', '25'])
})

test('Dispatcher.route() stays with one member with sticky, though others leave', () => {
  const dispatcher = dispatcherOf({ shareStrategy: 'sticky' })
  const [a, b, c] = ['a', 'b', 'c'].map(id => member(dispatcher, id, '$share/g/t')) as [Member, Member, Member]
  publish(dispatcher, '01')
  assert.equal(taken(a), '01')
  a.session.detach()
  b.session.detach()
  publish(dispatcher, '23')
  assert.equal(taken(c), '23')
  dispatcher.end(a.session)
  b.session.attach(b.peer)
  publish(dispatcher, '45')
  assert.deepEqual([taken(b), taken(c)], ['', '0145'], 'and what the one that left had not acknowledged')
})

test('Dispatcher.route() takes the member that the client id or the topic leads to with hash_clientid, hash_topic', () => {
  for (const shareStrategy of ['hash_clientid', 'hash_topic'] as const) {
    const dispatcher = dispatcherOf({ shareStrategy })
    const members = ['a', 'b', 'c'].map(id => member(dispatcher, id, '$share/g/+'))
    const where = new Map<string, number>()
    for (let i = 0; i < 300; i++) {
      const [topic, from] = [`t${i % 20}`, `c${i % 30}`]
      dispatcher.route(message('x', topic, from, 0))
      const at = members.findIndex(each => taken(each) !== '')
      const key = shareStrategy === 'hash_topic' ? topic : from
      assert.equal(where.get(key) ?? at, at, key)
      where.set(key, at)
    }
    assert.equal(new Set(where.values()).size, 3, 'everybody has some')
  }
})

test('Dispatcher.route() takes any member with random', () => {
  const dispatcher = dispatcherOf({ shareStrategy: 'random' })
  const members = ['a', 'b'].map(id => member(dispatcher, id, '$share/g/t', 0))
  for (let i = 0; i < 200; i++) dispatcher.route(message('x'))
  const counts = members.map(each => taken(each).length)
  assert.equal(counts[0]! + counts[1]!, 200)
  assert.ok(Math.min(...counts) > 50, String(counts)) // fails once in 10^12 runs
})

const strategies: readonly ShareStrategy[] = ['random', 'round_robin', 'sticky', 'hash_clientid', 'hash_topic']

test('Dispatcher.route() passes over members that are away or full, whatever the strategy', () => {
  for (const shareStrategy of strategies) {
    const dispatcher = dispatcherOf({ shareStrategy })
    const away = member(dispatcher, 'away', '$share/g/t')
    const full = member(dispatcher, 'full', '$share/g/t', 1)
    const free = member(dispatcher, 'free', '$share/g/t')
    const slow = member(dispatcher, 'slow', '$share/g/t')
    away.session.detach()
    full.session.deliver(message('-'), 1, false, undefined)
    slow.peer.stopReading()
    slow.session.deliver(message('-'.repeat(2_000_000)), 0, false, undefined)
    slow.peer.taken()
    publish(dispatcher, '0123')
    assert.equal(taken(free), '0123', shareStrategy)
    assert.equal(away.session.queueLength + full.session.queueLength + slow.session.queueLength, 0)
  }
})

test('Dispatcher.route() lets it wait in one member when no one can take it, sooner in one that is connected', () => {
  for (const shareStrategy of strategies) {
    const dispatcher = dispatcherOf({ shareStrategy })
    const members = ['a', 'b', 'c'].map(id => member(dispatcher, id, '$share/g/t', 1))
    const [a, b, c] = members as [Member, Member, Member]
    a.session.detach()
    c.session.detach()
    publish(dispatcher, '0123')
    assert.equal(b.session.queueLength, 3, shareStrategy)
    b.session.detach()
    publish(dispatcher, '4')
    const queued = members.map(({ session }) => session.queueLength)
    assert.equal(queued[0]! + queued[1]! + queued[2]!, 4)
  }
})

test('Dispatcher.end() gives what a member has not acknowledged to another, in order', () => {
  const dispatcher = dispatcherOf({ shareStrategy: 'sticky' })
  const a = member(dispatcher, 'a', '$share/g/t', 2)
  publish(dispatcher, '01234')
  a.session.acknowledged(1)
  const b = member(dispatcher, 'b', '$share/g/t')
  a.session.detach()
  dispatcher.end(a.session)
  assert.equal(taken(b), '1234')
  assert.equal(dispatcher.router.size, 1)
  assert.equal(a.session.subscriptions.size, 0)
  dispatcher.end(b.session) // the last: nobody is left to have it
  assert.equal(dispatcher.router.size, 0)
  assert.equal(dispatcher.route(message('5')), 0)
})

test('Dispatcher.end() gives no other member a QoS 2 message that one was sent [MQTT-4.8.2-5]', () => {
  const dispatcher = dispatcherOf({ shareStrategy: 'sticky' })
  const a = member(dispatcher, 'a', '$share/g/t', 1)
  for (const payload of ['sent', 'waits']) dispatcher.route(Message.of('t', Buffer.from(payload), { qos: 2 }))
  const b = member(dispatcher, 'b', '$share/g/t')
  dispatcher.end(a.session)
  assert.equal(taken(b), 'waits')
})

test('Dispatcher.end() keeps back what has expired meanwhile [MQTT-3.3.2-5]', (t: TestContext) => {
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000 })
  const dispatcher = dispatcherOf()
  const a = member(dispatcher, 'a', '$share/g/t')
  const expiring = Message.of('t', Buffer.from('0'), { qos: 1 }, encodeProperties({ messageExpiryInterval: 10 }))
  expiring.expires(10, 1)
  dispatcher.route(expiring)
  publish(dispatcher, '1')
  const b = member(dispatcher, 'b', '$share/g/t')
  t.mock.timers.tick(20_000)
  dispatcher.end(a.session)
  assert.equal(taken(b), '1')
})

test('Dispatcher.subscribe() makes a group of $queue/, and each group has its own copy', () => {
  const dispatcher = dispatcherOf()
  const queue = ['a', 'b'].map(id => member(dispatcher, id, '$queue/t'))
  const group = ['c', 'd'].map(id => member(dispatcher, id, '$share/g/t'))
  const other = member(dispatcher, 'e', '$share/h/+')
  const plain = member(dispatcher, 'f', 't')
  for (const name of '0123') assert.equal(dispatcher.route(message(name)), 4)
  for (const members of [queue, group]) assert.deepEqual(members.map(taken).toSorted(), ['02', '13'])
  assert.equal(taken(other), '0123')
  assert.equal(taken(plain), '0123')
})

test('Dispatcher.route() spares a client its own message if it is to be local nowhere [MQTT-3.8.3-3]', () => {
  for (const ignoreLoopDeliver of [false, true]) {
    const dispatcher = dispatcherOf({ ignoreLoopDeliver })
    const a = member(dispatcher, 'a', 'other')
    const options = { subscriber: a.session, qos: 0, retainAsPublished: false, identifier: 0 } as const
    dispatcher.subscribe({ ...options, filter: 't', noLocal: true })
    assert.equal(dispatcher.route(message('0', 't', 'a')), 0)
    assert.equal(dispatcher.route(message('1', 't', 'b')), 1)
    assert.equal(dispatcher.route(message('2', 't')), 1)
    dispatcher.subscribe({ ...options, filter: '#', noLocal: false })
    dispatcher.route(message('3', 't', 'a'))
    assert.equal(taken(a), ignoreLoopDeliver ? '12' : '123')
  }
})

test('Dispatcher.route() gives a client its own message by the filters that are not no-local alone [MQTT-3.8.3-3], [MQTT-3.3.4-4]', () => {
  const dispatcher = dispatcherOf()
  const a = member(dispatcher, 'a', 'other')
  const heard = (from: string): unknown => {
    const at = a.peer.taken()
    dispatcher.route(message('x', 't', from))
    return [...at, ...a.peer.taken()].map(({ qos, identifiers }) => [qos, identifiers?.toSorted()])
  }
  const options = { subscriber: a.session, retainAsPublished: false } as const
  dispatcher.subscribe({ ...options, filter: 't', qos: 2, noLocal: true, identifier: 1 })
  dispatcher.subscribe({ ...options, filter: '#', qos: 0, noLocal: false, identifier: 2 })
  assert.deepEqual([heard('a'), heard('b')], [[[0, [2]]], [[1, [1, 2]]]])
  dispatcher.subscribe({ ...options, filter: '+', qos: 1, noLocal: false, identifier: 3 })
  assert.deepEqual(heard('a'), [[1, [2, 3]]])
  dispatcher.unsubscribe(a.session, 't')
  assert.deepEqual(heard('a'), [[1, [2, 3]]])
})

test('Dispatcher.route() keeps RETAIN for those that asked for it as published [MQTT-3.3.1-12] [MQTT-3.3.1-13]', () => {
  const dispatcher = dispatcherOf()
  const a = member(dispatcher, 'a', 't')
  const b = member(dispatcher, 'b', 'x')
  const options = { subscriber: b.session, filter: 't', qos: 1, noLocal: false, identifier: 0 } as const
  dispatcher.subscribe({ ...options, retainAsPublished: true })
  dispatcher.route(Message.of('t', Buffer.from('0'), { qos: 2, retain: true }))
  const [one] = a.peer.taken()
  const [two] = b.peer.taken()
  assert.deepEqual([one?.retain, one?.qos, two?.retain, two?.qos], [false, 2, true, 1])
})

test('Dispatcher.retainedFor() has RETAIN, the lower QoS and the identifier (section 3.8.4)', () => {
  const dispatcher = dispatcherOf()
  for (const qos of [0, 1, 2] as const) ingressTo(dispatcher).retain(message('x', `t/${qos}`, undefined, qos))
  const subscriber = new Session('a', { maxInflight: 0, maxQueued: 0, storeQos0: false })
  const options = { subscriber, noLocal: false, retainAsPublished: false }
  const found = (filter: string, qos: QoS, identifier: number) =>
    [...dispatcher.retainedFor({ ...options, filter, qos, identifier })].map(each => {
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

test('Dispatcher.retainedFor() spares a no-local subscriber what it published itself [MQTT-3.8.3-3]', () => {
  const dispatcher = dispatcherOf({ shareStrategy: 'random' })
  const subscriber = new Session('c1', { maxInflight: 0, maxQueued: 0, storeQos0: true })
  for (const from of ['c1', 'c2'])
    ingressTo(dispatcher).retain(Message.of(`t/${from}`, Buffer.from('x'), { retain: true, from }))
  const subscription = { subscriber, filter: 't/#', qos: 0, retainAsPublished: false, identifier: 0 } as const
  const topics = (noLocal: boolean): string[] =>
    [...dispatcher.retainedFor({ ...subscription, noLocal })].map(({ message }) => message.topic)
  assert.deepEqual([topics(true), topics(false).sort()], [['t/c2'], ['t/c1', 't/c2']])
})

test('Dispatcher.route() delivers at the lower QoS, and with upgradeQos at the higher', () => {
  for (const upgradeQos of [false, true]) {
    const dispatcher = dispatcherOf({ upgradeQos })
    const subscriber = new Session('c1', { maxInflight: 0, maxQueued: 0, storeQos0: true })
    const peer = new Peer()
    subscriber.attach(peer)
    dispatcher.subscribe({ subscriber, filter: 't', qos: 1, noLocal: false, retainAsPublished: false, identifier: 0 })
    for (const qos of [0, 1, 2] as const) dispatcher.route(Message.of('t', Buffer.from('x'), { qos }))
    assert.deepEqual(
      peer.taken().map(({ qos }) => qos),
      upgradeQos ? [1, 1, 2] : [0, 1, 1]
    )
  }
})
