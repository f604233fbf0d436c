import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import test, { type TestContext } from 'node:test'
import { createLog } from '../../src/base/log/log.js'
import { integer, type Plugin, plugin } from '../../src/plugin.js'
import { type HookScope, Hooks } from '../../src/plugins/hooks.js'
import { PluginHost } from '../../src/plugins/host.js'
import { PluginStorage } from '../../src/store/plugin-storage.js'
import { makeHome, startServer, until } from '../support/server.js'

interface Made {
  host: PluginHost
  hooks: Hooks
  events: string[]
  loaded(): string
  conf(text: string): void
  remember(text: string): void
}

/** A host over a fresh home with one plugin, `demo`. */
function make(t: TestContext, overrides: Partial<Plugin> = {}): Made {
  const home = makeHome(t, { plugins: { demo: 'demo.n = 1\n' } })
  mkdirSync(home.data, { recursive: true })
  const events: string[] = []
  const demo = plugin({
    name: 'demo',
    description: 'A demonstration',
    prefix: 'demo',
    options: { n: integer(0) },
    start({ options, hooks }) {
      events.push(`start ${options.n}`)
      hooks.on('client.authenticate', () => 'deny')
      return { stop: () => void events.push('stop') }
    },
    ...(overrides as object)
  })
  const log = createLog()
  const hooks = new Hooks(log)
  const loadedFile = home.path('data/loaded_plugins')
  const host = new PluginHost(
    {
      etcDir: home.path('etc/plugins'),
      loadedFile,
      ownDir: home.path('plugins'),
      path: home.path,
      version: '1.2.3',
      storage: new PluginStorage(),
      env: {},
      resolve: async name => (name === 'demo' ? (demo as unknown as Plugin) : undefined),
      changed: () => void events.push('changed')
    },
    hooks,
    log
  )
  return {
    host,
    hooks,
    events,
    loaded: () => (existsSync(loadedFile) ? readFileSync(loadedFile, 'utf8') : ''),
    conf: text => writeFileSync(home.path('etc/plugins/demo.conf'), text),
    remember: text => writeFileSync(loadedFile, text)
  }
}

test('PluginHost.load() starts, remembers and lists a plugin; unload() undoes all of it', async t => {
  const { host, hooks, events, loaded } = make(t)
  await host.load('demo')
  assert.deepEqual(await host.list(), [
    { name: 'demo', version: '1.2.3', description: 'A demonstration', active: true }
  ])
  assert.equal(loaded(), 'demo.\n')
  assert(hooks.has('client.authenticate'))
  await host.unload('demo')
  assert(!hooks.has('client.authenticate'))
  assert.equal(loaded(), '')
  assert.deepEqual(events, ['start 1', 'changed', 'changed', 'stop'])
})

test('PluginHost.load() twice says already_started, unload() of what is not loaded says not_started', async t => {
  const { host } = make(t)
  const [first, second] = await Promise.allSettled([host.load('demo'), host.load('emq_demo')])
  assert.equal(first.status, 'fulfilled')
  assert.match(String((second as PromiseRejectedResult).reason), /already_started/)
  await host.unload('demo')
  await assert.rejects(host.unload('demo'), { message: 'not_started' })
})

test('PluginHost.load() that fails leaves nothing behind and is not remembered', async t => {
  for (const overrides of [
    {
      start() {
        throw new Error('half way')
      }
    },
    {
      start: ({ hooks }: any) => {
        hooks.on('client.authenticate', () => 'allow')
        return {
          probe: async () => {
            throw new Error('half way')
          }
        }
      }
    }
  ]) {
    const { host, hooks, loaded } = make(t, overrides as unknown as Partial<Plugin>)
    await assert.rejects(host.load('demo'), { code: 'PLUGIN_FAILED', message: 'half way' })
    assert(!hooks.has('client.authenticate'))
    assert.equal(loaded(), '')
    assert.equal((await host.list())[0]?.active, false)
  }
})

test('PluginHost.load() of a name that is none says not_found and what was meant', async t => {
  const { host } = make(t)
  await assert.rejects(host.load('dmeo'), /not_found \(did you mean demo\?\)/)
  for (const name of ['', '..', '../../etc/passwd', 'a/b', 'A'])
    await assert.rejects(host.load(name), { code: 'NOT_FOUND' })
})

test('PluginHost.loadRemembered() keeps a plugin whose backend is away, and shows the trouble', async t => {
  const { host, hooks, remember } = make(t, {
    start: ({ hooks }: any) => {
      hooks.on('client.authenticate', () => 'deny')
      return {
        probe: async () => {
          throw new Error('nothing listens')
        }
      }
    }
  } as unknown as Partial<Plugin>)
  remember('emq_demo.\n')
  await host.loadRemembered()
  await new Promise(resolve => setImmediate(resolve))
  assert(hooks.has('client.authenticate'))
  assert.equal((await host.list())[0]?.trouble, 'nothing listens')
})

test('PluginHost.loadRemembered() refuses a wrong configuration and a plugin that is gone: it may guard a door', async t => {
  const { host, remember, conf } = make(t)
  remember('demo.\n')
  conf('demo.m = 1\n')
  await assert.rejects(host.loadRemembered(), { code: 'CONFIG_INVALID' })
  remember('gone.\n')
  await assert.rejects(host.loadRemembered(), { code: 'NOT_FOUND' })
})

test('PluginHost.reload() reads the file anew; a mistake in it leaves the plugin as it was', async t => {
  const { host, events, conf } = make(t)
  await host.load('demo')
  conf('demo.n = 2\n')
  await host.reload('demo')
  assert.deepEqual(
    events.filter(e => e !== 'changed'),
    ['start 1', 'stop', 'start 2']
  )
  conf('demo.n = two\n')
  await assert.rejects(host.reload('demo'), {
    code: 'CONFIG_INVALID',
    message: /demo\.conf:1:10: demo\.n: expected an integer from 0, got "two"/
  })
  assert.equal((await host.list())[0]?.active, true)
})

test("a home's own plugin file is loaded, and its mistakes are named", async t => {
  const running = await startServer(t, { plugins: { mine: 'mine.word = hello', broken: '' } })
  mkdirSync(running.home.path('plugins'))
  writeFileSync(
    running.home.path('plugins/mine.mjs'),
    `export default { name: 'mine', description: 'Mine', prefix: 'mine', options: { word: { parse: t => t } },
      start ({ options, hooks }) { hooks.on('client.authenticate', c => c.username === options.word ? 'allow' : 'deny') } }`
  )
  writeFileSync(running.home.path('plugins/broken.mjs'), 'export const nothing = 1')
  await running.admin.call('plugins load', { plugin: 'mine' })
  assert(running.server.hooks.has('client.authenticate'))
  await assert.rejects(running.admin.call('plugins load', { plugin: 'broken' }), /has no plugin as its default export/)
})

test('PluginHost.reload() lets nobody in unjudged while the plugin is exchanged', async t => {
  let go = (): void => {}
  const { host, hooks } = make(t, {
    start({ hooks }: { hooks: HookScope }) {
      hooks.on('client.authenticate', () => 'deny')
      const stop = (): Promise<void> =>
        new Promise(resolve => {
          go = resolve
        })
      return { stop }
    }
  } as never)
  await host.load('demo')
  const reloaded = host.reload('demo')
  await until('it has stopped', () => !hooks.has('client.authenticate'))
  assert(hooks.hasAuthenticators)
  go()
  await reloaded
  const unloaded = host.unload('demo')
  await until('it has stopped', () => !hooks.has('client.authenticate'))
  assert(!hooks.hasAuthenticators)
  go()
  await unloaded
})
