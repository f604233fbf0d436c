import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import type { BrokerError } from '../../src/base/errors.js'
import { format, openStore } from '../../src/store/open.js'
import type { Store } from '../../src/store/store.js'

function place(t: TestContext): { dir: string; file: string } {
  const home = mkdtempSync(join(tmpdir(), 'store-'))
  t.after(() => rmSync(home, { recursive: true, force: true }))
  return { dir: join(home, 'store'), file: join(home, 'store', 'data.mdb') }
}

async function filled(dir: string, records = 2000): Promise<void> {
  const { store } = await openStore(dir)
  await store.commit(batch => {
    for (let i = 0; i < records; i++) batch.put('entry', Buffer.from(`key ${i}`), Buffer.alloc(100, i))
  })
  await store.close()
}

const count = (store: Store): number => [...store.records('entry')].length

test('what was committed is there again', async t => {
  const { dir } = place(t)
  await filled(dir)
  const { store, putAside } = await openStore(dir)
  assert.equal(putAside, undefined)
  for (const { key, value } of store.records('entry')) {
    assert.equal(value[0], Number(key.toString().split(' ')[1]) & 255)
    assert.equal(value.length, 100)
  }
  assert.equal(count(store), 2000)
  await store.close()
})

test('a deleted record is gone, a second value replaces the first', async t => {
  const { dir } = place(t)
  await filled(dir, 3)
  const { store } = await openStore(dir)
  await store.commit(batch => {
    batch.delete('entry', Buffer.from('key 0'))
    batch.put('entry', Buffer.from('key 1'), Buffer.from('new'))
  })
  const values: string[] = []
  for (const { value } of store.records('entry')) values.push(value.toString('latin1').slice(0, 3))
  assert.deepEqual(values, ['new', '\x02\x02\x02'])
  await store.close()
})

const damages: Record<string, (file: string) => void> = {
  'cut in half': file => truncateSync(file, Math.floor(readFileSync(file).length / 2 / 4096) * 4096),
  'cut to a few bytes': file => truncateSync(file, 100),
  'of another program': file => writeFileSync(file, 'SQLite format 3\0'.repeat(1000)),
  'garbled in its pages': file => {
    const bytes = readFileSync(file)
    for (let at = 8192; at < bytes.length; at += 512) bytes.fill(0xa5, at, at + 64)
    writeFileSync(file, bytes)
  },
  'garbled in one record': file => {
    const bytes = readFileSync(file)
    const record = Buffer.alloc(100, 77)
    for (let at = bytes.indexOf(record); at >= 0; at = bytes.indexOf(record, at)) bytes[at + 50] = 0 // old copies too
    writeFileSync(file, bytes)
  }
}

for (const [how, damage] of Object.entries(damages)) {
  test(`a file that is ${how} is put aside, and an empty store is begun`, async t => {
    const { dir, file } = place(t)
    await filled(dir)
    damage(file)
    const damaged = readFileSync(file)
    const { store, putAside } = await openStore(dir)
    assert.match(putAside!.to, /store\.bad-\d{4}-\d\d-\d\dT[\d-]+$/)
    assert.notEqual(putAside!.why, '')
    assert.deepEqual(readFileSync(join(putAside!.to, 'data.mdb')), damaged)
    assert.equal(count(store), 0)
    await store.commit(batch => batch.put('entry', Buffer.from('k'), Buffer.from('v')))
    await store.close()
    const again = await openStore(dir)
    assert.equal(again.putAside, undefined)
    assert.equal(count(again.store), 1)
    await again.store.close()
  })
}

test('a store of a newer broker is refused, and left as it is', async t => {
  const { dir } = place(t)
  await filled(dir, 3)
  const { store } = await openStore(dir)
  await store.commit(batch => batch.put('meta', Buffer.from('format'), Buffer.from(String(format + 1))))
  await store.close()
  await assert.rejects(
    openStore(dir),
    (err: BrokerError) => err.code === 'CONFLICT' && /newer tsmqttd/.test(err.message)
  )
  assert.deepEqual(readdirSync(join(dir, '..')), ['store'])
})

test('a backup of a store in use is a store with all that was committed', async t => {
  const { dir } = place(t)
  await filled(dir)
  const { store } = await openStore(dir)
  await store.backup(join(dir, '..', 'copy.mdb'))
  await store.commit(batch => batch.put('entry', Buffer.from('later'), Buffer.from('v')))
  await store.close()
  const other = place(t)
  await filled(other.dir, 1)
  writeFileSync(other.file, readFileSync(join(dir, '..', 'copy.mdb')))
  const { store: copy, putAside } = await openStore(other.dir)
  assert.equal(putAside, undefined)
  assert.equal(count(copy), 2000)
  await copy.close()
})

test('no room is QUOTA_EXCEEDED, and nothing of the batch is there', async t => {
  const { dir } = place(t)
  const { store } = await openStore(dir)
  const huge = Buffer.alloc(1024 * 1024)
  const before = count(store)
  await assert.rejects(
    store.commit(batch => {
      batch.put('entry', Buffer.from('small'), Buffer.from('v'))
      batch.put('entry', Buffer.alloc(3000), huge) // a key that LMDB does not take
    }),
    (err: BrokerError) => err.code === 'UNAVAILABLE'
  )
  assert.equal(count(store), before)
  await store.commit(batch => batch.put('entry', Buffer.from('small'), Buffer.from('v')))
  assert.equal(count(store), before + 1)
  await store.close()
})
