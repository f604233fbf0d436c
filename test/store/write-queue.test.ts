import assert from 'node:assert/strict'
import test from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Batch, Store } from '../../src/store/store.js'
import { type Change, type Revocable, usualTimes, WriteQueue } from '../../src/store/write-queue.js'
import { hangMs, until } from '../support/server.js'

/** Batches as they came, each as the names that were put in it. A commit ends when the test says so. */
class Disk implements Pick<Store, 'commit' | 'close'> {
  readonly batches: string[][] = []
  isClosed = false
  end: (err?: Error) => void = () => {}
  isManual = false

  async commit(fill: (batch: Batch) => void): Promise<void> {
    const names: string[] = []
    fill({ put: (_table, key) => void names.push(Buffer.from(key).toString()), delete: () => {} })
    this.batches.push(names)
    if (!this.isManual) return
    await new Promise<void>((resolve, reject) => {
      this.end = err => (err === undefined ? resolve() : reject(err))
    })
  }

  async close(): Promise<void> {
    this.isClosed = true
  }

  get names(): string[] {
    return this.batches.flat().filter(name => name !== 'probe')
  }
}

/** @param again what failed() says. */
function change(name: string, told: string[], again = false): Revocable & { needed: boolean } {
  return {
    needed: true,
    write: batch => batch.put('meta', Buffer.from(name), Buffer.alloc(0)),
    committed: () => void told.push(name),
    failed: () => {
      told.push(`${name} failed`)
      return again
    }
  }
}

function made({ isManual = false, times = {} } = {}) {
  const disk = new Disk()
  disk.isManual = isManual
  const told: string[] = []
  const events = { failed: () => void told.push('failing'), recovered: () => void told.push('recovered') }
  const queue = new WriteQueue(disk as unknown as Store, events, { ...usualTimes, retry: 20, ...times })
  return { disk, told, queue }
}

test('WriteQueue gathers what comes together into one commit, and what comes while it writes into the next', async () => {
  const { disk, told, queue } = made({ isManual: true })
  for (const name of ['a', 'b', 'c']) queue.write(change(name, told), 'awaited')
  await until('the first batch', () => disk.batches.length === 1)
  for (const name of ['d', 'e']) queue.write(change(name, told), 'awaited')
  await sleep(10)
  assert.deepEqual(disk.batches, [['a', 'b', 'c']])
  assert.deepEqual(told, [], 'nobody is told before it is on disk')
  disk.end()
  await until('the second', () => disk.batches.length === 2)
  assert.deepEqual(told, ['a', 'b', 'c'])
  assert.deepEqual(disk.batches[1], ['d', 'e'])
  disk.end()
  await until('its end', () => told.length === 5)
  assert.deepEqual([queue.commits, queue.written], [2, 5])
})

test('WriteQueue.write() held: writes what is still needed a moment later, and in its order', async () => {
  const { disk, told, queue } = made({ times: { grace: 50 } })
  const began = performance.now()
  const held = ['a', 'b', 'c'].map(name => change(name, told))
  for (const each of held) queue.write(each, 'held')
  held[1]!.needed = false
  assert.deepEqual(disk.names, [])
  await until('the others', () => told.length === 2)
  assert.ok(performance.now() - began >= 45)
  assert.deepEqual(disk.names, ['a', 'c'])
  assert.equal(queue.spared, 1)
})

test('WriteQueue.write() lazy: goes with what somebody waits for, in the order in which they came', async () => {
  const { disk, told, queue } = made({ times: { lazy: hangMs } })
  queue.write(change('a', told), 'lazy')
  await sleep(5)
  assert.deepEqual(disk.names, [])
  queue.write(change('b', told), 'awaited')
  await until('both', () => told.length === 2)
  assert.deepEqual(disk.batches, [['a', 'b']])
})

test('WriteQueue.expedite() has what nobody waited for written soon', async () => {
  const { told, queue } = made({ times: { lazy: 2 * hangMs } })
  queue.write(change('a', told), 'lazy')
  queue.expedite()
  await until('it is written', () => told.length === 1)
})

test('WriteQueue ends a batch of many only where it may be cut', async () => {
  const { disk, told, queue } = made()
  for (let unit = 0; unit < 4; unit++) {
    queue.boundary()
    for (let i = 0; i < 1500; i++) queue.write(change(`${unit}`, told), 'awaited')
  }
  await until('all', () => told.length === 6000)
  assert.deepEqual(
    disk.batches.map(names => [...new Set(names)].join('')),
    ['01', '23']
  )
  assert.deepEqual(told, disk.names)
})

test('WriteQueue: a failed commit fails all, the last one first; it tries again what wants to be, and recovers', async () => {
  const { disk, told, queue } = made({ isManual: true })
  queue.write(change('a', told, true), 'awaited')
  queue.write(change('b', told), 'awaited')
  await until('the batch', () => disk.batches.length === 1)
  queue.write(change('c', told, true), 'awaited')
  queue.write(change('d', told, true), 'held')
  disk.end(new Error('disk'))
  await until('all are told', () => told.length === 5)
  assert.deepEqual(told.splice(0), ['failing', 'c failed', 'd failed', 'b failed', 'a failed'])
  assert(queue.isFailing)
  await until('the next try', () => disk.batches.length === 2)
  assert.deepEqual(disk.batches[1], ['a', 'd', 'c', 'probe'])
  disk.end()
  await until('they are written', () => told.length === 4)
  assert.deepEqual(told, ['recovered', 'a', 'd', 'c'])
  assert(!queue.isFailing)
})

test('WriteQueue keeps what comes from those that are told of a failure', async () => {
  const { disk, told, queue } = made({ isManual: true })
  const first: Change = {
    ...change('a', told),
    failed: () => {
      queue.write(change('because a failed', told), 'awaited')
      return false
    }
  }
  queue.write(first, 'awaited')
  await until('the batch', () => disk.batches.length === 1)
  disk.end(new Error('disk'))
  await until('the next', () => disk.batches.length === 2)
  assert.deepEqual(disk.batches[1], ['because a failed', 'probe'])
  disk.end()
  await until('it is written', () => told.includes('because a failed'))
})

test('WriteQueue.close() writes everything, what is held back and what comes while it does, and closes the store', async () => {
  const { disk, told, queue } = made({ times: { lazy: hangMs, grace: hangMs } })
  queue.write(change('a', told), 'lazy')
  queue.write(change('b', told), 'held')
  queue.write({ ...change('c', told), committed: () => queue.write(change('d', told), 'lazy') }, 'awaited')
  await queue.close()
  assert.deepEqual(disk.names, ['b', 'a', 'c', 'd'])
  assert(disk.isClosed)
})

test('WriteQueue.close() does not wait for a disk that cannot be written', async () => {
  const { disk, told, queue } = made()
  disk.commit = async () => {
    throw new Error('disk')
  }
  queue.write(change('a', told, true), 'awaited')
  await queue.close()
  assert.deepEqual(told, ['failing', 'a failed'])
  assert(disk.isClosed)
})
