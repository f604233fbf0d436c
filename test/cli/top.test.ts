/** broker-ctl top: its pictures of given data, and the program against a real broker and on a terminal. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { suite, test } from 'node:test'
import { Chalk } from 'chalk'
import { bytes, count, fitted, frame, help, type Pane, panes } from '../../src/cli/top-frame.js'
import type { ClientLoad, Sample } from '../../src/ops/samples.js'
import { begin, packageRoot } from '../support/cli.js'
import { client, makeHome, type Running, startServer, until } from '../support/server.js'

const plain = new Chalk({ level: 0 })
const atFirst = { pane: 'clients' as Pane, order: 0, skip: 0, isPaused: false, isHelp: false, trouble: undefined }
const usual = { columns: 80, rows: 24 }

const load = (client_id: string, more: Partial<ClientLoad> = {}): ClientLoad => ({
  client_id,
  username: null,
  peername: '127.0.0.1:40000',
  messages_in: 0,
  messages_out: 0,
  bytes_in: 0,
  bytes_out: 0,
  queue: 0,
  inflight: 0,
  unsent: 0,
  dropped_rate: 0,
  dropped: 0,
  ...more
})

const sample: Sample = {
  node: 'broker@127.0.0.1',
  version: '1.2.3',
  uptime: 5124,
  seconds: 1,
  clients: 15_002,
  sessions: 15_010,
  subscriptions: 30_004,
  retained: 12,
  rates: { messages_in: 12_345, messages_out: 1_234_567, bytes_in: 1_258_291, bytes_out: 130_023_424, dropped: 0.5 },
  latency: { p50: 0.25, p99: 2.5 },
  event_loop: { busy: 0.334, late_p99: 0.31, late_max: 4.2 },
  cpu: 0.352,
  memory: { rss: 125_829_120, heap_used: 41_943_040, heap_total: 83_886_080, external: 3_145_728 },
  sampled: 16,
  top_clients: [
    load('gateway', { messages_in: 12_000, bytes_in: 1_200_000, bytes_out: 48_000 }),
    load('archive', { messages_out: 11_000.4, bytes_out: 1_100_000, bytes_in: 44_000, inflight: 20, queue: 1000 }),
    load('sensor/plant-7/line-3/oven-12/temperature', { messages_in: 0.25, bytes_in: 12 }),
    load('\u001b[31mred\u202e', { messages_in: 1 }),
    load('温度センサー', { messages_in: 2 })
  ],
  top_topics: [
    { topic: 'plant/oven/temperature', messages: 6000, bytes: 480_000, receivers: 3 },
    { topic: 'plant/oven/pressure', messages: 5000, bytes: 510_000, receivers: 0 }
  ],
  slow: [
    load('archive', {
      queue: 1000,
      inflight: 20,
      unsent: 70_000,
      dropped_rate: 12.5,
      dropped: 123_456,
      messages_out: 11_000.4
    })
  ],
  slow_count: 1
}

const head = `broker@127.0.0.1  1.2.3  up 1:25:24                15002 clients, 15010 sessions
messages  in   12345/s   out    1.2M/s   lost 0.50/s                  p99 2.5 ms
bytes     in    1.2M/s   out    124M/s          30004 subscriptions, 12 retained
process   cpu 35 %   event loop 33 % busy, late by 0.31 ms (p99), 4.2 ms (most)
memory    120M in all   heap 40.0M of 80.0M   outside of it 3.0M
`
const keys = 'q quit   c t s pane   ←→ order   ↑↓ scroll   p pause   ? help'

const pictures: Record<Pane, string> = {
  clients: `[clients]  topics   slow (1)                                             by rate
CLIENT                         IN/s    OUT/s   IN B/s  OUT B/s    QUEUE  UNACKED
gateway                       12000        0     1.1M    46.9K        0        0
archive                           0    11000    43.0K     1.0M     1000       20
温度センサー                      2        0        0        0        0        0
\\u001b[31mred\\u202e               1        0        0        0        0        0
sensor/plant…/temperature      0.25        0       12        0        0        0`,
  topics: ` clients  [topics]  slow (1)                 1 message of 16 looked at   by rate
TOPIC                                                     IN/s   IN B/s   GET IT
plant/oven/temperature                                    6000     469K        3
plant/oven/pressure                                       5000     498K        0`,
  slow: ` clients   topics  [slow (1)]                                           by queue
SUBSCRIBER                    QUEUE  UNACKED UNSENT B   LOST/s     LOST    OUT/s
archive                        1000       20    68.4K       13     123k    11000`
}

for (const pane of panes) {
  test(`frame() of ${pane} at 80 by 24`, () => {
    const lines = frame(sample, { ...atFirst, pane }, usual, plain)
    assert.equal(lines.length, 24)
    assert.equal(lines.at(-1), keys)
    assert.equal(
      lines
        .slice(0, -1)
        .map(line => line.trimEnd())
        .join('\n')
        .trimEnd(),
      `${head}\n${pictures[pane]}`
    )
  })
}

test('frame() puts in the order that is asked for, scrolls, and says when nothing comes', () => {
  const ids = (lines: string[]): string[] => lines.slice(8, -1).flatMap(line => line.split(' ')[0] || [])
  assert.deepEqual(ids(frame(sample, { ...atFirst, pane: 'topics', order: 1 }, usual, plain)), [
    'plant/oven/pressure',
    'plant/oven/temperature'
  ])
  assert.equal(ids(frame(sample, { ...atFirst, order: 2 }, usual, plain))[0], 'archive')
  const many = { ...sample, top_clients: Array.from({ length: 40 }, (_, i) => load(`c${i}`, { messages_in: 100 - i })) }
  const scrolled = frame(many, { ...atFirst, skip: 10 }, usual, plain)
  assert.match(scrolled[6]!, /11 to 25 of 40 {3}by rate$/)
  assert.deepEqual([ids(scrolled)[0], ids(scrolled).length], ['c10', 15])
  assert.equal(ids(frame(many, { ...atFirst, skip: 1000 }, usual, plain)).at(-1), 'c39')
  assert.match(frame(sample, { ...atFirst, isPaused: true }, usual, plain).at(-1)!, / {3}paused$/)
  assert.equal(frame(sample, { ...atFirst, trouble: 'no broker' }, usual, plain).at(-1), 'no broker')
  assert.ok(
    frame(sample, { ...atFirst, isHelp: true }, usual, plain)
      .join('\n')
      .includes(help.join('\n'))
  )
  const nobody = { ...sample, slow: [], slow_count: 0 }
  assert.equal(frame(nobody, { ...atFirst, pane: 'slow' }, usual, plain)[8], 'every client keeps up')
})

test('frame() keeps to the terminal, however small or large, and colours change no width', () => {
  const cells = (line: string): number => [...line].reduce((n, c) => n + (/[\u3041-\u9fff]/.test(c) ? 2 : 1), 0)
  const coloured = new Chalk({ level: 1 })
  for (const [columns, rows] of [
    [80, 24],
    [20, 5],
    [1, 1],
    [40, 10],
    [200, 60]
  ] as const) {
    for (const pane of panes) {
      for (const isHelp of [false, true]) {
        const lines = frame(sample, { ...atFirst, pane, isHelp }, { columns, rows }, plain)
        assert.equal(lines.length, rows)
        if (columns >= 20) for (const line of lines) assert.ok(cells(line) <= columns, `${columns}: ${line}`)
        const painted = frame(sample, { ...atFirst, pane, isHelp }, { columns, rows }, coloured)
        assert.deepEqual(
          painted.map(line => line.replace(/\u001b\[\d+m/g, '')),
          lines
        )
      }
    }
  }
})

test('fitted() fills so many cells, cuts the middle out, and disarms what a terminal would obey', () => {
  for (const text of [
    '',
    'short',
    'a name that is much longer than that',
    '温度センサー温度センサー',
    'e\u0301'.repeat(30)
  ]) {
    const made = fitted(text, 14)
    const cells = [...made].reduce((n, c) => n + (/\p{M}/u.test(c) ? 0 : /[\u3041-\u9fff]/.test(c) ? 2 : 1), 0)
    assert.equal(cells, 14, made)
  }
  assert.equal(fitted('sensors/one/temperature', 14), 'sensor…rature ')
  const nasty = fitted('a\u001b]0;x\u0007\u009b2J\u202e\u200b\ud800\n\u{e0041}', 80).trimEnd()
  assert.equal(nasty, 'a\\u001b]0;x\\u0007\\u009b2J\\u202e\\u200b\\ud800\\u000a\\ue0041')
  assert.ok(fitted('x'.repeat(65_535), 20).length === 20)
})

test('count() and bytes() need six characters at most', () => {
  const counts = [0, 0.25, 7, 7.25, 12_345, 99_999, 100_000, 1_234_567, 999_999_999, 1e12]
  assert.deepEqual(counts.map(count), ['0', '0.25', '7', '7.3', '12345', '99999', '100k', '1.2M', '1.0G', '1.0T'])
  assert.deepEqual([0, 999, 1000, 1024, 1_258_291, 1023 * 1024 ** 2].map(bytes), [
    '0',
    '999',
    '1.0K',
    '1.0K',
    '1.2M',
    '1.0G'
  ])
})

suite('broker-ctl top', { concurrency: 3 }, () => {
  const ctl = ({ home }: Pick<Running, 'home'>, ...args: string[]) =>
    begin('broker-ctl', ['--home', home.root, ...args])

  test('--once prints one plain picture, and with --json its data', async t => {
    const running = await startServer(t)
    const lamp = await client(t, running, { clientId: 'lamp' })
    const publishing = setInterval(() => lamp.publish('lamp/state', 'on'), 10)
    t.after(() => clearInterval(publishing))
    const [picture, topics, data] = await Promise.all(
      [
        ['top', '--once'],
        ['top', 'topics', '--once'],
        ['--json', 'top', '--once']
      ].map(args => ctl(running, ...args).ended)
    )
    assert.deepEqual([picture!.code, picture!.err], [0, ''])
    assert.match(picture!.out, /^broker@127\.0\.0\.1 .* 1 client, 1 session\n/)
    assert.match(picture!.out, /^lamp +\d+ +0 /m)
    assert.ok(picture!.out.split('\n').every(line => line.length <= 80 && !/\s$|\u001b/.test(line)))
    assert.match(topics!.out, /^lamp\/state +\d+ +\d+ +0$/m)
    const told = JSON.parse(data!.out) as Sample
    assert.equal(told.top_clients[0]?.client_id, 'lamp')
    assert.ok(told.rates.messages_in > 0)
    await until('nobody looks any more', () => running.server.clients.ingress.sample === undefined)
  })

  test('--json goes on, a line each second, until the broker stops', async t => {
    const running = await startServer(t)
    const { ended, out } = ctl(running, 'top', '--json')
    await until('two lines', () => out().split('\n').length > 2)
    await running.server.stop('fast')
    const { code, out: all } = await ended
    assert.equal(code, 0)
    for (const line of all.trim().split('\n')) assert.equal((JSON.parse(line) as Sample).node, 'broker@127.0.0.1')
  })

  test('without a terminal, with a wrong word, or without a broker it says so', async t => {
    const running = await startServer(t)
    const away = { home: makeHome(t) }
    const ended = async (at: Pick<Running, 'home'>, ...args: string[]) => {
      const { code, out, err } = await ctl(at, ...args).ended
      return [code, out, err]
    }
    const noTerminal = 'top needs a terminal of its own; --once prints it one time, --json its data\n'
    assert.deepEqual(await ended(running, 'top'), [2, '', noTerminal])
    const noPane = 'no such pane: fast; there are clients, topics, slow\n'
    assert.deepEqual(await ended(running, 'top', 'fast', '--once'), [2, '', noPane])
    const noWatch = 'top watches by itself: --watch is not for it\n'
    assert.deepEqual(await ended(running, '--watch', 'top'), [2, '', noWatch])
    const noBroker = `Node 'broker@127.0.0.1' not responding to pings.\n`
    assert.deepEqual(await ended(away, 'top', '--once'), [3, '', noBroker])
  })

  const hasTerminals = process.platform === 'linux' && spawnSync('script', ['--version']).status === 0

  test('on a terminal it obeys keys, outlives its broker, and leaves all as it was', {
    skip: !hasTerminals
  }, async t => {
    let running = await startServer(t)
    await client(t, running, { clientId: 'lamp' })
    const { home, server } = running
    const command = `stty rows 24 columns 80; '${process.execPath}' '${join(packageRoot, 'bin/broker-ctl')}' --home '${home.root}' top; echo status $?; stty -a`
    const child = spawn('script', ['-qfc', command, '/dev/null'], { env: { ...process.env, TERM: 'xterm' } })
    t.after(() => child.kill('SIGKILL'))
    let shown = ''
    child.stdout.setEncoding('utf8').on('data', text => {
      shown += text
    })
    const shows = async (what: string | RegExp): Promise<void> => {
      await until(`it shows ${what}`, () => (typeof what === 'string' ? shown.includes(what) : what.test(shown)))
      shown = ''
    }
    await shows('\u001b[?1049h')
    child.stdin.write('t')
    await shows('[topics]')
    child.stdin.write('s\u001b[C')
    await shows('by losses')
    child.stdin.write('?')
    await shows(help[0]!)
    child.stdin.write('?c')
    await shows('[clients]')
    await server.stop('fast')
    await shows('no broker, asking again each second')
    running = await startServer(t, {}, home)
    await shows(/0 clients, 0 sessions[\s\S]*\[clients\][\s\S]*q quit/)
    child.stdin.write('q')
    await until('it ends, and the terminal is as it was', () => / icanon[\s\S]* echo /.test(shown))
    assert.match(shown, /\u001b\[\?7h\u001b\[\?25h\u001b\[\?1049l[\s\S]*status 0/)
  })
})
