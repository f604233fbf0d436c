// The files under etc/ are the manual: every key is in them, with its default, and a start with them as they are works.
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import { parseAcl } from '../src/access/acl-file.js'
import { brokerSchema } from '../src/config/broker-keys.js'
import { brokerConf } from '../src/config/cross-checks.js'
import { describeKeys, parseConfig, type ReadOptions, readConfig, type Schema } from '../src/config/schema.js'
import { shippedPlugin, shippedPlugins } from '../src/plugins/catalogue.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const etc = join(root, 'etc')

interface Manual {
  file: string
  schema: Schema
  prefix: string
  read: ReadOptions<any>
}

const manuals: Manual[] = [
  { file: 'broker.conf', schema: brokerSchema, prefix: '', read: { ...brokerConf, env: {} } as ReadOptions<any> }
]
for (const name of shippedPlugins) {
  const plugin = (await shippedPlugin(name))!
  manuals.push({
    file: `plugins/${name}.conf`,
    schema: plugin.options,
    prefix: plugin.prefix,
    read: { prefix: plugin.prefix }
  })
}

for (const { file, schema, prefix, read } of manuals) {
  const text = readFileSync(join(etc, file), 'utf8')
  // A key's entry: its comment with Value and Default, then the key itself, in force or commented out.
  const entries = new Map<string, { line: string; fallback: string }>()
  for (const block of text.trim().split(/\n\s*\n/)) {
    const line = block.split('\n').at(-1)!
    const name = /^#*\s*([a-z][\w$*.-]*)\s*=/.exec(line)?.[1]
    const described = /^## Value: .+$/m.test(block)
    const fallback = /^## Default: (.+)$/m.exec(block)?.[1]
    if (name === undefined || !described || fallback === undefined) continue
    entries.set(name, { line, fallback })
  }
  const wildcard = (name: string): string =>
    name.replace(/^(listener\.\w+\.)\w+/, '$1*').replace(/^(listener\.\w+\.\*\.access\.)\d+$/, '$1*')
  const shown = new Map([...entries].map(([name, entry]) => [wildcard(name), entry]))

  test(`etc/${file} documents every key of its schema, and no other`, () => {
    assert.deepEqual(
      [...shown.keys()].sort(),
      describeKeys(schema, prefix)
        .map(k => k.key)
        .sort()
    )
  })

  test(`etc/${file} says each key's true default`, () => {
    for (const { key, fallback } of describeKeys(schema, prefix)) {
      assert.equal(shown.get(key)?.fallback, fallback === undefined || fallback === '' ? 'none' : fallback, key)
    }
  })

  test(`etc/${file} is valid as shipped`, () => {
    readConfig(join(etc, file), schema, read)
  })

  test(`etc/${file} is valid with every line in force`, () => {
    const all = [...entries.values()]
      .map(({ line }) => line.replace(/^#+\s*/, ''))
      .filter(line => !/= none$/.test(line))
    parseConfig(all.join('\n'), schema, { prefix })
  })
}

test('etc/acl.conf is valid as shipped', () => {
  assert(parseAcl(readFileSync(join(etc, 'acl.conf'), 'utf8'), 'acl.conf').rules.length > 0)
})

test('every plugin has its file, its page and its test', () => {
  for (const name of shippedPlugins) {
    assert(existsSync(join(etc, `plugins/${name}.conf`)), `etc/plugins/${name}.conf`)
    assert(existsSync(join(root, `test/plugins/${name}.test.ts`)), `test/plugins/${name}.test.ts`)
  }
})

test('no private key is shipped', () => {
  const { files } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { files: string[] }
  assert(!files.some(f => f.includes('certs') || f === 'etc'))
})
