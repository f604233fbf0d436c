import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'

// Who may load whom at run time (`import type` is free); a name without a slash at its end is a file, `x/` a folder.
// Absent means: nothing of ours.
const may: Record<string, string[]> = {
  index: ['access/', 'config/', 'base/', 'plugin', 'server/'],
  testing: ['index', 'wire/topic'],
  plugin: ['base/errors', 'config/', 'plugins/context', 'plugins/kit/'],
  'server/': [
    'access/',
    'admin/',
    'base/',
    'client/',
    'commands/',
    'config/',
    'mgmt/',
    'net/',
    'observe/',
    'plugins/',
    'server/',
    'store/'
  ],
  'cli/': ['admin/client', 'base/', 'cli/', 'commands/', 'config/', 'net/', 'plugins/', 'server/', 'store/'],
  'admin/': ['admin/', 'base/'],
  'mgmt/': ['access/', 'base/', 'commands/', 'config/', 'mgmt/', 'net/'],
  'commands/': ['base/', 'commands/'],
  'observe/': ['base/', 'config/', 'delivery/', 'net/', 'observe/', 'wire/'],
  'client/': ['access/', 'base/', 'client/', 'delivery/', 'net/', 'observe/', 'persistence/', 'wire/'],
  'persistence/': ['delivery/', 'persistence/', 'store/', 'wire/'],
  'delivery/': ['base/', 'delivery/', 'observe/', 'persistence/', 'wire/'],
  'store/': ['base/errors', 'store/'],
  'plugins/auth-pgsql/': ['plugin', 'plugins/auth-pgsql/'],
  'plugins/auth-scram/': ['access/scram', 'plugin', 'plugins/auth-scram/'],
  'plugins/kit/': ['access/', 'base/', 'config/', 'plugins/kit/', 'wire/'],
  'plugins/': ['base/', 'config/', 'plugins/'],
  'access/': ['access/', 'base/', 'config/', 'wire/'],
  'net/': ['base/', 'config/values', 'net/', 'wire/'],
  'config/': ['base/', 'config/', 'wire/'],
  'base/': ['base/'],
  'wire/': ['wire/']
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

const src = fileURLToPath(new URL('../../src', import.meta.url))
const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter(f => f.endsWith('.ts'))
const nameOf = (file: string): string =>
  file
    .split(sep)
    .join('/')
    .replace(/\.[tj]s$/, '')
const fits = (name: string, pattern: string): boolean =>
  name === pattern || (/[/-]$/.test(pattern) && name.startsWith(pattern))

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
