import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { brokerSchema, listenersOf } from '../../src/config/broker-keys.js'
import { brokerConf } from '../../src/config/cross-checks.js'
import { allOrProblems, ConfigError } from '../../src/config/problem.js'
import {
  keysOf,
  named,
  optionsFrom,
  parseConfig,
  type ReadOptions,
  readConfig,
  type Schema
} from '../../src/config/schema.js'
import {
  address,
  decimal,
  duration,
  flag,
  integer,
  list,
  network,
  oneOf,
  optional,
  own,
  percent,
  size,
  text
} from '../../src/config/values.js'
import { makeHome } from '../support/server.js'

/** `line:column: message` of each problem. */
function problems<S extends Schema>(source: string, schema: S, options: ReadOptions<S> = {}): string[] {
  try {
    parseConfig(source, schema, { file: 'x.conf', ...options })
    return []
  } catch (err) {
    assert(err instanceof ConfigError)
    return err.problems.map(p => (p.line === 0 ? `${p.file}: ${p.message}` : `${p.line}:${p.column}: ${p.message}`))
  }
}

test('parseConfig() gives each option its type and default', () => {
  const options = parseConfig(
    'auth.pgsql.server = db:6432\nauth.pgsql.auth_query = select 1',
    {
      server: address('127.0.0.1:5432'),
      pool: integer(8),
      authQuery: text(),
      ssl: flag(false),
      wait: duration('5s'),
      ca: optional(text())
    },
    { prefix: 'auth.pgsql' }
  )
  const port: number = options.server.port
  assert.equal(port, 6432)
  assert.deepEqual(options, {
    server: { host: 'db', port: 6432 },
    pool: 8,
    authQuery: 'select 1',
    ssl: false,
    wait: 5000,
    ca: undefined
  })
})

test('parseConfig() reads sections that the operator names, and values in the order of their numbers', () => {
  const { tcp } = parseConfig('tcp.a = 1883\ntcp.a.max = 5\ntcp.b = 1884\ntcp.a.rule.10 = z\ntcp.a.rule.9 = y', {
    tcp: named({ bind: own(address()), max: integer(1024), rule: named(text()) })
  })
  assert.deepEqual([...tcp.keys()], ['a', 'b'])
  assert.equal(tcp.get('a')!.max, 5)
  assert.deepEqual([...tcp.get('a')!.rule.values()], ['y', 'z'])
})

test('parseConfig() keeps a # in a value, and trims blanks and tabs around it', () => {
  assert.deepEqual(parseConfig('  a\t=\t x/# b \t', { a: text() }), { a: 'x/# b' })
})

test('parseConfig() takes a byte order mark, CRLF and a missing last newline', () => {
  assert.deepEqual(parseConfig('\ufeffa = 1\r\n\r\nb = 2', { a: text(), b: text() }), { a: '1', b: '2' })
})

const schema = { pool: integer(8, { min: 1, max: 256 }), hash: oneOf(['plain', 'sha256'], 'sha256'), database: text() }
for (const { name, source, want } of [
  {
    name: 'an unknown key, with what was meant',
    source: 'database = a\n  pol = 1',
    want: ['2:3: pol: unknown key; did you mean pool?']
  },
  {
    name: 'an unknown key that is like no other',
    source: 'database = a\nxyzzy.abc = 1',
    want: ['2:1: xyzzy.abc: unknown key']
  },
  {
    name: 'what is not a number, at the value',
    source: 'database = a\n\npool =   eight',
    want: ['3:10: pool: expected an integer from 1 to 256, got "eight"']
  },
  {
    name: 'what is out of range',
    source: 'pool = 0\ndatabase = a',
    want: ['1:8: pool: expected an integer from 1 to 256, got "0"']
  },
  {
    name: 'what is no choice',
    source: 'database = a\nhash = md4',
    want: ['2:8: hash: expected plain | sha256, got "md4"']
  },
  { name: 'a key set twice', source: 'database = a\ndatabase = b', want: ['2:1: database: already set at line 1'] },
  {
    name: 'a line without an equals sign',
    source: 'database = a\npool 8',
    want: ['2:1: expected "key = value", got "pool 8"']
  },
  {
    name: 'a line that is no text',
    source: 'database = a\n\u0000\u0001\u0002',
    want: ['2:1: expected "key = value", got "···"']
  },
  { name: 'a missing key', source: '', want: ['1:1: database: missing'] },
  {
    name: 'a comment behind a value',
    source: 'database = a\npool = 8 # eight',
    want: ['2:8: pool: expected an integer from 1 to 256, got "8 # eight"; a comment stands on a line of its own']
  },
  {
    name: 'all problems at once, in the order of the file',
    source: 'pool = x\nfoo bar\nhash = y\nspool = 3',
    want: [
      '1:1: database: missing',
      '1:8: pool: expected an integer from 1 to 256, got "x"',
      '2:1: expected "key = value", got "foo bar"',
      '3:8: hash: expected plain | sha256, got "y"',
      '4:1: spool: unknown key; did you mean pool?'
    ]
  }
]) {
  test(`parseConfig() reports ${name}`, () => {
    assert.deepEqual(problems(source, schema), want)
  })
}

test('ConfigError shows the line and a caret under the place', () => {
  assert.throws(() => parseConfig('# first\npool = eight\ndatabase = d', schema, { file: '/etc/x.conf' }), {
    message: '/etc/x.conf:2:8: pool: expected an integer from 1 to 256, got "eight"\n  pool = eight\n         ^'
  })
})

test('ConfigError rings no bell and floods no terminal with a binary line', () => {
  const garbage = `\u0007\u001b[31m${'x'.repeat(5000)}`
  assert.throws(
    () => parseConfig(garbage, {}),
    (err: Error) => !/[\u0000-\u0009\u000b-\u001f]/.test(err.message) && err.message.length < 600
  )
})

test('200 lines of garbage give 200 problems, each at its line', () => {
  const lines = Array.from({ length: 200 }, (_, i) => (i % 2 ? `!!garbage ${i}` : `no.such.key.${i} = 1`))
  const found = problems(lines.join('\n'), brokerSchema, { ...brokerConf, env: {} })
  assert.deepEqual(
    found.map(p => Number(p.split(':')[0])),
    lines.map((_, i) => i + 1)
  )
})

test('an empty broker.conf is a problem: nobody could connect', () => {
  assert.deepEqual(problems('', brokerSchema, { ...brokerConf, env: {} }), [
    '1:1: listener: no listener is configured; add one, such as listener.tcp.external = 1883'
  ])
})

test('a UTF-16 file, a directory and a missing file are named for what they are', t => {
  const home = makeHome(t)
  writeFileSync(join(home.root, 'utf16.conf'), Buffer.from('\ufeffa = 1', 'utf16le'))
  assert.throws(
    () => readConfig(join(home.root, 'utf16.conf'), {}),
    /utf16\.conf:1:1: the file is UTF-16; save it as UTF-8/
  )
  assert.throws(() => readConfig(home.root, {}), /it is a directory/)
  assert.throws(() => readConfig(join(home.root, 'nope'), {}), /no such file/)
})

test('a variable of the environment wins over the file', () => {
  const env = { BROKER_A__POOL: '9', BROKER_HOME: '/x', OTHER__POOL: '7' }
  assert.deepEqual(parseConfig('a.pool = 8', { pool: integer(1) }, { prefix: 'a', env }), { pool: 9 })
})

test('a problem in the environment names the variable', () => {
  assert.deepEqual(problems('a.pool = 8', { pool: integer(1) }, { prefix: 'a', env: { BROKER_A__POOL: 'x' } }), [
    'BROKER_A__POOL: a.pool: expected an integer from 0, got "x"'
  ])
  assert.deepEqual(problems('', { pool: integer(1) }, { prefix: 'a', env: { BROKER_A__POL: '1', BROKER_B__X: '1' } }), [
    'BROKER_A__POL: a.pol: unknown key; did you mean a.pool?'
  ])
})

for (const { name, conf, want } of [
  {
    name: 'a misspelt family',
    conf: 'listner.tcp.a = 1883',
    want: /listner\.tcp\.a: unknown key; did you mean listener\.tcp\.a\?/
  },
  {
    name: 'a misspelt sub-key, with the listener it is of',
    conf: 'listener.tcp.a = 1\nlistener.tcp.a.max_client = 5',
    want: /did you mean listener\.tcp\.a\.max_clients\?/
  },
  {
    name: 'sub-keys without the listener',
    conf: 'listener.tcp.a.max_clients = 5',
    want: /listener\.tcp\.a: missing, though listener\.tcp\.a\.max_clients is set/
  },
  {
    name: 'one port for two listeners',
    conf: 'listener.tcp.a = 1883\nlistener.tcp.b = 1883',
    want: /^2:18: listener\.tcp\.b: 1883 is taken by listener\.tcp\.a/m
  },
  {
    name: 'verify_peer without a CA',
    conf: 'listener.ssl.a = 1\nlistener.ssl.a.verify = verify_peer',
    want: /needs listener\.ssl\.a\.cacertfile/
  },
  {
    name: 'a certificate as user name that nobody checked',
    conf: 'listener.ssl.a = 1\nlistener.ssl.a.peer_cert_as_username = cn',
    want: /needs listener\.ssl\.a\.verify = verify_peer/
  },
  {
    name: "emqttd's own keys, with the reason",
    conf: 'listener.tcp.a = 1\nnode.cookie = x\nlistener.tcp.a.acceptors = 16',
    want: /node\.cookie: a setting of the Erlang VM.*\n.*acceptors: one event loop accepts here/
  }
]) {
  test(`broker.conf: ${name}`, () => {
    assert.match(problems(conf, brokerSchema, { ...brokerConf, env: {} }).join('\n'), want)
  })
}

const values: [name: string, parse: (t: string) => unknown, good: [string, unknown][], bad: string[]][] = [
  [
    'address',
    address().parse,
    [
      ['1883', { host: undefined, port: 1883 }],
      ['127.0.0.1:1883', { host: '127.0.0.1', port: 1883 }],
      ['[::1]:1883', { host: '::1', port: 1883 }],
      ['::1:1883', { host: '::1', port: 1883 }],
      ['localhost:0', { host: 'localhost', port: 0 }]
    ],
    ['', 'x', ':1883', '127.0.0.1', '127.0.0.1:99999', '300.0.0.1:1', '[::1]', '[x]:1', 'a b:1', '-1']
  ],
  [
    'address with a usual port',
    address(undefined, { port: 5432 }).parse,
    [
      ['db', { host: 'db', port: 5432 }],
      ['::1', { host: undefined, port: 1 }],
      ['5433', { host: undefined, port: 5433 }]
    ].filter(([t]) => t !== '::1') as [string, unknown][],
    ['', 'a b']
  ],
  [
    'duration',
    duration().parse,
    [
      ['500ms', 500],
      ['30s', 30_000],
      ['1h30m', 5_400_000],
      ['1d', 86_400_000]
    ],
    ['', '5', '5x', '-1s', '25d']
  ],
  [
    'size',
    size().parse,
    [
      ['512', 512],
      ['64KB', 65_536],
      ['8MB', 8_388_608],
      ['1gb', 1_073_741_824]
    ],
    ['', 'x', '1.5MB', '-1']
  ],
  [
    'flag',
    flag().parse,
    [
      ['on', true],
      ['off', false],
      ['true', true],
      ['false', false]
    ],
    ['', 'yes', '1']
  ],
  ['decimal', decimal(1, { min: 0.5, max: 2 }).parse, [['0.75', 0.75]], ['', 'x', '3', 'NaN']],
  [
    'list',
    list(integer()).parse,
    [
      ['1, 2,3', [1, 2, 3]],
      ['', []]
    ],
    ['1,x']
  ],
  [
    'network',
    network().parse,
    [
      ['10.0.0.0/8', { address: '10.0.0.0', prefix: 8, family: 'ipv4' }],
      ['::1', { address: '::1', prefix: 128, family: 'ipv6' }]
    ],
    ['', '10.0.0.0/33', 'x', '1.2.3/8']
  ]
]
for (const [name, parse, good, bad] of values) {
  test(`${name}() reads what it should and refuses the rest`, () => {
    for (const [raw, want] of good) assert.deepEqual(parse(raw), want, raw)
    for (const raw of bad) assert.throws(() => parse(raw), SyntaxError, raw)
  })
}

test('allOrProblems() collects the problems of every step', () => {
  const bad = (source: string) => () => parseConfig(source, {}, { file: source })
  assert.throws(
    () => allOrProblems(bad('a'), () => 1, bad('b')),
    (err: ConfigError) => err.problems.length === 2
  )
  assert.deepEqual(
    allOrProblems(
      () => 1,
      () => 'x'
    ),
    [1, 'x']
  )
})

test('optionsFrom() fills in defaults and refuses what the schema has not', () => {
  const options = optionsFrom(brokerSchema, { listener: { tcp: { main: { bind: { host: '127.0.0.1', port: 0 } } } } })
  assert.deepEqual(
    listenersOf(options).map(l => [l.transport, l.name, l.maxClients]),
    [['tcp', 'main', 102400]]
  )
  assert.equal(options.mqtt.allowAnonymous, 'local')
  assert.throws(
    () => optionsFrom(brokerSchema, { mqtt: { maxPacketsize: 1 } } as object),
    /mqtt\.maxPacketsize: unknown option/
  )
  assert.throws(
    () => optionsFrom(brokerSchema, { listener: { tcp: { a: {} } } } as object),
    /listener\.tcp\.a\.bind: missing/
  )
})

test('keysOf() names every key as a file has it', () => {
  assert.deepEqual(keysOf({ a: { b: text(), cD: integer(1) }, e: named({ x: own(text()), y: text() }) }, 'p'), [
    'p.a.b',
    'p.a.c_d',
    'p.e.*',
    'p.e.*.y'
  ])
})

test('percent() takes 0% to 100%', () => {
  const { parse } = percent()
  assert.deepEqual(['0%', '20%', '62.5%', '100%'].map(parse), [0, 0.2, 0.625, 1])
  for (const wrong of ['101%', '20', '-1%', '%', '0.2']) assert.throws(() => parse(wrong), SyntaxError, wrong)
})

test("mqtt.mqueue, mqtt.client.max_publish_rate and mqtt.max_keepalive have emqttd's forms, and nonsense is a problem", () => {
  const of = (lines: string) =>
    parseConfig(`listener.tcp.a = 0\n${lines}`, brokerSchema, { ...brokerConf, env: {} }).mqtt
  const { mqueue } = of('mqtt.mqueue.type = priority\nmqtt.mqueue.priority = topic/1=10, a=b=8')
  assert.deepEqual(
    [...mqueue.priority!],
    [
      ['topic/1', 10],
      ['a=b', 8]
    ]
  )
  assert.deepEqual([mqueue.lowWatermark, mqueue.highWatermark], [0.2, 0.6])
  const rate = (text: string) => of(`mqtt.client.max_publish_rate = ${text}`).client.maxPublishRate
  assert.deepEqual(rate('0'), undefined)
  assert.deepEqual(rate('5'), { burst: 5, perSecond: 5 })
  assert.deepEqual(rate('100, 10'), { burst: 100, perSecond: 10 })
  assert.equal(of('mqtt.max_keepalive = 5m').maxKeepalive, 300_000)
  for (const wrong of [
    'mqtt.mqueue.priority = a=1',
    'mqtt.mqueue.type = priority\nmqtt.mqueue.priority = a',
    'mqtt.mqueue.type = priority\nmqtt.mqueue.priority = a=0',
    'mqtt.mqueue.type = priority\nmqtt.mqueue.priority = a=256',
    'mqtt.mqueue.type = priority\nmqtt.mqueue.priority = a/#=1',
    'mqtt.mqueue.type = priority\nmqtt.mqueue.priority = a=1,a=2',
    'mqtt.mqueue.low_watermark = 70%',
    'mqtt.client.max_publish_rate = 0,5',
    'mqtt.client.max_publish_rate = fast',
    'mqtt.max_keepalive = 500ms',
    'mqtt.max_keepalive = 19h'
  ]) {
    assert.equal(problems(`listener.tcp.a = 0\n${wrong}`, brokerSchema, { ...brokerConf, env: {} }).length, 1, wrong)
  }
})
