/** Space-Saving over a sample: hot topics are found among very many, and no count is too high. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TopicSample } from '../../src/observe/topic-sample.js'

/** The same numbers each time. */
function dice(): () => number {
  let state = 12_345
  return () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
    return state / 0x80000000
  }
}

test('TopicSample counts every message while there are few', () => {
  const sample = new TopicSample(dice())
  for (let i = 0; i < 300; i++) sample.saw(`t/${i % 3}`, 4)
  for (let i = 0; i < 50; i++) sample.saw('t/2', 4)
  assert.deepEqual(sample.end(2), [
    { topic: 't/2', messages: 150, bytes: 600 },
    { topic: 't/0', messages: 100, bytes: 400 }
  ])
  assert.deepEqual(sample.end(2), [], 'a period begins with nothing')
})

test('TopicSample finds the hot topics among 20 000, in their order, and counts none too high', () => {
  const sample = new TopicSample(dice())
  const random = dice()
  const below = { 'hot/a': 0.2, 'hot/b': 0.3, 'hot/c': 0.35 }
  const told = new Map<string, number>()
  const total = 400_000
  for (let i = 0; i < total; i++) {
    const at = random()
    const name = Object.entries(below).find(([, most]) => at < most)?.[0] ?? `cold/${i % 20_000}`
    told.set(name, (told.get(name) ?? 0) + 1)
    sample.saw(name, 4)
  }
  const found = sample.end(3)
  assert.deepEqual(
    found.map(({ topic }) => topic),
    Object.keys(below)
  )
  for (const { topic, messages } of found) {
    const true_ = told.get(topic)!
    assert.ok(Math.abs(messages - true_) < 0.15 * true_, `${topic}: ${messages} of ${true_}`)
  }
})

test('TopicSample takes one message in more the more there are, and in fewer again', () => {
  const sample = new TopicSample(dice())
  const period = (count: number): void => {
    for (let i = 0; i < count; i++) sample.saw('t', 4)
  }
  period(1_000_000)
  assert.equal(sample.every, 64)
  const [{ messages } = { messages: 0 }] = sample.end(1)
  assert.ok(messages > 900_000 && messages < 1_100_000, String(messages))
  for (let i = 0; i < 6; i++) {
    period(100)
    sample.end(1)
  }
  assert.equal(sample.every, 1)
})

test('TopicSample does not fall into step with topics that come in turn', () => {
  const sample = new TopicSample(dice())
  for (let i = 0; i < 640_000; i++) sample.saw(`turn/${i % 64}`, 4)
  const found = sample.end(100)
  assert.equal(found.length, 64)
  for (const { topic, messages } of found) assert.ok(messages > 5000 && messages < 15_000, `${topic}: ${messages}`)
})
