import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { covers, isTopicFilter, isTopicName, matches, overlaps, splitShared } from '../../src/wire/topic.js'

test('isTopicName() takes any text but the empty one and those with wildcards or U+0000', () => {
  for (const name of ['a', '/', 'a/b', '/a//b/', ' ', '$SYS/x', '$share/g/a', 'ä/😀', '%u']) {
    assert.equal(isTopicName(name), true, name)
  }
  for (const name of ['', '+', '#', 'a/+', 'a/#', 'a+b', 'a#', 'a\0b']) assert.equal(isTopicName(name), false, name)
})

const filters: readonly [filter: string, valid: boolean][] = [
  ['a', true],
  ['/', true],
  ['#', true],
  ['+', true],
  ['/#', true],
  ['+/+', true],
  ['a/+/b', true],
  ['+//#', true],
  ['a/b/#', true],
  ['$SYS/#', true],
  ['$share', true],
  ['$queue', true],
  ['', false],
  ['a\0', false],
  ['\0/#', false],
  // [MQTT-4.7.1-2]
  ['a#', false],
  ['#/', false],
  ['#/a', false],
  ['a/#/b', false],
  ['##', false],
  // [MQTT-4.7.1-3]
  ['a+', false],
  ['+a', false],
  ['++', false],
  ['a/+b/c', false],
  ['+#', false],
  ['$share/g/a', true],
  ['$share/g/#', true],
  ['$share/g//', true],
  ['$share/g', false],
  ['$share/g/', false],
  ['$share//a', false],
  ['$share/+/a', false],
  ['$share/#/a', false],
  ['$share/#', false],
  ['$share/a+b/a', false],
  ['$share/a\0b/a', false],
  ['$share/g/a/#/b', false],
  ['$queue/a/+', true],
  ['$queue/', false],
  ['$queue/a+', false],
  ['$local/#', true],
  ['$local/', false],
  ['$local/#/a', false],
  ['$local/$share/g/a', true],
  ['$local/$queue/a', true],
  ['$local/$share/g', false],
  ['$local/$local/a', false],
  ['$share/g/$share/h/a', false],
  ['$share/g/$queue/a', false],
  ['$share/g/$local/a', false],
  ['$queue/$share/g/a', false]
]
test('isTopicFilter() wants whole levels of wildcards, # last, and something behind $share, $queue and $local', () => {
  for (const [filter, valid] of filters) assert.equal(isTopicFilter(filter), valid, JSON.stringify(filter))
})

test('splitShared() finds the group and the filter that counts', () => {
  for (const [text, group, filter] of [
    ['a/#', undefined, 'a/#'],
    ['$share/g/a/#', 'g', 'a/#'],
    ['$share/g//a', 'g', '/a'],
    ['$queue/a', '$queue', 'a'],
    ['$local/a', undefined, 'a'],
    ['$local/$share/g/a', 'g', 'a'],
    ['$local/$queue/a', '$queue', 'a'],
    ['$SYS/a', undefined, '$SYS/a'],
    ['$shared/g/a', undefined, '$shared/g/a'],
    ['$share/g', undefined, '$share/g']
  ] as const) {
    assert.deepEqual(splitShared(text), { group, filter }, text)
  }
})

test('splitShared() leaves no prefix on a valid filter', () => {
  for (const [text, valid] of filters) {
    const { filter } = splitShared(text)
    if (valid) assert.deepEqual(splitShared(filter), { group: undefined, filter }, text)
  }
})

test('matches() follows section 4.7 of MQTT 3.1.1', () => {
  for (const [filter, topic, want] of [
    ['sport/tennis/player1/#', 'sport/tennis/player1', true],
    ['sport/tennis/player1/#', 'sport/tennis/player1/ranking', true],
    ['sport/tennis/player1/#', 'sport/tennis/player12', false],
    ['sport/#', 'sport', true],
    ['#', 'a/b', true],
    ['sport/tennis/+', 'sport/tennis/player1', true],
    ['sport/tennis/+', 'sport/tennis/player1/ranking', false],
    ['sport/+', 'sport', false],
    ['sport/+', 'sport/', true],
    ['+/+', '/finance', true],
    ['/+', '/finance', true],
    ['+', '/finance', false],
    ['a', 'a/', false],
    ['a//b', 'a/b', false],
    ['+/#', 'a', true],
    // [MQTT-4.7.2-1]
    ['#', '$SYS/uptime', false],
    ['+/uptime', '$SYS/uptime', false],
    ['$SYS/#', '$SYS/uptime', true],
    ['$SYS/#', '$SYS', true],
    ['$SYS/+', '$SYS/uptime', true],
    ['a/+', 'a/$b', true],
    ['a/#', 'a/$b', true],
    // [MQTT-4.7.3-4]
    ['accounts', 'Accounts', false]
  ] as const) {
    assert.equal(matches(filter, topic), want, `${filter} ${topic}`)
  }
})

/** The same by way of words, as a reader of the specification would do it. */
function naive(filter: string, topic: string): boolean {
  if (topic.startsWith('$') && /^[+#]/.test(filter)) return false
  const levels = topic.split('/')
  const words = filter.split('/')
  if (words.at(-1) === '#') {
    const head = words.slice(0, -1)
    return levels.length >= head.length && head.every((word, i) => word === '+' || word === levels[i])
  }
  return levels.length === words.length && words.every((word, i) => word === '+' || word === levels[i])
}

const level = fc.oneof(fc.constantFrom('', 'a', 'b', 'ab', '$a', 'ä'), fc.stringMatching(/^[^/+#\0]{0,4}$/))
const topicName = fc.array(level, { minLength: 1, maxLength: 5 }).map(levels => levels.join('/'))
const topicFilter = fc
  .tuple(fc.array(fc.oneof(level, fc.constant('+')), { maxLength: 5 }), fc.boolean())
  .map(([levels, all]) => [...levels, ...(all ? ['#'] : [])].join('/'))

test('matches() agrees with a comparison word by word', () => {
  fc.assert(
    fc.property(topicFilter.filter(isTopicFilter), topicName.filter(isTopicName), (filter, topic) => {
      assert.equal(matches(filter, topic), naive(filter, topic))
    }),
    { numRuns: 2000 }
  )
})

test('matches() finds the topics made from the filter', () => {
  fc.assert(
    fc.property(topicName.filter(isTopicName), fc.nat(), fc.boolean(), (topic, n, all) => {
      fc.pre(!topic.startsWith('$'))
      const levels = topic.split('/')
      levels[n % levels.length] = '+'
      assert.equal(matches(all ? `${levels.join('/')}/#` : levels.join('/'), topic), true)
    })
  )
})

/** Every combination of up to three of `words`, joined. */
const combine = (words: readonly string[]): string[] => {
  const longer = (some: readonly string[]) => some.flatMap(one => words.map(word => `${one}/${word}`))
  return [words, longer(words), longer(longer(words))].flat().filter(text => text !== '')
}
const allTopics = combine(['', 'a', 'b', '$'])
const allFilters = combine(['', 'a', '$', '+', '#'])
  .filter(isTopicFilter)
  .map(filter => ({ filter, topics: new Set(allTopics.filter(topic => naive(filter, topic))) }))

test('overlaps() is whether any topic at all matches both', () => {
  for (const { filter: one, topics } of allFilters) {
    for (const { filter: two, topics: others } of allFilters) {
      const want = allTopics.some(topic => topics.has(topic) && others.has(topic))
      if (overlaps(one, two) !== want) assert.fail(`overlaps(${one}, ${two}) should be ${want}`)
    }
  }
})

test('covers() is never true of a filter with a topic more, and implies overlaps()', () => {
  for (const { filter: one, topics } of allFilters) {
    for (const { filter: two, topics: others } of allFilters) {
      if (!covers(one, two)) continue
      if ([...others].some(topic => !topics.has(topic)) || !overlaps(one, two)) assert.fail(`covers(${one}, ${two})`)
    }
  }
})

test('covers() compares level by level', () => {
  for (const [filter, other, want] of [
    ['a/#', 'a/+', true],
    ['a/#', 'a/#', true],
    ['a/#', 'a', true],
    ['a/+', 'a/+', true],
    ['#', '#', true],
    ['#', '+/a/#', true],
    ['+/a', '+/a', true],
    ['a/+', 'a/#', false],
    ['a/b', 'a/+', false],
    ['a/+/#', 'a/#', false],
    ['+/#', '#', false],
    ['+', '#', false],
    ['a', '#', false],
    ['#', '$SYS/#', false],
    ['+/a', '$SYS/a', false],
    ['$SYS/#', '#', false],
    ['$SYS/#', '$SYS/+/x', true]
  ] as const) {
    assert.equal(covers(filter, other), want, `${filter} ${other}`)
  }
})
