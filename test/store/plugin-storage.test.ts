import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'node:test'
import { openStore } from '../../src/store/open.js'
import { PluginStorage } from '../../src/store/plugin-storage.js'
import { WriteQueue } from '../../src/store/write-queue.js'

test('a plugin finds what it has set, and what it has deleted is gone; each has its own', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'spaces-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const begin = async () => {
    const { store } = await openStore(join(dir, 'store'))
    const queue = new WriteQueue(store, { failed: assert.fail, recovered: () => {} })
    const spaces = new PluginStorage()
    spaces.load(store, queue)
    return { queue, one: spaces.of('one'), two: spaces.of('two') }
  }
  const { queue, one, two } = await begin()
  await Promise.all([one.set('a', 'first'), one.set('b', Buffer.from([0, 1])), two.set('a', 'other')])
  await one.set('a', 'second')
  await one.delete('b')
  await assert.rejects(one.set('x'.repeat(2000), ''), RangeError)
  await queue.close()
  const again = await begin()
  assert.deepEqual(
    [...again.one.entries()].map(([key, value]) => [key, value.toString()]),
    [['a', 'second']]
  )
  assert.equal(again.two.get('a')?.toString(), 'other')
  await again.queue.close()
})
