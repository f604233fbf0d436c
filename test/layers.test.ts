import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'

// Who may import whom, type imports counted. `x/` is a folder with all that is in it, another name is a file. The first
// entry that a file fits is its own. docs/architecture.md says what each room is for.
const may: Record<string, string[]> = {
  // what knows nothing of the broker
  'wire/': ['wire/'],
  'base/': ['base/'],
  'config/': ['base/', 'config/', 'wire/topic'],
  'store/': ['base/', 'store/'],
  'observe/metrics': [],
  'observe/topic-sample': [],
  'observe/vm': [],
  'observe/alarms': ['base/'],
  'net/': ['base/', 'config/', 'net/', 'observe/metrics', 'wire/'],

  // who may come in, and what plugins have
  'plugins/hooks': ['base/'],
  'access/': ['access/', 'base/', 'config/', 'plugins/hooks', 'wire/'],
  'plugins/kit/': ['access/', 'base/', 'config/', 'plugins/kit/', 'wire/topic'],
  'plugins/auth-scram/commands': ['base/errors', 'commands/command', 'plugins/auth-scram/users'],
  'plugins/auth-': ['access/scram', 'plugin', 'plugins/auth-'],
  'plugins/': ['base/', 'config/', 'plugins/', 'store/plugin-storage'],
  plugin: ['base/', 'config/', 'plugins/context', 'plugins/hooks', 'plugins/kit/', 'store/plugin-storage'],

  // messages
  'persistence/restore': ['delivery/', 'persistence/', 'store/'],
  'persistence/': ['base/client-info', 'delivery/message', 'persistence/', 'store/', 'wire/'],
  'delivery/message': ['wire/'],
  'delivery/': ['base/', 'delivery/', 'net/outbox', 'observe/metrics', 'observe/topic-sample', 'persistence/', 'wire/'],
  'observe/slow-clients': ['base/', 'delivery/session/', 'observe/alarms'],
  'observe/trace/': ['base/', 'config/values', 'net/packet-observer', 'observe/trace/', 'wire/'],

  // clients
  'client/': [
    'access/',
    'base/',
    'client/',
    'config/',
    'delivery/',
    'net/',
    'observe/alarms',
    'observe/metrics',
    'observe/slow-clients',
    'observe/trace/',
    'persistence/',
    'plugins/hooks',
    'store/',
    'wire/'
  ],

  // what can be asked of the broker, and who asks
  'observe/explain/': ['access/', 'base/', 'delivery/', 'net/peer', 'observe/explain/', 'wire/'],
  'observe/stats': ['delivery/dispatcher'],
  'observe/sys-topics': ['base/', 'delivery/', 'observe/alarms', 'observe/stats', 'plugins/hooks'],
  'observe/top': ['base/log/log', 'ops/operations', 'ops/samples'],
  'ops/samples': [],
  'ops/results': ['net/listener-info', 'observe/trace/trace-file', 'wire/frame'],
  'ops/operations': ['access/', 'base/', 'observe/', 'ops/results', 'ops/samples', 'plugins/host', 'store/', 'wire/'],
  'ops/': ['access/', 'base/', 'client/', 'config/', 'delivery/', 'net/', 'observe/', 'ops/', 'plugins/host', 'store/'],
  'commands/': ['base/', 'commands/', 'ops/operations', 'plugins/auth-scram/commands'],
  'admin/client': ['base/errors', 'commands/', 'ops/samples'],
  'admin/': ['admin/rows', 'base/', 'commands/command', 'ops/operations'],
  'mgmt/': ['access/', 'base/', 'config/', 'mgmt/', 'net/', 'observe/alarms', 'ops/operations'],

  // all of it together, and the doors
  'server/': [
    'access/',
    'admin/server',
    'base/',
    'client/',
    'commands/',
    'config/',
    'mgmt/management',
    'net/',
    'observe/',
    'ops/',
    'plugins/',
    'server/',
    'store/'
  ],
  'cli/': ['admin/client', 'base/', 'cli/', 'commands/', 'config/', 'net/', 'ops/', 'plugins/', 'server/', 'store/'],
  index: ['access/', 'base/', 'config/', 'net/', 'ops/', 'plugin', 'plugins/', 'server/'],
  testing: ['index', 'wire/topic']
}

// broker-ctl must start at once: what it loads at run time is less than what it knows the types of.
const atRunTime: Record<string, string[]> = {
  'commands/': ['base/errors', 'base/uptime', 'commands/', 'plugins/auth-scram/commands'],
  'plugins/auth-scram/commands': ['base/errors', 'commands/command'],
  'admin/client': ['base/errors'],
  'ops/operations': []
}

// One owner for each outside package.
const owner: Record<string, string> = {
  aedes: 'client/aedes/policy',
  pg: 'plugins/auth-pgsql/',
  pm2: 'cli/pm2/',
  commander: 'cli/',
  chalk: 'cli/',
  ws: 'net/websocket',
  '@peculiar/x509': 'net/certificates',
  'reflect-metadata': 'net/certificates',
  pino: 'base/log/log',
  'rotating-file-stream': 'base/log/files',
  bcrypt: 'access/password',
  fastify: 'mgmt/app',
  'prom-client': 'mgmt/prometheus',
  lmdb: 'store/lmdb-file'
}

interface Import {
  readonly target: string
  readonly isType: boolean
}

const src = fileURLToPath(new URL('../../src', import.meta.url))
const files = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter(f => f.endsWith('.ts'))
  .map(f => f.split(sep).join('/').slice(0, -3))
const fits = (name: string, pattern: string): boolean =>
  name === pattern || (/[/-]$/.test(pattern) && name.startsWith(pattern))
const allowedIn = (table: Record<string, string[]>, file: string): string[] | undefined =>
  Object.entries(table).find(([pattern]) => fits(file, pattern))?.[1]

const resolved = (from: string, target: string): string =>
  target.startsWith('.')
    ? relative(src, join(src, dirname(from), target))
        .split(sep)
        .join('/')
        .replace(/\.js$/, '')
    : `package ${target}`

const importsOf = new Map(files.map(file => [file, readImports(file)]))

function readImports(file: string): Import[] {
  const source = readFileSync(join(src, `${file}.ts`), 'utf8')
  const found = [
    ...source.matchAll(/^(?:import|export)\s+(type\s)?[^'";]*?from '([^']+)'/gm),
    ...source.matchAll(/^(?:import)( type)? '([^']+)'/gm),
    ...source.matchAll(/import\(()'([^']+)'\)/g)
  ]
  return found
    .filter(([, , target]) => !target!.startsWith('node:'))
    .map(([, type, target]) => ({ target: resolved(file, target!), isType: Boolean(type) }))
}

for (const [file, imports] of importsOf) {
  test(`src/${file}.ts imports only what its room may, types counted`, () => {
    const allowed = allowedIn(may, file)
    assert(allowed !== undefined, `${file} is in no room: add it to the table`)
    const loads = allowedIn(atRunTime, file)
    for (const { target, isType } of imports) {
      if (target.startsWith('package ')) {
        const name = target.slice('package '.length)
        assert(
          isType || (owner[name] !== undefined && fits(file, owner[name])),
          `${name} is ${owner[name] ?? 'nobody'}'s`
        )
        continue
      }
      assert(
        allowed.some(pattern => fits(target, pattern)),
        `${file} must not import ${target}`
      )
      const isLoaded = isType || loads === undefined || loads.some(pattern => fits(target, pattern))
      assert(isLoaded, `${file} must not load ${target} at run time`)
    }
  })
}

test('every entry of the tables is of use', () => {
  for (const table of [may, atRunTime]) {
    for (const [pattern, allowed] of Object.entries(table)) {
      const own = files.filter(file => Object.keys(table).find(each => fits(file, each)) === pattern)
      assert(own.length > 0, `no file fits ${pattern}`)
      if (table === atRunTime) continue
      const targets = own.flatMap(file => importsOf.get(file)!.map(({ target }) => target))
      for (const one of allowed)
        assert(
          targets.some(target => fits(target, one)),
          `${pattern} imports nothing of ${one}`
        )
    }
  }
})

test('no circle of imports, type imports counted', () => {
  const done = new Set<string>()
  const path: string[] = []
  const visit = (file: string): void => {
    const at = path.indexOf(file)
    assert(at === -1, `a circle: ${[...path.slice(at), file].join(' → ')}`)
    if (done.has(file)) return
    path.push(file)
    for (const { target } of importsOf.get(file) ?? []) visit(target)
    path.pop()
    done.add(file)
  }
  for (const file of files) visit(file)
})

test('three doors lie in src/ itself, and nothing else', () => {
  assert.deepEqual(files.filter(file => !file.includes('/')).sort(), ['index', 'plugin', 'testing'])
})

test('no file is over 450 lines but for a reason that its head gives', () => {
  for (const file of files) {
    const text = readFileSync(join(src, `${file}.ts`), 'utf8')
    if (text.split('\n').length <= 451) continue
    const head = /^\/\*\*.*?\*\//s.exec(text)?.[0] ?? ''
    assert.match(head, /longer than other/, `${file} is over 450 lines`)
  }
})
