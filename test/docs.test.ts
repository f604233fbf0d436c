// The documentation is held to the code: every key and every command is in it, no link leads nowhere, and the
// programs in it run.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import test from 'node:test'
import { fileURLToPath, pathToFileURL } from 'node:url'
import mqtt from 'mqtt'
import { parseAcl } from '../src/access/acl-file.js'
import { main as broker } from '../src/cli/broker.js'
import type { Command } from '../src/commands/command.js'
import { commands } from '../src/commands/index.js'
import { brokerSchema, effects } from '../src/config/broker-keys.js'
import { describeKeys, type Schema } from '../src/config/schema.js'
import type { Effect } from '../src/config/values.js'
import { startBroker } from '../src/index.js'
import type { Plugin } from '../src/plugin.js'
import authPgsql from '../src/plugins/auth-pgsql/plugin.js'
import authScram from '../src/plugins/auth-scram/plugin.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const built = fileURLToPath(new URL('..', import.meta.url))
const read = (file: string): string => readFileSync(join(root, file), 'utf8')

/** The code in fences of a language. */
const blocks = (text: string, language: string): string[] =>
  [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))].map(([, code]) => code!)

/** The rows of the tables whose first column is `key`, by column. */
function keyRows(text: string): Record<string, string>[] {
  return text.split(/\n(?!\|)/).flatMap(part => {
    const [head, , ...rows] = part
      .split('\n')
      .filter(line => line.startsWith('|'))
      .map(line =>
        line
          .slice(1, -1)
          .split(/(?<!\\)\|/)
          .map(cell => cell.trim().replace(/^`([^`]*)`$/, '$1'))
      )
    if (head?.[0] !== 'key') return []
    return rows.map(cells => Object.fromEntries(head.map((column, i) => [column, cells[i] ?? ''])))
  })
}

/** `listener.T.N.path` on `ws, wss` is `listener.ws.*.path` and `listener.wss.*.path`. */
function documented(text: string): Map<string, string> {
  return new Map(
    keyRows(text).flatMap(({ key = '', on = '', default: fallback = '' }) => {
      const transports = on === 'all' ? ['tcp', 'ssl', 'ws', 'wss'] : on.split(', ')
      return transports.map(t => {
        const name = key
          .replace(/^listener\.T\.N/, `listener.${t}.*`)
          .replace('api.N', 'api.*')
          .replace('.<n>', '.*')
        return [name, asFlag(fallback)] as const
      })
    })
  )
}

/** `on` and `true` are the same. */
const asFlag = (value: string): string => (value === 'true' ? 'on' : value === 'false' ? 'off' : value)

const manuals: { file: string; of: { options: Schema; prefix: string }[] }[] = [
  { file: 'docs/configuration.md', of: [{ options: brokerSchema, prefix: '' }] },
  { file: 'docs/plugins.md', of: [authPgsql, authScram] }
]
for (const { file, of } of manuals) {
  const shown = documented(read(file))
  const keys = of.flatMap(({ options, prefix }) => describeKeys(options, prefix))

  test(`${file} has every key of ${of.map(({ prefix }) => prefix || 'etc/broker.conf').join(' and ')}, and no other`, () => {
    assert.deepEqual([...shown.keys()].sort(), keys.map(({ key }) => key).sort())
  })

  test(`${file} has each key's true default`, () => {
    for (const { key, fallback = '' } of keys) {
      assert.equal(shown.get(key), fallback === '' ? 'none' : asFlag(fallback), key)
    }
  })
}

test('docs/configuration.md says of each key when it is in force', () => {
  const text = read('docs/configuration.md')
  const rows = [...text.matchAll(/^\| (at once|for connections made from then on|after a restart) \| (.*) \|$/gm)]
  const names = { 'at once': 'now', 'for connections made from then on': 'connect', 'after a restart': 'restart' }
  const told = rows.flatMap(([, when, keys]) =>
    keys!.split(', ').map(key => [key.replaceAll('`', ''), names[when as keyof typeof names]])
  )
  const effect = (e: Effect | undefined): string | undefined => (typeof e === 'object' ? 'restart' : e)
  assert.deepEqual(Object.fromEntries(told), Object.fromEntries([...effects].map(([k, e]) => [k, effect(e)])))
})

test('docs/commands.md has every command of broker-ctl', () => {
  const text = read('docs/commands.md')
  for (const [name, { hidden }] of Object.entries<Command<any, any>>(commands)) {
    assert(hidden === true || new RegExp(`^\\| \`${name}[\` ]`, 'm').test(text), name)
  }
})

test('docs/commands.md has every word of broker', async () => {
  const text = read('docs/commands.md')
  let help = ''
  const take = (line: string): void => {
    help += `${line}\n`
  }
  assert.equal(await broker(['--help'], { out: take, err: take }), 0)
  const words = [...help.slice(help.indexOf('Commands:')).matchAll(/^ {2}(\w+)/gm)].map(([, word]) => word!)
  assert(words.includes('start') && words.includes('stop'), help)
  for (const word of words) assert(new RegExp(`^\\| \`broker ${word}[\` ]`, 'm').test(text), word)
})

const pages = [
  ...['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'].filter(file => existsSync(join(root, file))),
  ...readdirSync(join(root, 'docs'))
    .filter(file => file.endsWith('.md'))
    .map(file => `docs/${file}`)
]

/** The anchors that GitHub makes of a page's headings. */
const anchors = (file: string): string[] =>
  [
    ...read(file)
      .replace(/^```.*?^```$/gms, '')
      .matchAll(/^#+ (.+)$/gm)
  ].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\w\- ]/g, '')
      .replaceAll(' ', '-')
  )

for (const page of pages) {
  test(`every link in ${page} leads somewhere`, () => {
    for (const [, path, anchor] of read(page).matchAll(/\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)/g)) {
      const file = path === '' ? page : join(dirname(page), path!)
      assert(existsSync(join(root, file)), `${path}: no such file`)
      if (anchor !== undefined) assert(anchors(file).includes(anchor), `${path}#${anchor}: no such heading`)
    }
  })
}

for (const page of ['docs/architecture.md', 'docs/where-does-it-go.md', 'CONTRIBUTING.md']) {
  test(`every file that ${page} names is there`, () => {
    const named = [...read(page).matchAll(/`((?:[a-z-]+\/)+(?:[a-z-]+\.[a-z.]+)?)`/g)].map(([, file]) => file!)
    const apart = /^(dist|data|plugins\/$)/
    const missing = named.filter(f => !apart.test(f) && !existsSync(join(root, f)) && !existsSync(join(root, 'src', f)))
    assert(named.length > 3)
    assert.deepEqual(missing, [])
  })
}

test('the rules in docs/configuration.md are valid', () => {
  const rules = blocks(read('docs/configuration.md'), 'erlang')
  assert(rules.length > 0)
  for (const each of rules) parseAcl(each, 'docs/configuration.md')
})

test('every program in docs/embedding.md runs and ends by itself', async t => {
  // Inside the package, where it can import itself by name.
  const dir = mkdtempSync(join(built, 'docs-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const programs = blocks(read('docs/embedding.md'), 'js')
  assert(programs.length > 0)
  for (const [i, program] of programs.entries()) {
    const file = join(dir, `${i}.mjs`)
    writeFileSync(file, program)
    await t.test(`program ${i + 1}`, async () => {
      const { status, output } = await run(file)
      assert.equal(status, 0, `${program}\n${output}`)
    })
  }
})

test('the method in docs/plugins.md lets in the client that is shown with it, and no other', async t => {
  const dir = mkdtempSync(join(built, 'docs-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const text = read('docs/plugins.md')
  const [method, client] = blocks(text.slice(text.indexOf('### Enhanced authentication')), 'js') as [string, string]
  writeFileSync(join(dir, 'auth-badge.mjs'), method)
  const { default: plugin } = (await import(pathToFileURL(join(dir, 'auth-badge.mjs')).href)) as { default: Plugin }
  for (const [secret, output] of [
    ['pepper', /^it works\n$/],
    ['salt', /Not authorized/]
  ] as const) {
    const broker = await startBroker({
      listener: { tcp: { main: { bind: { host: '127.0.0.1', port: 0 } } } },
      plugins: [{ plugin, options: { secret } }]
    })
    t.after(() => broker.stop('fast'))
    writeFileSync(join(dir, 'client.mjs'), client.replace(':1883', `:${broker.port()}`))
    assert.match((await run(join(dir, 'client.mjs'))).output, output)
  }
})

test('the back end in docs/plugins.md lets in its users, and is told of once while it is away', async t => {
  const dir = mkdtempSync(join(built, 'docs-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const text = read('docs/plugins.md')
  writeFileSync(join(dir, 'auth-directory.mjs'), blocks(text.slice(text.indexOf('### The kit')), 'js')[0]!)
  const { default: plugin } = (await import(pathToFileURL(join(dir, 'auth-directory.mjs')).href)) as { default: Plugin }

  const stored = createHash('sha256').update('secret').digest('hex')
  const directory = createServer((req, res) => {
    const isLamp = new URL(req.url!, 'http://directory').searchParams.get('user') === 'lamp'
    res.writeHead(isLamp ? 200 : 404, { connection: 'close' }).end(isLamp ? stored : '')
  })
  await once(directory.listen(0, '127.0.0.1'), 'listening')
  t.after(() => directory.close())

  const warnings: string[] = []
  const broker = await startBroker({
    listener: { tcp: { main: { bind: { host: '127.0.0.1', port: 0 } } } },
    plugins: [{ plugin, options: { url: `http://127.0.0.1:${(directory.address() as AddressInfo).port}/` } }],
    log: { level: 'warning', format: 'text', write: line => void warnings.push(line) }
  })
  t.after(() => broker.stop('fast'))
  const login = (username: string, password: string): Promise<string> =>
    mqtt.connectAsync(`mqtt://127.0.0.1:${broker.port()}`, { username, password, reconnectPeriod: 0 }).then(
      client => client.endAsync().then(() => 'in'),
      (err: Error) => err.message
    )
  assert.equal(await login('lamp', 'secret'), 'in')
  for (const [name, password] of [
    ['lamp', 'Secret'],
    ['nobody', 'secret']
  ] as const) {
    assert.match(await login(name, password), /Bad username or password|Not authorized/)
  }
  await new Promise(resolve => directory.close(resolve))
  for (const _ of [1, 2]) assert.match(await login('lamp', 'secret'), /Server unavailable/)
  assert.equal(warnings.filter(line => /\[warning\].*the directory does not answer/.test(line)).length, 1)
})

async function run(file: string): Promise<{ status: number | string; output: string }> {
  return await new Promise(resolve => {
    execFile(process.execPath, [file], { timeout: 60_000 }, (err, out, errors) => {
      resolve({ status: err === null ? 0 : (err.code ?? err.signal ?? 1), output: out + errors })
    })
  })
}

test('docs/conformance-clauses.md names files that there are, and no clause twice', () => {
  const [five = '', three = ''] = read('docs/conformance-clauses.md').split('## MQTT 3.1.1')
  const files = new Map([...five.matchAll(/^\| (\S+) \| `(\S+)` \|$/gm)].map(([, name, file]) => [name!, file!]))
  for (const file of files.values()) assert.ok(existsSync(join(root, file)), file)
  for (const part of [five, three]) {
    const clauses = new Set<string>()
    for (const [, ids = '', where = ''] of part.matchAll(/^\| (\d[^|]*) \| ([^|]*) \|/gm)) {
      for (const name of where.split(', ')) {
        const known = files.has(name) || existsSync(join(root, name)) || /^(the client's|not held)/.test(name)
        assert.ok(known, `${ids}: ${name}`)
      }
      for (const id of ids.split(', ').flatMap(range)) {
        assert.ok(!clauses.has(id), id)
        clauses.add(id)
      }
    }
    assert.ok(clauses.size > 130, `${clauses.size} clauses`)
  }
})

/** `3.1.2-4 to 3.1.2-6` is three clauses. */
function range(text: string): string[] {
  const [, section = '', first = '', , last = first] = /^([\d.]+)-(\d+)(?: to ([\d.]+)-(\d+))?$/.exec(text) ?? []
  assert.notEqual(section, '', text)
  return Array.from({ length: Number(last) - Number(first) + 1 }, (_, i) => `${section}-${Number(first) + i}`)
}
