import assert from 'node:assert/strict'
import test from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Message } from '../../src/delivery/message.js'
import { Outgoing } from '../../src/delivery/session/outgoing.js'
import { Session } from '../../src/delivery/session/session.js'
import type { Durability } from '../../src/persistence/durability.js'
import { Persistence } from '../../src/persistence/persistence.js'
import { decodeEntry, decodeMessage, pairKey, textKey } from '../../src/persistence/records.js'
import { SessionLog } from '../../src/persistence/session-log.js'
import type { LoggedSession } from '../../src/persistence/stored-delivery.js'
import type { Batch, Store, Table } from '../../src/store/store.js'
import { usualTimes } from '../../src/store/write-queue.js'
import { dispatcherOf, ingressTo } from '../support/dispatcher.js'
import { until } from '../support/server.js'

/** What is on it is in a map; a commit ends when the test says so, or at once. */
class Disk {
  readonly records = new Map<string, Buffer>()
  /** The tables of each batch, in order. */
  readonly batches: string[][] = []
  isManual = false
  end: (err?: Error) => void = () => {}

  async commit(fill: (batch: Batch) => void): Promise<void> {
    const changes: [string, Buffer | undefined][] = []
    const at = (table: Table, key: Uint8Array): string => `${table} ${Buffer.from(key).toString('hex')}`
    fill({
      put: (table, key, value) => void changes.push([at(table, key), Buffer.from(value)]),
      delete: (table, key) => void changes.push([at(table, key), undefined])
    })
    this.batches.push(changes.map(([name, value]) => `${value === undefined ? '-' : ''}${name.split(' ')[0]}`))
    if (this.isManual) {
      await new Promise<void>((resolve, reject) => {
        this.end = err => (err === undefined ? resolve() : reject(err))
      })
    }
    for (const [name, value] of changes) value === undefined ? this.records.delete(name) : this.records.set(name, value)
  }

  get(table: Table, key: Uint8Array): Buffer | undefined {
    return this.records.get(`${table} ${Buffer.from(key).toString('hex')}`)
  }

  async batch(count: number): Promise<void> {
    await until(`${count} batches`, () => this.batches.length >= count)
  }
}

const limits = { maxInflight: 10, maxQueued: 0, storeQos0: false }
const broken = new Error('disk')

function made({ isManual = false } = {}) {
  const disk = new Disk()
  disk.isManual = isManual
  const store = disk as unknown as Store
  const persistence = new Persistence(
    store,
    { failed: () => {}, recovered: () => {} },
    { times: { ...usualTimes, retry: 20 } }
  )
  const dispatcher = dispatcherOf({ shareStrategy: 'sticky' }, persistence)
  const ingress = ingressTo(dispatcher)
  const session = (id: string, filter: string, qos: 1 | 2 = 2): Session => {
    const made = new Session(id, limits)
    made.sessionLog = new SessionLog(persistence, id, made)
    dispatcher.subscribe({ subscriber: made, filter, qos, noLocal: false, retainAsPublished: false, identifier: 0 })
    return made
  }
  const publish = (
    topic: string,
    payload: string,
    { qos = 1 as 0 | 1 | 2, retain = false } = {}
  ): Durability | undefined => {
    return persistence.transaction(() => {
      ingress.accept(Message.of(topic, Buffer.from(payload), { qos, retain }))
    })
  }
  return { disk, persistence, dispatcher, session, publish }
}

/** A session as its log sees it. */
function loggedSession() {
  const told: string[] = []
  const of: LoggedSession = {
    pump: () => void told.push('pump'),
    withdraw: () => {
      told.push('withdraw')
      return true
    },
    released: () => void told.push('released')
  }
  return { told, of }
}

const outgoing = (qos: 1 | 2, payload = 'x', message = Message.of('t', Buffer.from(payload), { qos })): Outgoing =>
  new Outgoing(message, qos, false, undefined, undefined)

test('Persistence writes nothing of a QoS 1 message that is acknowledged in time, and settles its durability', async () => {
  const { disk, persistence } = made()
  const log = new SessionLog(persistence, 'c', loggedSession().of)
  const one = outgoing(1)
  const durability = persistence.transaction(() => log.add(one, true))!
  assert(durability.isOpen)
  one.stored!.forget()
  assert(!durability.isOpen && !durability.failed)
  await sleep(40)
  assert.deepEqual(disk.batches.flat(), [])
  assert.equal(persistence.queue.spared, 1)
})

test('Persistence: QoS 2 may be sent when it is on disk, and PUBREL when PUBREC is', async () => {
  const { disk, persistence } = made({ isManual: true })
  const { told, of } = loggedSession()
  const log = new SessionLog(persistence, 'c', of)
  const one = outgoing(2)
  log.add(one, true)
  await disk.batch(1)
  assert(!one.stored!.isSafe)
  disk.end()
  await until('it may be sent', () => told.length === 1)
  assert(one.stored!.isSafe)
  one.received = true
  one.stored!.received()
  await disk.batch(2)
  assert.deepEqual(told, ['pump'])
  disk.end()
  await until('PUBREL', () => told.length === 2)
  assert.deepEqual(told, ['pump', 'released'])
  assert.equal(decodeEntry(disk.get('entry', pairKey(log.id, 1))!).message, undefined)
})

test('Persistence: PUBREL that waited is sent by who forgets the record meanwhile', async () => {
  const { disk, persistence } = made({ isManual: true })
  const log = new SessionLog(persistence, 'c', loggedSession().of)
  const one = outgoing(2)
  log.add(one, true)
  await disk.batch(1)
  disk.end()
  await until('it is written', () => one.stored!.isSafe)
  one.received = true
  one.stored!.received()
  assert(one.stored!.isReleasing)
  one.stored!.forget() // the session ends with its connection from now on
  assert(!one.stored!.isReleasing)
})

test('Persistence writes an incoming QoS 2 message and what became of it in one batch, though it waits for QoS 1', async () => {
  const { disk, persistence } = made()
  const [from, to] = [loggedSession().of, loggedSession().of].map((of, i) => new SessionLog(persistence, `c${i}`, of))
  for (let unit = 0; unit < 2000; unit++) {
    persistence.transaction(() => {
      from!.incoming(unit + 1)
      to!.add(outgoing(1), true)
      to!.add(outgoing(2), true)
    })
  }
  await until('all', () => disk.batches.flat().length === 6000)
  assert(disk.batches.length > 1)
  for (const batch of disk.batches) {
    const count = (table: string): number => batch.filter(name => name === table).length
    assert.equal(count('entry'), 2 * count('incoming'))
  }
})

test('Persistence: packet ids follow from the place in the order, over a restart too', () => {
  const { persistence } = made()
  const log = new SessionLog(persistence, 'c', loggedSession().of)
  const ids = [1, 2, 3].map(() => {
    const one = outgoing(2)
    log.add(one, false)
    return one.packetId
  })
  const again = new SessionLog(persistence, 'c', loggedSession().of, { id: 1 })
  const restored = ids.slice(1).map((_, i) => {
    const one = outgoing(2)
    again.restored(one, i + 2)
    return one.packetId
  })
  assert.deepEqual(restored, ids.slice(1))
  const next = outgoing(1)
  again.add(next, false)
  assert.equal(next.packetId, ids[2]! + 1)
})

test('Persistence: a message for several is written once, and again when its batch failed, whoever had it meanwhile', async () => {
  const { disk, persistence } = made({ isManual: true })
  const logs = ['a', 'b', 'c'].map(
    id => new SessionLog(persistence, id, { ...loggedSession().of, withdraw: () => false })
  )
  const message = Message.of('t', Buffer.from('x'), { qos: 1 })
  const all = logs.map(log => {
    const one = outgoing(1, '', message)
    log.add(one, false)
    return one
  })
  await disk.batch(1)
  assert.deepEqual(disk.batches[0], ['message', 'entry', 'entry', 'entry'])
  all[0]!.stored!.forget() // acknowledged while it is being written
  disk.end(broken)
  await disk.batch(2)
  disk.end()
  await until('they are written', () => disk.get('entry', pairKey(logs[2]!.id, 1)) !== undefined)
  const number = decodeEntry(disk.get('entry', pairKey(logs[1]!.id, 1))!).message as number
  const key = Buffer.alloc(6)
  key.writeUIntBE(number, 0, 6)
  assert.equal(decodeMessage(disk.get('message', key)!, 0).payload.toString(), 'x')
})

test('Persistence: what cannot be kept is withdrawn and its publisher told; what moves between sessions is tried again', async () => {
  const { disk, persistence, dispatcher, session, publish } = made({ isManual: true })
  const group = ['a', 'b'].map(id => session(id, '$share/g/t', 1))
  await disk.batch(1)
  disk.end()
  publish('t', 'acknowledged')
  await disk.batch(2)
  disk.end()
  await until('it is with one', () => group.some(({ queueLength }) => queueLength === 1))
  const [first, second] = group[0]!.queueLength === 1 ? [group[0]!, group[1]!] : [group[1]!, group[0]!]
  await sleep(10)
  disk.end()
  const moved = persistence.transaction(() => dispatcher.end(first)) // a clean start, whose CONNACK waits
  const refused = publish('t', 'refused')!
  await disk.batch(3)
  disk.end(broken)
  await until('the publisher is told', () => !refused.isOpen)
  assert(refused.failed && moved?.failed !== true)
  assert.deepEqual(
    second.waiting().map(({ message }) => message.payload.toString()),
    ['acknowledged']
  )
})

test('Persistence: retained messages of one topic join, and go back together when they cannot be kept', async () => {
  const { disk, dispatcher, publish } = made({ isManual: true })
  publish('t', 'kept', { retain: true })
  await disk.batch(1)
  disk.end()
  await until('it is written', () => disk.get('retained', textKey('t')) !== undefined)
  const durabilities = ['one', 'two'].map(payload => publish('t', payload, { retain: true })!)
  await disk.batch(2)
  durabilities.push(publish('t', 'three', { retain: true })!)
  assert.deepEqual(disk.batches[1], ['retained'])
  disk.end(broken)
  await until('all are told', () => durabilities.every(({ isOpen, failed }) => !isOpen && failed))
  assert.equal(dispatcher.retained.get('t')!.payload.toString(), 'kept')
  await disk.batch(3)
  disk.end()
  await sleep(5)
  assert.equal(decodeMessage(disk.get('retained', textKey('t'))!, 0).payload.toString(), 'kept')
})

test('Persistence: who clears a topic that is being cleared waits for the same', async () => {
  const { disk, publish } = made({ isManual: true })
  publish('t', 'kept', { retain: true })
  await disk.batch(1)
  disk.end()
  await until('it is written', () => disk.get('retained', textKey('t')) !== undefined)
  const first = publish('t', '', { retain: true })!
  await disk.batch(2)
  const second = publish('t', '', { retain: true })
  assert(first.isOpen && second?.isOpen)
  disk.end()
  await disk.batch(3)
  assert(!first.isOpen && second.isOpen)
  disk.end()
  await until('it is cleared', () => !second.isOpen)
})

test('SessionLog.changed() is waited for by who asks for it, though it was changed before', async () => {
  const { disk, persistence } = made({ isManual: true })
  const log = new SessionLog(persistence, 'c', loggedSession().of)
  log.record = () => Buffer.from('record')
  log.changed()
  const durability = persistence.transaction(() => log.changed())!
  await disk.batch(1)
  assert(durability.isOpen)
  disk.end()
  await until('it is on disk', () => !durability.isOpen)
})

test('Persistence.transaction() leaves nothing behind when its work throws', async () => {
  const { disk, persistence } = made()
  const log = new SessionLog(persistence, 'c', loggedSession().of)
  const bug = new Error('bug')
  assert.throws(
    () =>
      persistence.transaction(() => {
        log.incoming(1)
        throw bug
      }),
    bug
  )
  assert.throws(
    () =>
      persistence.move(() => {
        throw bug
      }),
    bug
  )
  assert(persistence.mayHold, 'what a client is about to acknowledge is held back again')
  assert.equal(persistence.awaited(), undefined, 'nobody waits')
  const one = outgoing(1)
  const durability = persistence.transaction(() => log.add(one, true))!
  one.stored!.forget()
  assert(!durability.isOpen)
  await until('what was written before the bug', () => disk.batches.flat().length === 1)
})
