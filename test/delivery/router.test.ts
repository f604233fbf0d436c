import assert from 'node:assert/strict'
import test from 'node:test'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { type Match, type Route, Router, type Subscription } from '../../src/delivery/router.js'
import type { QoS } from '../../src/wire/frame.js'
import { isTopicFilter, isTopicName, matches, splitShared } from '../../src/wire/topic.js'

const asked = (
  subscriber: string,
  filter: string,
  options: Partial<Subscription<string>> = {}
): Subscription<string> => ({
  subscriber,
  filter,
  qos: 0,
  noLocal: false,
  retainAsPublished: false,
  identifier: 0,
  ...options
})

/** A match without its order, which says nothing. */
function plain({ routes, groups }: Match<string>) {
  const ordered = (route: Route<string>): object => ({
    ...route,
    identifiers: [...(route.identifiers ?? [])].sort((a, b) => a - b),
    own: route.withoutNoLocal === undefined ? undefined : ordered(route.withoutNoLocal)
  })
  return {
    routes: routes.toSorted((a, b) => (a.subscriber < b.subscriber ? -1 : 1)).map(ordered),
    groups: groups
      .map(({ name, members }) => `${name} ${members.map(m => `${m.subscriber} ${m.filter} ${m.qos}`).join()}`)
      .sort()
  }
}

/** The same by going through a list. */
class NaiveRouter {
  readonly list: Subscription<string>[] = []

  add(subscription: Subscription<string>): boolean {
    const at = this.#at(subscription.subscriber, subscription.filter)
    if (at === -1) this.list.push(subscription)
    else this.list[at] = subscription
    return at === -1
  }

  remove(subscriber: string, filter: string): boolean {
    const at = this.#at(subscriber, filter)
    if (at !== -1) this.list.splice(at, 1)
    return at !== -1
  }

  #at(subscriber: string, filter: string): number {
    return this.list.findIndex(one => one.subscriber === subscriber && one.filter === filter)
  }

  match(topic: string) {
    const all = this.list.filter(({ filter }) => matches(splitShared(filter).filter, topic))
    const own = all.filter(({ filter }) => splitShared(filter).group === undefined)
    const groups = new Map<string, Subscription<string>[]>()
    for (const one of all) {
      const filter = one.filter.replace('$local/', '')
      if (!own.includes(one)) groups.set(filter, [...(groups.get(filter) ?? []), one])
    }
    return plain({
      routes: [...new Set(own.map(({ subscriber }) => subscriber))].map(subscriber => {
        const routeOf = (mine: Subscription<string>[], own: Route<string> | undefined): Route<string> => ({
          subscriber,
          qos: Math.max(...mine.map(({ qos }) => qos)) as QoS,
          noLocal: mine.every(({ noLocal }) => noLocal),
          retainAsPublished: mine.some(({ retainAsPublished }) => retainAsPublished),
          identifiers: mine.map(({ identifier }) => identifier).filter(identifier => identifier !== 0),
          withoutNoLocal: own
        })
        const mine = own.filter(one => one.subscriber === subscriber)
        const local = mine.filter(({ noLocal }) => !noLocal)
        return routeOf(mine, local.length % mine.length === 0 ? undefined : routeOf(local, undefined))
      }),
      groups: [...groups].map(([filter, members]) => ({ name: splitShared(filter).group!, filter, members, cursor: 0 }))
    })
  }
}

const words = fc.constantFrom('', 'a', 'b', '$a', '+', '#')
const path = fc.array(words, { minLength: 1, maxLength: 3 }).map(levels => levels.join('/'))
const topics = path.filter(isTopicName)
const filters = fc
  .tuple(fc.constantFrom('', '', '', '$local/', '$share/g/', '$share/h/', '$local/$share/h/', '$queue/'), path)
  .map(([prefix, rest]) => prefix + rest)
  .filter(isTopicFilter)
const subscribers = fc.constantFrom('one', 'two', 'three')
const subscriptions = fc.record({
  subscriber: subscribers,
  filter: filters,
  qos: fc.constantFrom<QoS>(0, 1, 2),
  noLocal: fc.boolean(),
  retainAsPublished: fc.boolean(),
  identifier: fc.nat(3)
})
const step = fc.oneof(
  fc.record({ do: fc.constant('add' as const), subscription: subscriptions }),
  fc.record({ do: fc.constant('remove' as const), nth: fc.nat() }),
  fc.record({ do: fc.constant('remove stranger' as const), subscriber: subscribers, filter: filters }),
  fc.record({ do: fc.constant('match' as const), topic: topics })
)

test('Router finds whom a list of filters finds, through any changes, and keeps nothing once all is removed', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.array(topics, { maxLength: 8 }), (steps, ever) => {
      const router = new Router<string>()
      const naive = new NaiveRouter()
      const compare = (topic: string): void => assert.deepEqual(plain(router.match(topic)), naive.match(topic), topic)
      for (const one of steps) {
        const { version } = router
        if (one.do === 'match') {
          compare(one.topic)
          assert.equal(router.version, version)
        } else {
          let changed = true
          if (one.do === 'add') assert.equal(router.add(one.subscription), naive.add(one.subscription))
          else if (one.do === 'remove' && naive.list.length > 0) {
            const { subscriber, filter } = naive.list[one.nth % naive.list.length]!
            assert.equal(router.remove(subscriber, filter), naive.remove(subscriber, filter))
          } else if (one.do === 'remove stranger') {
            changed = naive.remove(one.subscriber, one.filter)
            assert.equal(router.remove(one.subscriber, one.filter), changed)
          } else changed = false
          assert.equal(router.version > version, changed, 'version goes up with a change, and only then')
        }
        assert.equal(router.size, naive.list.length)
        for (const topic of ever) compare(topic) // asked again and again: what is remembered must not be stale
      }
      for (const { subscriber, filter } of [...naive.list]) {
        assert.equal(router.remove(subscriber, filter), naive.remove(subscriber, filter))
      }
      assert.equal(router.size, 0)
      for (const topic of [...ever, 'a', 'a/b', 'a/b/a']) {
        assert.deepEqual(router.match(topic), { routes: [], groups: [] })
      }
    }),
    { numRuns: 400 }
  )
})

test('Router.match() gives one route for overlapping filters (MQTT 5, section 3.3.4)', () => {
  const router = new Router<string>()
  const only = () => {
    const { routes } = router.match('a/b')
    assert.equal(routes.length, 1)
    const { qos, noLocal, retainAsPublished, identifiers } = routes[0]!
    return { qos, noLocal, retainAsPublished, identifiers: identifiers?.toSorted() }
  }
  router.add(asked('s', 'a/b', { noLocal: true }))
  assert.deepEqual(only(), { qos: 0, noLocal: true, retainAsPublished: false, identifiers: undefined })
  router.add(asked('s', 'a/+', { qos: 2, noLocal: true, identifier: 7 }))
  assert.deepEqual(only(), { qos: 2, noLocal: true, retainAsPublished: false, identifiers: [7] })
  router.add(asked('s', 'a/#', { qos: 1, retainAsPublished: true, identifier: 5 }))
  assert.deepEqual(only(), { qos: 2, noLocal: false, retainAsPublished: true, identifiers: [5, 7] })
  router.add(asked('s', '#', { identifier: 7 })) // an identifier twice is sent twice
  assert.deepEqual(only(), { qos: 2, noLocal: false, retainAsPublished: true, identifiers: [5, 7, 7] })
  router.remove('s', 'a/+')
  assert.deepEqual(only(), { qos: 1, noLocal: false, retainAsPublished: true, identifiers: [5, 7] })
})

test('Router.match() counts a shared subscription apart from the plain ones of the same client', () => {
  const router = new Router<string>()
  router.add(asked('s', 'a'))
  router.add(asked('s', '$share/g/a'))
  router.add(asked('s', '$share/g/+'))
  router.add(asked('t', '$share/g/a'))
  router.add(asked('t', '$share/h/a'))
  const { routes, groups } = router.match('a')
  assert.deepEqual(
    routes.map(({ subscriber }) => subscriber),
    ['s']
  )
  assert.deepEqual(groups.map(({ name, members }) => `${name} ${members.map(m => m.subscriber)}`).toSorted(), [
    'g s',
    'g s,t',
    'h t'
  ])
  assert.equal(router.size, 5)
})

test('Router keeps a filter and the same behind $local/ apart, shared or not', () => {
  for (const filter of ['a', 'a/+', '$share/g/a', '$queue/a']) {
    const router = new Router<string>()
    assert.equal(router.add(asked('one', filter, { qos: 1, identifier: 1 })), true)
    assert.equal(router.add(asked('one', `$local/${filter}`, { qos: 2, identifier: 2 })), true)
    assert.equal(router.add(asked('one', filter, { qos: 0, identifier: 3 })), false)
    assert.equal(router.size, 2)
    assert.equal(router.remove('one', filter), true)
    assert.equal(router.remove('one', filter), false)
    const { routes, groups } = router.match(filter.startsWith('a/') ? 'a/b' : 'a')
    const left = [...routes, ...groups.flatMap(({ members }) => members)]
    assert.deepEqual(
      left.map(({ qos }) => qos),
      [2]
    )
    assert.equal(router.remove('one', `$local/${filter}`), true)
    assert.equal(router.size, 0)
  }
})

test('Router.match() remembers a topic until a subscription changes it', () => {
  const router = new Router<string>()
  router.add(asked('s', 'a'))
  const first = router.match('a')
  assert.equal(router.match('a'), first)
  assert.deepEqual(router.match('b').routes, [])
  router.add(asked('s', 'b'))
  assert.equal(router.match('a'), first, 'another topic is none of its business')
  assert.equal(router.match('b').routes.length, 1)
  router.add(asked('t', '+'))
  assert.equal(router.match('a').routes.length, 2)
  assert.equal(router.match('b').routes.length, 2)
  router.add(asked('t', '+', { qos: 1 }))
  assert.equal(router.match('a').routes.find(({ subscriber }) => subscriber === 't')?.qos, 1)
  router.remove('t', '+')
  router.add(asked('u', '$share/g/a'))
  assert.equal(router.match('a').groups.length, 1)
  router.remove('u', '$share/g/a')
  router.remove('s', 'a')
  assert.deepEqual(router.match('a'), { routes: [], groups: [] })
})

test('Router.remove() leaves the place of a group with the member that it stood at', () => {
  const router = new Router<string>()
  for (const each of ['a', 'b', 'c']) router.add(asked(each, '$share/g/t'))
  const group = router.match('t').groups[0]!
  group.cursor = 2
  router.remove('a', '$share/g/t')
  assert.equal(group.members[group.cursor]?.subscriber, 'c')
})

test('Router takes "a" and "$local/a" of one client for two subscriptions, and gives it one route', () => {
  const router = new Router<string>()
  assert.equal(router.add(asked('s', 'a')), true)
  assert.equal(router.add(asked('s', '$local/a', { qos: 1 })), true)
  assert.equal(router.add(asked('s', '$local/a', { qos: 2 })), false)
  assert.deepEqual([router.size, router.match('a').routes.map(({ qos }) => qos)], [2, [2]])
  assert.equal(router.remove('s', '$local/a'), true)
  assert.deepEqual([router.size, router.match('a').routes.map(({ qos }) => qos)], [1, [0]])
  assert.deepEqual([router.remove('s', '$local/a'), router.remove('s', 'a'), router.size], [false, true, 0])
})

test("Router.add() needs few bytes for a filter that is one client's own", () => {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  gc()
  const before = process.memoryUsage().heapUsed
  const router = new Router<string>()
  const all = 50_000
  for (let i = 0; i < all; i++) {
    const filter = `site/${i % 100}/device/${i}/${i % 10 === 0 ? '+' : 'state'}`
    router.add(asked('s', Buffer.from(filter).toString())) // a string of its own, as from the wire
  }
  gc()
  const each = (process.memoryUsage().heapUsed - before) / all
  assert.equal(router.size, all)
  assert.ok(each < 350, `${Math.round(each)} bytes`)
})
