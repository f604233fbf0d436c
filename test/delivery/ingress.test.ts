import assert from 'node:assert/strict'
import test from 'node:test'
import { Message } from '../../src/delivery/message.js'
import { Session } from '../../src/delivery/session/session.js'
import { Persistence } from '../../src/persistence/persistence.js'
import { SessionLog } from '../../src/persistence/session-log.js'
import type { Store } from '../../src/store/store.js'
import { usualTimes } from '../../src/store/write-queue.js'
import { encodeProperties } from '../../src/wire/properties.js'
import { dispatcherOf, ingressTo } from '../support/dispatcher.js'

test('Ingress.retain() keeps to its limits', () => {
  const dispatcher = dispatcherOf()
  const ingress = ingressTo(dispatcher, { maxRetained: 2, maxRetainedPayload: 3 })
  const retain = (topic: string, payload: string): boolean =>
    ingress.retain(Message.of(topic, Buffer.from(payload), { retain: true }))
  assert.equal(retain('a', '123'), true)
  assert.equal(retain('a', '1234'), false)
  assert.equal(retain('b', '1'), true)
  assert.equal(retain('c', '1'), false)
  assert.equal(retain('a', '2'), true, 'one in the place of another')
  assert.equal(retain('c', ''), true)
  assert.equal(dispatcher.retained.size, 2)
  assert.equal(retain('b', ''), true)
  assert.equal(retain('c', '1'), true)
  assert.deepEqual([...dispatcher.retained.match('#')].map(({ topic, payload }) => topic + payload).toSorted(), [
    'a2',
    'c1'
  ])
  const free = dispatcherOf()
  const big = (i: number): Message => Message.of(`t/${i}`, Buffer.alloc(1000), { retain: true })
  for (let i = 0; i < 100; i++) assert.equal(ingressTo(free).retain(big(i)), true)
  assert.equal(free.retained.size, 100)
})

test('Ingress.retain() keeps a message for retainExpiry, unless it has an expiry of its own', t => {
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000 })
  const dispatcher = dispatcherOf()
  const ingress = ingressTo(dispatcher, { retainExpiry: 10_000 })
  ingress.retain(Message.of('a', Buffer.from('x'), { retain: true }))
  const longer = Message.of('b', Buffer.from('x'), { retain: true }, encodeProperties({ messageExpiryInterval: 60 }))
  longer.expires(60, 1)
  ingress.retain(longer)
  const topics = (): string[] => [...dispatcher.retained.match('#')].map(({ topic }) => topic)
  assert.deepEqual(topics(), ['a', 'b'])
  t.mock.timers.setTime(1_011_000)
  assert.deepEqual(topics(), ['b'])
  assert.equal(dispatcher.retained.size, 1)
})

test('Ingress.publish() refuses a bad topic, and tells how many get a message', async () => {
  const ingress = ingressTo(dispatcherOf(), { maxTopicLevels: 2 })
  for (const topic of ['a/+', '#', '', 'a/b/c']) {
    await assert.rejects(ingress.publish(Message.of(topic, Buffer.from('x'))), { code: 'BAD_REQUEST' })
  }
  const subscriber = new Session('a', { maxInflight: 0, maxQueued: 0, storeQos0: true })
  const options = { qos: 1, noLocal: false, retainAsPublished: false, identifier: 0 } as const
  ingress.dispatcher.subscribe({ subscriber, filter: 'a/+', ...options })
  assert.equal(await ingress.publish(Message.of('a/b', Buffer.from('x'), { qos: 1 })), 1)
  assert.equal(await ingress.publish(Message.of('b', Buffer.from('x'), { qos: 1 })), 0)
})

/** A store whose commits end when the test says so. */
function stored() {
  const commits: { end(err?: Error): void }[] = []
  const commit: Store['commit'] = async fill => {
    fill({ put: () => {}, delete: () => {} })
    await new Promise<void>((resolve, reject) => {
      commits.push({ end: err => (err === undefined ? resolve() : reject(err)) })
    })
  }
  const times = { ...usualTimes, gather: 0, lazy: 0, retry: 1 }
  const persistence = new Persistence(
    { commit } as unknown as Store,
    { failed: () => {}, recovered: () => {} },
    { times }
  )
  const dispatcher = dispatcherOf({}, persistence)
  const session = new Session('a', { maxInflight: 10, maxQueued: 0, storeQos0: false })
  session.sessionLog = new SessionLog(persistence, 'a', session)
  const options = { qos: 1, noLocal: false, retainAsPublished: false, identifier: 0 } as const
  dispatcher.subscribe({ subscriber: session, filter: 't', ...options })
  const commitOf = async (n: number) => {
    while (commits.length < n) await new Promise(resolve => setImmediate(resolve))
    return commits[n - 1]!
  }
  return { ingress: ingressTo(dispatcher), session, commitOf, count: () => commits.length }
}

test('Ingress.publish() resolves when what must be kept is on disk', async () => {
  const { ingress, session, commitOf } = stored()
  ;(await commitOf(1)).end() // the subscription
  let isDone = false
  const published = ingress.publish(Message.of('t', Buffer.from('x'), { qos: 1 })).then(() => {
    isDone = true
  })
  const commit = await commitOf(2)
  assert.equal(session.queueLength, 1)
  assert.equal(isDone, false)
  commit.end()
  await published
})

test('Ingress.publish() rejects when the store fails, and refuses while it does; Ingress.deliver() does not refuse', async () => {
  const { ingress, session, commitOf } = stored()
  ;(await commitOf(1)).end()
  const refused = assert.rejects(ingress.publish(Message.of('t', Buffer.from('x'), { qos: 1 })), {
    code: 'QUOTA_EXCEEDED'
  })
  ;(await commitOf(2)).end(new Error('no room'))
  await refused
  assert.equal(session.queueLength, 0, 'it was taken back')
  await assert.rejects(ingress.publish(Message.of('t', Buffer.from('y'), { qos: 1 })), { code: 'QUOTA_EXCEEDED' })
  assert.equal(await ingress.publish(Message.of('other', Buffer.from('y'), { qos: 1 })), 0, 'nothing of it is kept')
  assert.equal(await ingress.deliver(Message.of('t', Buffer.from('will'), { qos: 1 })), 1)
  assert.equal(session.queueLength, 1)
})
