import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import mqtt from 'mqtt'
import { createLog } from '../../src/base/log/log.js'
import { main } from '../../src/cli/ctl.js'
import { Server } from '../../src/server/server.js'
import { readSettings } from '../../src/server/settings.js'
import { makeHome } from '../support/server.js'

const conf = 'store.type = lmdb\nmqtt.allow_anonymous = true'

function setUp(t: Parameters<typeof makeHome>[0]) {
  const home = makeHome(t, { conf })
  let server: Server | undefined
  t.after(() => server?.stop('fast'))
  return {
    home,
    async start(): Promise<Server> {
      const log = createLog({ level: 'error', format: 'text', write: () => {} })
      server = await Server.start({ home, settings: readSettings(home, {}), log })
      return server
    },
    async ctl(...words: string[]) {
      const out: string[] = []
      const err: string[] = []
      const io = {
        out: (text: string) => void out.push(`${text}\n`),
        err: (text: string) => void err.push(`${text}\n`)
      }
      const code = await main([...words, '--home', home.root], io as never)
      return { code, out: out.join(''), err: err.join('') }
    },
    async retain(...topics: string[]): Promise<void> {
      const one = await mqtt.connectAsync(`mqtt://127.0.0.1:${server!.listeners[0]!.port}`, { clientId: 'keeper' })
      for (const topic of topics) await one.publishAsync(topic, 'kept', { qos: 1, retain: true })
      await one.endAsync()
    },
    async retained(): Promise<string[]> {
      return [...server!.clients.dispatcher.retained.match('#')].map(({ topic }) => topic).sort()
    }
  }
}

describe('broker-ctl store', () => {
  test('info, check, compact and backup say what they did, while the broker runs and while it does not', async t => {
    const { home, start, ctl, retain } = setUp(t)
    assert.match((await ctl('store', 'info')).err, /There is no store yet/)
    const server = await start()
    await retain('a', 'b')
    const copies = [join(home.root, 'running.mdb'), join(home.root, 'stopped.mdb')]
    for (const [i, copy] of copies.entries()) {
      const info = await ctl('store', 'info')
      assert.deepEqual([info.code, info.err], [0, ''])
      assert.match(info.out, /^file {12}: .*data\/store\/data\.mdb\nsize {12}: [\d.]+ KB\n/)
      assert.match(info.out, /^retained\/count {2}: 2$/m)
      assert.match((await ctl('store', 'check')).out, /^The store is sound\.\nfile/)
      assert.match((await ctl('store', 'compact')).out, /^The store had .* KB, and has .* KB now\.\n$/)
      assert.match((await ctl('store', 'backup', copy)).out, /^The store is copied to .*\.mdb \([\d.]+ KB\)\.\n$/)
      assert.equal((await ctl('store', 'backup', copy)).code, 1, 'it is there already')
      if (i === 0) await server.stop()
    }
    assert.deepEqual(JSON.parse((await ctl('store', 'info', '--json')).out).records.retained, 2)
  })

  test('restore takes effect at the next start and puts the present store aside', async t => {
    const { home, start, ctl, retain, retained } = setUp(t)
    const server = await start()
    await retain('before')
    await ctl('store', 'backup', join(home.root, 'copy.mdb'))
    await retain('after')
    assert.match(
      (await ctl('store', 'restore', join(home.root, 'copy.mdb'))).out,
      /^The next start of the broker takes /
    )
    assert.deepEqual(await retained(), ['after', 'before'])
    await server.stop()
    await start()
    assert.deepEqual(await retained(), ['before'])
    assert.equal(
      readdirSync(join(home.root, 'data')).filter(name => name.startsWith('store.before-restore-')).length,
      1
    )
  })

  test('restore refuses what is no store, and a damaged one', async t => {
    const { home, start, ctl, retain } = setUp(t)
    await start()
    await retain('a')
    const copy = join(home.root, 'copy.mdb')
    assert.equal((await ctl('store', 'restore', copy)).err, `no such file: ${copy}\n`)
    await ctl('store', 'backup', copy)
    writeFileSync(copy, readFileSync(copy).subarray(0, 10_000))
    const { code, err } = await ctl('store', 'restore', copy)
    assert.equal(code, 2)
    assert.match(err, /copy\.mdb is no backup of a store: /)
    assert.equal(existsSync(join(home.root, 'data/store.restore.mdb')), false)
  })

  test('check names the damage, and leaves the file where it is', async t => {
    const { home, start, ctl, retain } = setUp(t)
    const server = await start()
    await retain('a')
    await server.stop()
    const file = join(home.root, 'data/store/data.mdb')
    writeFileSync(file, readFileSync(file).subarray(0, 4096 * 3))
    const { code, err } = await ctl('store', 'check')
    assert.equal(code, 1)
    assert.match(err, /^the store is damaged: /)
    assert.ok(existsSync(file))
  })
})
