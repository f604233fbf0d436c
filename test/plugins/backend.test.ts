import assert from 'node:assert/strict'
import { mock, type TestContext, test } from 'node:test'
import { Backend, connection } from '../../src/plugins/kit/backend.js'

/** A back end whose probe does what `probe.answer` says, by a clock that stands still until it is moved. */
function make(t: TestContext) {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  t.after(() => mock.timers.reset())
  const lines: string[] = []
  const probe = { asked: 0, answer: async (): Promise<unknown> => undefined }
  let trouble: string | undefined
  const backend = new Backend({
    name: 'Store at db:1',
    log: {
      info: message => void lines.push(`info ${message}`),
      warning: message => void lines.push(`warning ${message}`)
    },
    trouble: why => {
      trouble = why
    },
    probe: () => {
      probe.asked++
      return probe.answer()
    },
    now: () => Date.now()
  })
  t.after(() => backend.stop())
  /** Moves the clock, and lets what a probe has begun go on. */
  const pass = async (ms: number): Promise<void> => {
    mock.timers.tick(ms)
    await new Promise(resolve => setImmediate(resolve))
  }
  return { backend, lines, probe, trouble: () => trouble, pass }
}

const away = async (): Promise<never> => {
  throw new Error('nothing listens')
}

test('Backend says once that a question fails, and once that it works again', async t => {
  const { backend, lines, probe, trouble, pass } = make(t)
  backend.works('a.query')
  assert.deepEqual(lines, [])
  backend.failed('a.query', 'no such table')
  backend.failed('a.query', 'no such column')
  assert.deepEqual(lines, ['warning no such table'])
  assert.equal(trouble(), 'no such column')
  await pass(10_000)
  assert.equal(probe.asked, 0)
  backend.works('a.query')
  assert.equal(trouble(), undefined)
  assert.deepEqual(lines.slice(1), ['info a.query works again'])
})

test('Backend takes no single answer for the end of a trouble: a second must be calm', async t => {
  const { backend, lines, trouble, pass } = make(t)
  backend.failed(connection, 'nothing listens')
  await pass(900)
  backend.failed(connection, 'nothing listens')
  await pass(900)
  backend.works(connection)
  assert.equal(trouble(), 'nothing listens')
  assert(backend.isAway)
  await pass(100)
  backend.works(connection)
  assert.equal(trouble(), undefined)
  assert(!backend.isAway)
  assert.deepEqual(lines, ['warning nothing listens', 'info Store at db:1 is back'])
})

test('Backend tries a lost connection every two seconds, until it is back', async t => {
  const { backend, lines, probe, trouble, pass } = make(t)
  probe.answer = away
  backend.failed(connection, 'closed the connection')
  await pass(1999)
  assert.equal(probe.asked, 0)
  await pass(1)
  assert.equal(probe.asked, 1)
  assert.equal(trouble(), 'nothing listens')
  await pass(2000)
  assert.equal(probe.asked, 2)
  probe.answer = async () => {}
  await pass(2000)
  assert.equal(trouble(), undefined)
  await pass(10_000)
  assert.equal(probe.asked, 3)
  assert.deepEqual(lines, ['warning closed the connection', 'info Store at db:1 is back'])
})

test('Backend.probe() finds a loss that nobody has run into, and makes nothing of a busy back end', async t => {
  const { backend, lines, probe, trouble, pass } = make(t)
  await backend.probe()
  assert.equal(trouble(), undefined)
  probe.answer = away
  await backend.probe()
  assert.equal(trouble(), 'nothing listens')
  probe.answer = async () => false
  await pass(2000)
  assert.equal(trouble(), 'nothing listens')
  probe.answer = async () => true
  await pass(2000)
  assert.equal(probe.asked, 4)
  assert.deepEqual(lines, ['warning nothing listens', 'info Store at db:1 is back'])
})

test('Backend probes once at a time, and goes on after a probe that took long', async t => {
  const { backend, probe, pass } = make(t)
  let fail = (): void => {}
  probe.answer = () =>
    new Promise<void>((_, reject) => {
      fail = () => reject(new Error('did not answer'))
    })
  const first = backend.probe()
  await backend.probe()
  backend.failed(connection, 'nothing listens')
  await pass(5000)
  assert.equal(probe.asked, 1)
  fail()
  await first
  await pass(2000)
  assert.equal(probe.asked, 2)
})

test('Backend is quiet in the log, and not in the list, where who asked tells the operator', async t => {
  const { backend, lines, trouble } = make(t)
  backend.failed('a.query', 'no such table', { quiet: true })
  backend.failed('a.query', 'no such table')
  assert.deepEqual(lines, [])
  assert.equal(trouble(), 'no such table')
})

test('Backend shows the first of its troubles, until that has ended', async t => {
  const { backend, trouble, pass } = make(t)
  backend.failed('a.query', 'no such table')
  backend.failed('b.query', 'no such column')
  assert.equal(trouble(), 'no such table')
  await pass(1000)
  backend.works('a.query')
  assert.equal(trouble(), 'no such column')
})

test('Backend.stop() ends the probing; what fails afterwards is nobody’s trouble', async t => {
  const { backend, lines, probe, trouble, pass } = make(t)
  backend.failed(connection, 'nothing listens')
  backend.stop()
  await pass(10_000)
  await backend.probe()
  backend.failed('a.query', 'no such table')
  backend.works(connection)
  assert.equal(probe.asked, 0)
  assert.equal(trouble(), 'nothing listens')
  assert.deepEqual(lines, ['warning nothing listens'])
})
