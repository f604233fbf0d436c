import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '../../src/base/errors.js'
import { fileSinks } from '../../src/base/log/files.js'
import { createLog, type Level, type Sink, toText } from '../../src/base/log/log.js'
import { Repeats } from '../../src/base/log/repeats.js'
import type { LogOptions } from '../../src/config/broker-keys.js'
import { until } from '../support/server.js'

function memory(level: Level, format: Sink['format'] = 'text'): Sink & { lines: string[] } {
  const lines: string[] = []
  return { level, format, lines, write: line => void lines.push(line) }
}

test('createLog() gives each sink what it asked for, in its format', () => {
  const [text, errors, json] = [memory('info'), memory('error'), memory('debug', 'json')]
  const log = createLog(text, errors, json)
  log.debug('quiet')
  log.info('listening', { on: '127.0.0.1:1883' })
  log.child('auth_pgsql').warning('lost a connection', { host: 'db', tries: 2 })
  log.error('failed', { err: new Error('no such table') })
  log.critical('bug')
  const at = String.raw`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}`
  assert.match(
    text.lines.join(''),
    new RegExp(
      `^${at} \\[info\\] listening on=127.0.0.1:1883\n${at} \\[warning\\] auth_pgsql: lost a connection host=db tries=2\n` +
        `${at} \\[error\\] failed: no such table\n${at} \\[critical\\] bug\n$`
    )
  )
  assert.equal(errors.lines.length, 2)
  const events = json.lines.map(line => JSON.parse(line))
  assert.deepEqual(
    events.map(e => [e.level, e.name, e.msg]),
    [
      ['debug', undefined, 'quiet'],
      ['info', undefined, 'listening'],
      ['warning', 'auth_pgsql', 'lost a connection'],
      ['error', undefined, 'failed'],
      ['critical', undefined, 'bug']
    ]
  )
  assert.match(events[3].err.stack, /log\.test/)
  assert.ok(!Number.isNaN(Date.parse(events[0].time)))
})

test('sinks come and go at run time; children made before hear of it', () => {
  const log = createLog()
  const child = log.child('early')
  child.debug('to nobody')
  const sink = memory('debug')
  const remove = log.add(sink)
  child.debug('heard')
  remove()
  child.critical('to nobody')
  assert.equal(sink.lines.length, 1)
  assert.match(sink.lines[0]!, /early: heard/)
})

test('after close() the log is silent, and a sink is closed once', async () => {
  let closed = 0
  const sink = { ...memory('debug'), close: async () => void closed++ }
  const log = createLog(sink)
  log.info('one')
  await log.close()
  log.info('two')
  await log.close()
  assert.deepEqual([sink.lines.length, closed], [1, 1])
})

test('toText() lets nothing from outside forge a line or command a terminal', () => {
  const event = { level: 'info', time: '2026-11-22T21:15:49.123Z' } as const
  for (const [fields, expected] of [
    [{ msg: 'x', clientId: 'a b' }, 'x clientId="a b"'],
    [{ msg: 'x', clientId: 'a\n2026-11-22 [critical] forged' }, 'x clientId="a\\n2026-11-22 [critical] forged"'],
    [{ msg: 'x', clientId: '\u001b[2J' }, 'x clientId="\\u001b[2J"'],
    [{ msg: 'x', topic: 'a/+/#', n: 1, list: [1, 'b'] }, 'x topic=a/+/# n=1 list="[1,\\"b\\"]"'],
    [{ msg: 'x', empty: '' }, 'x empty=""'],
    [{ msg: 'x\u0007y' }, 'x·y'],
    [{ msg: 'x', err: { type: 'Error', message: 'one\n2026 two' } }, 'x: one\n    2026 two'],
    [
      { msg: 'x', err: { type: 'TypeError', message: 'm', stack: 'TypeError: m\n    at f' } },
      'x: TypeError: m\n        at f'
    ],
    [{ msg: 'x', err: 'a string was thrown' }, 'x: a string was thrown'],
    [{ msg: 'x', err: null }, 'x: null'],
    [{ msg: 'x', err: { code: 7 } as never }, 'x: {"code":7}']
  ] as const) {
    assert.equal(toText({ ...event, ...fields } as never), `2026-11-22 21:15:49.123 [info] ${expected}\n`)
  }
  const line = toText({ ...event, msg: 'm', name: 'plugin' })
  assert.equal(line, '2026-11-22 21:15:49.123 [info] plugin: m\n')
})

test('whatever was thrown can be logged', () => {
  const sink = memory('info')
  const log = createLog(sink)
  for (const err of [new BrokerError('CONFLICT', 'taken'), 'text', undefined, null, 7, { a: 1 }])
    log.error('x', { err })
  assert.deepEqual(
    sink.lines.map(line => line.replace(/^.*\] /, '')),
    ['x: taken\n', 'x: text\n', 'x\n', 'x: null\n', 'x: 7\n', 'x: {"a":1}\n']
  )
})

test('levels are set at run time by target, and a sink that comes later keeps to them', () => {
  const [file, errors, reader] = [
    { ...memory('info'), target: 'console' },
    { ...memory('error'), target: 'error' },
    memory('warning')
  ]
  const log = createLog(file, errors, reader)
  const child = log.child('early')
  assert.deepEqual(
    log.targets().map(t => [t.target, t.level, t.configured]),
    [
      ['console', 'info', 'info'],
      ['error', 'error', 'error']
    ]
  )
  assert.deepEqual(
    log.setLevel('debug').map(t => [t.target, t.level, t.configured]),
    [['console', 'debug', 'info']]
  )
  child.debug('one')
  const late = { ...memory('info', 'json'), target: 'console' }
  const remove = log.add(late)
  child.debug('two')
  remove()
  assert.deepEqual([file.lines.length, late.lines.length, errors.lines.length, reader.lines.length], [2, 1, 0, 0])
  assert.deepEqual(log.setLevel('info', 'nobody'), [])
  log.setLevel('critical', 'console')
  log.setLevel('warning', 'error')
  log.warning('three')
  assert.deepEqual([file.lines.length, errors.lines.length, reader.lines.length], [2, 1, 1])
})

test('lines that repeat are folded by text and client; the first are always there, and so is their number', async () => {
  const sink = memory('info')
  const log = createLog(sink)
  log.limitRepeats(3)
  for (let i = 0; i < 10; i++) {
    log.warning('bad packet', { clientId: 'loud', why: `number ${i}` })
    if (i < 3) log.warning('bad packet', { clientId: 'calm' })
    log.debug('nobody hears this')
    log.critical('bug')
  }
  log.child('other').info('bad packet', { clientId: 'loud' }) // the same words, said by another: counted with them
  const lines = (): string[] => sink.lines.map(line => line.replace(/^.*?\[/, '[').trim())
  assert.deepEqual(
    lines().filter(line => line.includes('loud')),
    [0, 1, 2].map(i => `[warning] bad packet clientId=loud why="number ${i}"`)
  )
  assert.equal(lines().filter(line => line.includes('calm')).length, 3)
  assert.equal(lines().filter(line => line.includes('bug')).length, 10)
  await log.close()
  assert.equal(lines().filter(line => line.includes('repeated')).length, 1)
  assert.match(lines().at(-1)!, /bad packet … repeated 8 times in 1 s clientId=loud$/)
})

test('limitRepeats(0) writes every line', () => {
  const sink = memory('info')
  const log = createLog(sink)
  log.limitRepeats(0)
  for (let i = 0; i < 500; i++) log.info('x')
  assert.equal(sink.lines.length, 500)
})

test('Repeats lets as many through in every second, tells after ten, and remembers a bounded number of keys', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  let now = 0
  const said: string[] = []
  const repeats = new Repeats(2, () => now)
  const admit = (key: string): boolean => {
    const admitted = repeats.admit(key)
    if (!admitted) repeats.fold(key, suffix => void said.push(`${key} ${suffix}`))
    return admitted
  }
  assert.deepEqual([admit('a'), admit('a'), admit('a')], [true, true, false])
  now = 1000
  assert.deepEqual([admit('a'), admit('a'), admit('a')], [true, true, false])
  now = 10_000
  assert.deepEqual(said, [])
  t.mock.timers.tick(10_000)
  assert.deepEqual(said, ['a … repeated 2 times in 10 s'])
  for (let i = 0; i < 3; i++) admit('b')
  for (let i = 0; i < 1000; i++) assert.ok(admit(`client ${i}`))
  assert.deepEqual(said.slice(1), ['b … repeated 1 time in 1 s'])
})

test('of an error no more is written than its words, its stack and its code', () => {
  const json = memory('info', 'json')
  const log = createLog(json)
  const err = Object.assign(new Error('parse error'), {
    code: 'HPE_INVALID',
    rawPacket: Buffer.from('hush'),
    config: 'hush'
  })
  log.error('x', { err })
  const { err: written } = JSON.parse(json.lines[0]!)
  assert.deepEqual(Object.keys(written).sort(), ['code', 'message', 'stack', 'type'])
  assert.deepEqual([written.type, written.message, written.code], ['Error', 'parse error', 'HPE_INVALID'])
})

// ── Files ────────────────────────────────────────────────────────────────────

function directory(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'broker-log-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

const options = (console: Partial<LogOptions['console']> = {}): LogOptions => ({
  messagesPerSecond: 100,
  console: { to: 'file', level: 'info', format: 'text', file: 'log/broker.log', size: 1024, count: 3, ...console },
  error: { file: 'log/error.log', size: 1024, count: 1 },
  crash: { file: 'log/crash.log' }
})

test('fileSinks() writes the log and, apart, its errors; close() waits until all is there', async t => {
  const dir = directory(t)
  const log = createLog(...fileSinks(options(), file => join(dir, file)))
  log.info('one')
  log.error('two')
  await log.close()
  assert.match(readFileSync(join(dir, 'log/broker.log'), 'utf8'), /one\n.*two\n$/)
  assert.match(readFileSync(join(dir, 'log/error.log'), 'utf8'), /^[^\n]*two\n$/)
})

test('log.console decides which files there are', async t => {
  for (const [to, files] of [
    ['off', []],
    ['console', ['error.log']],
    ['file', ['broker.log', 'error.log']],
    ['both', ['broker.log', 'error.log']]
  ] as const) {
    const dir = directory(t)
    const log = createLog(...fileSinks(options({ to }), file => join(dir, file)))
    log.error('x')
    await log.close()
    assert.deepEqual(existsSync(join(dir, 'log')) ? readdirSync(join(dir, 'log')).sort() : [], files, to)
  }
})

test('a file is rotated at its size, a counted number of old ones is kept, and no line is lost between them', async t => {
  const dir = directory(t)
  const log = createLog(...fileSinks(options(), file => join(dir, file)))
  const all = 60
  for (let i = 1; i <= all; i++) log.info(`line ${i} of many, ${'x'.repeat(60)}`)
  await log.close()
  const files = readdirSync(join(dir, 'log'))
    .filter(name => name.startsWith('broker'))
    .sort()
  assert.deepEqual(files, ['broker.log', 'broker.log.1', 'broker.log.2', 'broker.log.3'])
  const kept = [...files].reverse().flatMap(name => readFileSync(join(dir, 'log', name), 'utf8').split('\n'))
  const numbers = kept.filter(Boolean).map(line => Number(/line (\d+)/.exec(line)![1]))
  assert.deepEqual(
    numbers,
    Array.from({ length: numbers.length }, (_, i) => all - numbers.length + 1 + i)
  )
})

test('fileSinks() throws where the log cannot be written', t => {
  const dir = directory(t)
  mkdirSync(join(dir, 'log/broker.log'), { recursive: true }) // in its place
  assert.throws(() => fileSinks(options(), file => join(dir, file)), { code: 'EISDIR', path: /broker\.log$/ })
})

test('a file that cannot be written any more is told, and written again when it can be', async t => {
  const dir = directory(t)
  mkdirSync(join(dir, 'log/broker.log.3/full'), { recursive: true }) // where the rotation has to move the next one
  writeFileSync(join(dir, 'log/broker.log.2'), '')
  const said: string[] = []
  t.mock.method(process.stderr, 'write', (text: string) => said.push(text) > 0)
  let now = Date.now()
  t.mock.method(Date, 'now', () => now)
  const log = createLog(...fileSinks(options(), file => join(dir, file)))
  log.info('x'.repeat(1024))
  await until('it is told', () => said.length > 0)
  log.info('lost')
  await sleep(100) // longer than a line waits for others
  rmSync(join(dir, 'log/broker.log.3'), { recursive: true })
  now += 5001
  log.info('written')
  await log.close()
  assert.match(said.join(''), /^cannot write .*log\/broker\.log: [^\n]*\n$/)
  const text = readFileSync(join(dir, 'log/broker.log'), 'utf8')
  assert.ok(text.endsWith('written\n') && !text.includes('lost'))
})
