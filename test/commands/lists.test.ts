/** Long lists: they hold nothing up, wait for who reads them, and come whole or not at all. */
import assert from 'node:assert/strict'
import { request } from 'node:http'
import test, { type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { begin } from '../support/cli.js'
import { next, publishPacket, type Running, Speaker, startServer, until } from '../support/server.js'

const count = 30_000

/** Sessions of clients that are away, each with a subscription of its own. */
function fill({ server: { clients } }: Running): void {
  for (let i = 0; i < count; i++) {
    const { session } = clients.sessions.open(`client-${i}`, false, 3600, undefined)
    const subscription = { subscriber: session, filter: `things/${i}/+`, qos: 1, identifier: 0 } as const
    clients.dispatcher.subscribe({ ...subscription, noLocal: false, retainAsPublished: false })
  }
}

/** Has the broker's lists counted: the most rows made in one turn of the event loop, and what came between turns. */
function turnsOf({ server: { clients } }: Running, came: () => number): () => { most: number; between: number } {
  let most = 0
  let between = 0
  let before: number | undefined
  let rows = 0
  let scheduled = false
  const turned = (): void => {
    most = Math.max(most, rows)
    between += came() - (before ?? came())
    before = came()
    rows = 0
    scheduled = false
  }
  const counting = <T>(list: () => Generator<T>) =>
    function* (): Generator<T> {
      for (const row of list()) {
        rows++
        if (!scheduled) setImmediate(turned)
        scheduled = true
        yield row
      }
    }
  const { sessions, dispatcher } = clients
  sessions.each = counting(sessions.each.bind(sessions))
  dispatcher.router.filters = counting(dispatcher.router.filters.bind(dispatcher.router))
  return () => {
    const so = { most, between }
    most = between = 0
    before = undefined
    return so
  }
}

/** Messages from one client to another until it is over. */
async function flowing(t: TestContext, running: Running): Promise<{ came: () => number; end: () => Promise<void> }> {
  const [from, to] = [
    await Speaker.connect(t, running, { id: 'from' }),
    await Speaker.connect(t, running, { id: 'to' })
  ]
  await to.subscribe([['flow', 0]])
  let came = 0
  let over = false
  const loop = async (): Promise<void> => {
    while (!over) {
      from.send(publishPacket('flow', 'x'))
      await to.nextOf(3)
      came++
      await sleep(1)
    }
  }
  const ended = loop()
  const end = async (): Promise<void> => {
    over = true
    await ended
  }
  return { came: () => came, end }
}

test('30 000 rows: broker-ctl prints each, few are made in one turn of the event loop, and messages flow', async t => {
  const running = await startServer(t)
  fill(running)
  const flow = await flowing(t, running)
  const turns = turnsOf(running, flow.came)
  for (const [words, line] of [
    ['sessions list', /^Session\(client-\d+, clean_sess=false, subscriptions=1, .*\)$/],
    ['subscriptions list --json', /^\[?\{"client_id":"client-\d+",.*\}[,\]]$/],
    ['topics list', /^things\/\d+\/\+$/]
  ] as const) {
    const { code, out } = await begin('broker-ctl', ['--home', running.home.root, ...words.split(' ')]).ended
    assert.equal(code, 0)
    const lines = out.trimEnd().split('\n')
    assert.ok(lines.length >= count && lines.length <= count + 3, `${words}: ${lines.length} lines`)
    assert.match(lines[count >> 1]!, line)
    if (words.endsWith('--json')) assert.ok(JSON.parse(out).length >= count)
    const { most, between } = turns()
    assert.ok(most > 0 && most < 5000, `${words}: ${most} rows in one turn`)
    assert.ok(between > 0, `${words}: messages flow between its turns`)
  }
  await flow.end()
})

test('a list goes no faster than it is read, and ends when its reader leaves', async t => {
  const running = await startServer(t)
  fill(running)
  let made = 0
  let isOver = false
  const { sessions } = running.server.clients
  const each = sessions.each.bind(sessions)
  sessions.each = function* () {
    try {
      for (const session of each()) {
        made++
        yield session
      }
    } finally {
      isOver = true
    }
  }
  const options = { socketPath: running.home.adminSocket, path: '/sessions/list', method: 'POST' }
  const asked = request(options)
  asked.end()
  const [response] = await next(asked, 'response')
  await until('it has begun', () => made > 0)
  let before = -1
  await until('it waits', async () => {
    const waits = made === before
    before = made
    await sleep(50)
    return waits
  })
  assert.ok(made < count / 2, `${made} made for nobody`)
  response.destroy()
  await until('it is over', () => isOver)
  assert.ok(made < count / 2)

  // Read on, it is a JSON array.
  const again = request(options)
  again.end()
  const [whole] = await next(again, 'response')
  let text = ''
  for await (const part of whole.setEncoding('utf8')) text += part
  assert.equal(JSON.parse(text).length, count)
})

test('a list that breaks off is an error to who asked, not a short list', async t => {
  const running = await startServer(t)
  const { sessions } = running.server.clients
  sessions.each = function* () {
    yield* []
    throw new Error('broken at the start')
  }
  const ctl = async (...args: string[]) => await begin('broker-ctl', ['--home', running.home.root, ...args]).ended
  const early = await ctl('sessions', 'list')
  assert.deepEqual([early.code === 0, early.out], [false, ''])
  assert.match(early.err, /broken at the start/)

  const { session } = sessions.open('one', false, 3600, undefined)
  sessions.each = function* () {
    for (let i = 0; i < 10_000; i++) yield session
    throw new Error('broken later')
  }
  const late = await ctl('sessions', 'list')
  assert.notEqual(late.code, 0)
  assert.ok(running.log.some(line => line.includes('broken later')))
})

test('an empty list is an empty array, or nothing', async t => {
  const running = await startServer(t)
  const ctl = async (...args: string[]) => await begin('broker-ctl', ['--home', running.home.root, ...args]).ended
  assert.equal((await ctl('sessions', 'list', '--json')).out, '[]\n')
  assert.equal((await ctl('sessions', 'list')).out, '')
  assert.deepEqual(await running.admin.call('sessions list', {}), [])
})
