import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Catalogue, canonicalName, shippedPlugin, shippedPlugins } from '../../src/plugins/catalogue.js'
import { makeHome } from '../support/server.js'

/** Of a fresh home with a file for each of the names. */
function make(t: TestContext, names: readonly string[]) {
  const home = makeHome(t, { plugins: Object.fromEntries(names.map(name => [name, ''])) })
  const ownDir = home.path('plugins')
  mkdirSync(ownDir)
  const own = (file: string, code: string): void => writeFileSync(join(ownDir, file), code)
  return { catalogue: new Catalogue({ etcDir: home.path('etc/plugins'), ownDir, env: {} }), own }
}

const plugin = (description: string): string =>
  `export default { name: 'x', description: '${description}', prefix: 'x', options: {}, start () {} }`

test('canonicalName() takes every spelling of emqttd', () => {
  for (const typed of ['auth_pgsql', 'auth-pgsql', 'emq_auth_pgsql', 'emqx_auth_pgsql'])
    assert.equal(canonicalName(typed), 'auth-pgsql')
})

test('shippedPlugin() has each of the shipped plugins, under its own name', async () => {
  assert(shippedPlugins.length > 0)
  for (const name of shippedPlugins) assert.equal((await shippedPlugin(name))?.name, name)
})

test('Catalogue.find() takes no file of the broker for a plugin, whatever a configuration file is called', async t => {
  const dir = fileURLToPath(new URL('../../src/plugins', import.meta.url))
  const files = readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter(file => file.endsWith('.js'))
  const names = [...files.map(file => file.slice(0, -'.js'.length)), 'constructor']
  const plain = names.filter(name => /^[a-z-]+$/.test(name) && !shippedPlugins.includes(name))
  assert(plain.includes('host'))
  const { catalogue, own } = make(t, plain)
  for (const name of plain)
    await assert.rejects(catalogue.find(name), { code: 'NOT_FOUND', message: /but no code for it/ })
  own('host.js', plugin('of the home'))
  assert.equal((await catalogue.find('host')).description, 'of the home')
})

test('Catalogue.find() looks among the shipped plugins, in the home, and among its packages', async t => {
  const { catalogue, own } = make(t, ['auth-scram', 'both', 'packed'])
  own('auth-scram.js', plugin('of the home'))
  own('both.mjs', plugin('of the home'))
  for (const name of ['both', 'packed']) {
    mkdirSync(join(catalogue.conf(name), `../../../plugins/node_modules/tsmqttd-plugin-${name}`), { recursive: true })
    own(`node_modules/tsmqttd-plugin-${name}/package.json`, '{ "type": "module", "exports": "./index.js" }')
    own(`node_modules/tsmqttd-plugin-${name}/index.js`, plugin('of a package'))
  }
  assert.equal((await catalogue.find('auth-scram')).name, 'auth-scram')
  assert.equal((await catalogue.find('both')).description, 'of the home')
  assert.equal((await catalogue.find('packed')).description, 'of a package')
})
