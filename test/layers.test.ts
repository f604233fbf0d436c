import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'

// Who may load whom at run time (`import type` is free); a name without a slash at its end is a file, `x/` a folder.
// Absent means: nothing of ours.
const may: Record<string, string[]> = {
  index: ['access/', 'config/', 'errors', 'home', 'log', 'log-files', 'plugin', 'server', 'settings'],
  testing: ['index', 'wire/topic'],
  server: [
    'access/',
    'admin/server',
    'alarms',
    'commands/',
    'config/',
    'control/',
    'store/',
    'errors',
    'home',
    'hooks',
    'lock',
    'mgmt/',
    'net/',
    'plugins',
    'reload',
    'shelf',
    'sys',
    'top',
    'vm'
  ],
  shelf: ['errors'],
  trace: ['config/values', 'errors', 'wire/'],
  sys: ['about', 'delivery/message'],
  reload: ['config/', 'errors', 'settings', 'words'],
  top: ['delivery/topic-sample'],
  settings: ['access/acl-file', 'config/', 'errors'],
  log: ['log-repeats'],
  plugins: ['config/', 'errors', 'words'],
  plugin: ['config/', 'errors'],
  'plugins/': ['plugin', 'access/password', 'access/acl-rows', 'access/scram'],
  hooks: ['errors'],
  'cli/': [
    'admin/client',
    'cli/',
    'commands/',
    'config/',
    'errors',
    'home',
    'hooks',
    'lock',
    'log',
    'log-files',
    'net/certificates',
    'net/port-holder',
    'plugins',
    'server',
    'settings',
    'store/',
    'words'
  ],
  'admin/server': ['admin/rows', 'errors', 'log'],
  'admin/client': ['errors'],
  'commands/': ['about', 'commands/', 'errors'],
  'mgmt/': ['about', 'access/banned', 'access/password', 'commands/banned', 'config/', 'errors', 'mgmt/', 'net/'],
  'control/': ['access/banned', 'control/', 'delivery/', 'errors', 'metrics', 'net/', 'trace', 'wire/'],
  'delivery/': ['delivery/', 'metrics', 'store/', 'wire/'],
  'store/': ['errors', 'store/'],
  'access/': ['access/', 'config/', 'errors', 'wire/', 'words'],
  'net/': ['config/values', 'errors', 'net/', 'wire/'],
  'wire/': ['wire/'],
  'config/': ['config/', 'errors', 'wire/', 'words']
}

// One owner for each outside package.
const owner: Record<string, string> = {
  aedes: 'control/aedes',
  pg: 'plugins/auth-pgsql',
  pm2: 'cli/daemon',
  commander: 'cli/',
  chalk: 'cli/',
  ws: 'net/listener',
  '@peculiar/x509': 'net/certificates',
  'reflect-metadata': 'net/certificates',
  pino: 'log',
  'rotating-file-stream': 'log-files',
  bcrypt: 'access/password',
  fastify: 'mgmt/app',
  'prom-client': 'mgmt/prometheus',
  lmdb: 'store/lmdb-file'
}

const src = fileURLToPath(new URL('../../src', import.meta.url))
const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter(f => f.endsWith('.ts'))
const nameOf = (file: string): string =>
  file
    .split(sep)
    .join('/')
    .replace(/\.[tj]s$/, '')
const fits = (name: string, pattern: string): boolean =>
  name === pattern || (pattern.endsWith('/') && name.startsWith(pattern))

for (const file of files) {
  test(`src/${nameOf(file)}.ts loads only what its layer may`, () => {
    const from = nameOf(file)
    const allowed = Object.entries(may).find(([pattern]) => fits(from, pattern))?.[1] ?? []
    const source = readFileSync(join(src, file), 'utf8')
    const imports = [
      ...source.matchAll(/^(?:import|export)\s+(type\s)?[^'";]*?from '([^']+)'/gm),
      ...source.matchAll(/^(?:import)( type)? '([^']+)'/gm),
      ...source.matchAll(/import\(()'([^']+)'\)/g)
    ]
    for (const [, type, target] of imports) {
      if (type || target!.startsWith('node:')) continue
      if (target!.startsWith('.')) {
        const to = nameOf(relative(src, join(src, dirname(file), target!)))
        assert(
          allowed.some(pattern => fits(to, pattern)),
          `${from} must not load ${to}`
        )
      } else {
        const by = owner[target!]
        assert(by !== undefined && fits(from, by), `${from} must not load ${target}; that is ${by ?? 'nobody'}'s`)
      }
    }
  })
}

test('no two layers load each other', () => {
  const layers = Object.keys(may).filter(layer => layer !== 'index' && layer !== 'testing')
  for (const a of layers) {
    for (const b of layers) {
      if (a === b || fits(a, b) || fits(b, a)) continue
      const loads = (x: string, y: string): boolean => may[x]!.some(p => fits(y, p) || fits(p, y))
      assert(!(loads(a, b) && loads(b, a)), `${a} and ${b}`)
    }
  }
})
