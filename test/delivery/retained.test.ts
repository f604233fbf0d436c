import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { Message } from '../../src/delivery/message.js'
import { RetainedMessages } from '../../src/delivery/retained.js'
import { isTopicFilter, isTopicName, matches } from '../../src/wire/topic.js'

function message(topic: string, payload = 'x', expiresAt = 0): Message {
  const made = Message.of(topic, Buffer.from(payload), { retain: true })
  made.expiresAt = expiresAt
  return made
}

const topicsOf = (found: Iterable<Message>): string[] => [...found].map(({ topic }) => topic).sort()

const path = fc
  .array(fc.constantFrom('', 'a', 'b', '$a', '+', '#'), { minLength: 1, maxLength: 4 })
  .map(levels => levels.join('/'))
const topics = path.filter(isTopicName)
const filters = path.filter(isTopicFilter)
const step = fc.oneof(
  fc.record({ do: fc.constant('set' as const), topic: topics, expiresAt: fc.constantFrom(0, 0, 10, 20, 30) }),
  fc.record({ do: fc.constant('remove' as const), topic: topics }),
  fc.record({ do: fc.constant('match' as const), filter: filters, now: fc.constantFrom(1, 9, 10, 15, 30) })
)

test('RetainedMessages finds what a Map of topics finds, and forgets what has expired', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), steps => {
      const retained = new RetainedMessages()
      const naive = new Map<string, Message>()
      for (const [i, one] of steps.entries()) {
        if (one.do === 'set') {
          const made = message(one.topic, `${i}`, one.expiresAt)
          retained.set(made)
          naive.set(one.topic, made)
        } else if (one.do === 'remove') {
          retained.set(message(one.topic, ''))
          naive.delete(one.topic)
        } else {
          const all = [...naive].filter(([topic]) => matches(one.filter, topic))
          for (const [topic, there] of all) if (there.expiredAt(one.now)) naive.delete(topic)
          const found = [...retained.match(one.filter, one.now)]
          assert.deepEqual(topicsOf(found), all.flatMap(([topic]) => (naive.has(topic) ? [topic] : [])).sort())
          for (const each of found) assert.equal(each, naive.get(each.topic))
        }
        assert.equal(retained.size, naive.size)
      }
      for (const [topic, there] of naive) assert.equal(retained.get(topic), there)
      for (const topic of naive.keys()) retained.set(message(topic, ''))
      assert.equal(retained.size, 0)
      assert.deepEqual([...retained.match('#'), ...retained.match('$a/#')], [])
    }),
    { numRuns: 1000 }
  )
})

test('RetainedMessages.match() knows the wildcards (section 4.7)', () => {
  const retained = new RetainedMessages()
  for (const topic of ['a', 'a/', 'a/b', 'a/b/c', 'b', '/a', '$SYS/a', '$SYS', 'a/$b']) retained.set(message(topic))
  for (const [filter, want] of [
    ['a/#', ['a', 'a/', 'a/$b', 'a/b', 'a/b/c']],
    ['#', ['/a', 'a', 'a/', 'a/$b', 'a/b', 'a/b/c', 'b']], // [MQTT-4.7.2-1]
    ['+', ['a', 'b']],
    ['+/a', ['/a']],
    ['+/#', ['/a', 'a', 'a/', 'a/$b', 'a/b', 'a/b/c', 'b']],
    ['$SYS/#', ['$SYS', '$SYS/a']],
    ['a/+', ['a/', 'a/$b', 'a/b']],
    ['a/b', ['a/b']],
    ['c', []]
  ] as const) {
    assert.deepEqual(topicsOf(retained.match(filter)), want, filter)
  }
})

test('RetainedMessages.set() replaces, and removes with an empty payload [MQTT-3.3.1-6] [MQTT-3.3.1-7]', () => {
  const retained = new RetainedMessages()
  retained.set(message('a', '1'))
  retained.set(message('a', '2'))
  assert.equal(retained.get('a')?.payload.toString(), '2')
  assert.equal(retained.size, 1)
  retained.set(message('a', ''))
  retained.set(message('a', ''))
  retained.set(message('never/there', ''))
  assert.equal(retained.get('a'), undefined)
  assert.equal(retained.size, 0)
})

test('RetainedMessages.set() keeps bytes of its own', () => {
  const retained = new RetainedMessages()
  const borrowed = new Message()
  borrowed.bytes = Buffer.from('\0\x01apayload')
  borrowed.topic = 'a'
  borrowed.topicEnd = borrowed.propertiesAt = borrowed.propertiesEnd = borrowed.payloadAt = 3
  borrowed.end = borrowed.bytes.length
  retained.set(borrowed)
  borrowed.bytes.fill(0)
  assert.equal(retained.get('a')?.payload.toString(), 'payload')
})

test('RetainedMessages.match() may be left half read while messages come and go', () => {
  const retained = new RetainedMessages()
  for (let i = 0; i < 10; i++) retained.set(message(`a/${i}`))
  const reading = retained.match('a/+')
  const first = reading.next().value as Message
  for (let i = 0; i < 10; i++) if (`a/${i}` !== first.topic && i !== 5) retained.set(message(`a/${i}`, ''))
  retained.set(message('a/5', 'new'))
  assert.deepEqual(
    [...reading].map(({ topic, payload }) => `${topic} ${payload}`),
    ['a/5 new']
  )
  assert.equal(retained.size, 2)
})
