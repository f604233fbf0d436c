/** What is published: it installs into a project, with types that are right and all that a broker needs. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import { packageRoot } from './support/cli.js'
import { hangMs } from './support/server.js'

const run = promisify(execFile)
const modules = join(packageRoot, 'node_modules')
let project: string
let packed: string[]

/** A project that has the package from its tarball, and beside it what `npm install` would have brought. */
before(async () => {
  project = mkdtempSync(join(tmpdir(), 'broker-pack-'))
  const { stdout } = await run('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', project], {
    cwd: packageRoot,
    timeout: hangMs
  })
  const [{ filename, files }] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }]
  packed = files.map(({ path }) => path)
  mkdirSync(join(project, 'node_modules/tsmqttd'), { recursive: true })
  const into = ['-xzf', join(project, filename), '--strip-components=1', '-C', join(project, 'node_modules/tsmqttd')]
  await run('tar', into)
  for (const name of readdirSync(modules)) {
    if (name !== '.package-lock.json') symlinkSync(join(modules, name), join(project, 'node_modules', name))
  }
  writeFileSync(join(project, 'package.json'), '{ "type": "module" }')
})
after(() => rmSync(project, { recursive: true, force: true }))

/** Runs the TypeScript compiler in the project; resolves to what it complains of. */
async function compile(file: string, source: string): Promise<string> {
  writeFileSync(join(project, file), source)
  const options = ['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--checkJs', '--target', 'es2023']
  const rest = ['--lib', 'es2023,esnext.disposable', '--module', 'nodenext', '--types', 'node', file]
  return await run(join(modules, '.bin/tsc'), [...options, ...rest], { cwd: project, timeout: 5 * hangMs }).then(
    () => '',
    (err: { stdout: string }) => err.stdout || String(err)
  )
}

test('the package has what runs and what documents it, and nothing else', () => {
  for (const file of [
    'bin/broker',
    'bin/broker-ctl',
    'etc/broker.conf',
    'etc/acl.conf',
    'docs/embedding.md',
    'LICENSE'
  ]) {
    assert(packed.includes(file), file)
  }
  for (const entry of ['index', 'plugin', 'testing']) {
    for (const kind of ['js', 'd.ts']) assert(packed.includes(`dist/src/${entry}.${kind}`), `${entry}.${kind}`)
  }
  const odd = packed.filter(
    file =>
      !/^(bin|docs)\/|^dist\/src\/.*\.(js|d\.ts)$|^etc\/(plugins\/)?[\w-]+\.conf$|^[A-Z]+(\.md)?$|^package\.json$/.test(
        file
      )
  )
  assert.deepEqual(odd, [])
})

const program = `
import { BrokerError, startBroker } from 'tsmqttd'
import { integer, plugin } from 'tsmqttd/plugin'
import { testBroker } from 'tsmqttd/testing'

const gate = plugin({
  name: 'gate',
  description: 'Lets a few in',
  prefix: 'gate',
  options: { most: integer(1) },
  start({ options, hooks }) {
    hooks.on('client.authenticate', client => (client.clientId.length > options.most ? 'deny' : 'allow'))
    return undefined
  }
})
const listener = { tcp: { main: { bind: { host: '127.0.0.1', port: 0 } } } }
const broker = await startBroker({ listener, plugins: [{ plugin: gate, options: { most: 9 } }] })
const end = broker.subscribe('a/#', ({ topic, payload }) => console.log(topic, payload.toString()))
const remove = broker.on('client.disconnected', (client, reason) => console.log(client.clientId, reason))
await broker.publish({ topic: 'a/b', payload: 'it works', qos: 1 })
await new Promise(resolve => setImmediate(resolve))
end()
remove()
await broker.stop()
const fake = await testBroker({ within: 60_000 })
await fake.publish({ topic: 'a', payload: '{"x":1}' })
console.log((await fake.expect('a', { payload: { x: 1 } })).text, fake.messages.length)
await fake.stop()
console.log(await startBroker({ home: '/nosuch' }).catch(err => err instanceof BrokerError && err.code))
`

test('a program in JavaScript imports tsmqttd, tsmqttd/plugin and tsmqttd/testing', async () => {
  writeFileSync(join(project, 'program.js'), program)
  const { stdout } = await run(process.execPath, ['program.js'], { cwd: project, timeout: hangMs })
  assert.equal(stdout, 'a/b it works\n{"x":1} 1\nCONFIG_INVALID\n')
})

test('the types let that program pass, in TypeScript and in checked JavaScript', async () => {
  assert.equal(await compile('program.ts', program.replace('.catch(err =>', '.catch((err: unknown) =>')), '')
  assert.equal(await compile('checked.js', program), '')
})

test('the types tell what is wrong', async () => {
  const wrong = `
import { startBroker } from 'tsmqttd'
import { testBroker } from 'tsmqttd/testing'
await startBroker({ mqtt: { maxPacketsize: 1 } })
await startBroker({ listener: { tcp: { main: { maxClients: '1' } } } })
{
  await using broker = await startBroker()
  broker.on('client.conected', () => {})
  broker.on('client.authenticate', () => 'maybe')
  broker.on('client.connected', client => client.clientId.nosuch)
  await broker.publish({ topic: 'a', qos: 3 })
}
await testBroker({ home: '/x' })
`
  const lines = [...(await compile('wrong.ts', wrong)).matchAll(/^wrong\.ts\((\d+),/gm)].map(([, line]) => Number(line))
  assert.deepEqual([...new Set(lines)], [4, 5, 8, 9, 10, 11, 13])
})
