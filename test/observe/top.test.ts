/** What `broker-ctl top` is told of a broker, and that nothing of it is there when nobody looks. */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { Leaders } from '../../src/observe/top.js'
import type { Sample } from '../../src/ops/samples.js'
import {
  client,
  connectPacket,
  publishPacket,
  RawClient,
  startServer,
  subscribePacket,
  until
} from '../support/server.js'

suite('Top', { concurrency: 4 }, () => {
  test('Top tells the rates of clients and topics as their clients count them', async t => {
    const running = await startServer(t)
    const { server, admin } = running
    const from = await client(t, running, { clientId: 'from', username: 'alice' })
    const to = await client(t, running, { clientId: 'to' })
    let got = 0
    to.on('message', () => got++)
    await to.subscribeAsync('t/#', { qos: 1 })
    const over = new AbortController()
    const samples: Sample[] = []
    const following = admin.followTop(over.signal, sample => void samples.push(sample))
    await until('somebody looks', () => server.clients.ingress.sample !== undefined)
    for (let i = 0; i < 30; i++) from.publish('t/a', 'twelve bytes', { qos: 1 })
    for (let i = 0; i < 10; i++) from.publish('t/b', 'x', { qos: 1 })
    await until('all came', () => got === 40)
    const { length } = samples
    await until('a sample of them', () => samples.length > length + 1) // one may be on its way that knows less
    const [sample] = samples as [Sample]
    /** Rates are rounded, and a busy machine spreads them over some samples. */
    const about = (rateOf: (sample: Sample) => number | undefined, count: number): void => {
      const inAll = samples.reduce((sum, each) => sum + (rateOf(each) ?? 0) * each.seconds, 0)
      assert.ok(Math.abs(inAll - count) <= samples.length + count * 0.05, `${inAll}, not ${count}`)
    }
    const row = (id: string) => (each: Sample) => each.top_clients.find(({ client_id }) => client_id === id)
    const topic = (name: string) => (each: Sample) => each.top_topics.find(({ topic }) => topic === name)
    about(each => row('from')(each)?.messages_in, 40)
    about(each => row('to')(each)?.messages_out, 40)
    about(each => row('from')(each)?.bytes_in, 30 * (2 + 2 + 3 + 2 + 12) + 10 * (2 + 2 + 3 + 2 + 1))
    about(each => topic('t/a')(each)?.messages, 30)
    about(each => topic('t/a')(each)?.bytes, 360)
    about(each => topic('t/b')(each)?.messages, 10)
    const with_ = samples.filter(each => row('from')(each) !== undefined)
    assert.ok(with_.length > 0)
    for (const each of with_)
      assert.deepEqual([row('from')(each)!.messages_out, row('from')(each)!.username], [0, 'alice'])
    const receivers = samples.flatMap(each => each.top_topics.map(({ topic, receivers }) => `${topic} ${receivers}`))
    assert.deepEqual([...new Set(receivers)].sort(), ['t/a 1', 't/b 1'])
    assert.equal(sample.sampled, 1)
    assert.deepEqual([sample.clients, sample.slow_count, sample.node], [2, 0, 'broker@127.0.0.1'])
    assert.ok(sample.memory.rss > sample.memory.heap_used && sample.cpu > 0 && sample.event_loop.busy > 0)
    over.abort()
    await following
    await until('nobody looks', () => server.clients.ingress.sample === undefined)
  })

  test('Top names a subscriber that does not acknowledge', async t => {
    const running = await startServer(t)
    const slow = await RawClient.connect(t, running)
    slow.send(connectPacket({ id: 'slow' }), subscribePacket([['s', 1]]))
    await slow.read(4 + 5)
    const from = await RawClient.connect(t, running)
    from.send(connectPacket({ id: 'from' }))
    await from.read(4)
    for (let i = 1; i <= 50; i++) from.send(publishPacket('s', 'x', { qos: 1, id: i }))
    await from.read(50 * 4)
    const { queueLength } = running.server.clients.session('slow')
    assert.ok(queueLength > 0)
    const sample = await new Promise<Sample>(resolve => {
      const leave = running.server.ops.top.watch(it => {
        leave()
        resolve(it)
      })
    })
    const [row] = sample.slow
    assert.deepEqual([sample.slow_count, row?.client_id, row?.queue], [1, 'slow', queueLength])
    assert.equal((row?.queue ?? 0) + (row?.inflight ?? 0), 50)
    assert.ok(sample.top_clients.some(({ client_id }) => client_id === 'slow'))
    assert.equal(running.server.clients.ingress.sample, undefined)
  })

  test('Top goes on for who stays when another leaves, and ends with the broker', async t => {
    const { server, admin } = await startServer(t)
    const over = new AbortController()
    let first = 0
    let second = 0
    const one = admin.followTop(over.signal, () => void first++)
    const two = admin.followTop(new AbortController().signal, () => void second++)
    await until('both have one', () => first > 0 && second > 0)
    over.abort()
    await one
    const before = second
    await until('another', () => second > before)
    assert.notEqual(server.clients.ingress.sample, undefined)
    await server.stop('fast')
    await two
    await until('nobody looks', () => server.clients.ingress.sample === undefined)
  })

  test('Leaders keeps those with the most, of very many', () => {
    const leaders = new Leaders<number>(10, n => n)
    for (let i = 0; i < 10_000; i++) leaders.offer((i * 7919) % 10_000)
    assert.deepEqual(
      leaders.list(),
      Array.from({ length: 10 }, (_, i) => 9999 - i)
    )
    leaders.offer(0)
    assert.equal(leaders.list().length, 10)
  })
})
