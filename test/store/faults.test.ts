import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Model } from '../../bench/crash/model.js'
import { round, type Subject } from '../../bench/crash/round.js'
import type { Home } from '../../src/base/home.js'
import { createLog } from '../../src/base/log/log.js'
import { Server } from '../../src/server/server.js'
import { readSettings } from '../../src/server/settings.js'
import { type Fault, FaultyDisk } from '../support/faulty-store.js'
import { makeHome, Speaker, until } from '../support/server.js'

const conf = 'store.type = lmdb\nmqtt.mqueue.max_length = 0\n'

async function startOn(home: Home, disk = new FaultyDisk()): Promise<Server> {
  return await Server.start({
    home,
    settings: readSettings(home, {}),
    log: createLog({ level: 'error', format: 'text', write: () => {} }),
    openStore: disk.open
  })
}

async function onFaultyDisk(t: TestContext) {
  const disk = new FaultyDisk()
  const server = await startOn(makeHome(t, { conf }), disk)
  t.after(() => server.stop('fast'))
  return { disk, server, to: { port: server.listeners[0]!.port } }
}

const alarms = ({ alarms }: Server): string[] => alarms.list().map(({ id }) => id)

for (const fault of ['write', 'fsync', 'full'] as const) {
  test(`a disk that fails (${fault}): what needs it is refused, what does not flows, and it recovers by itself`, async t => {
    const { disk, server, to } = await onFaultyDisk(t)
    const stored = await Speaker.connect(t, to, { id: 'stored', version: 5, clean: false })
    await stored.subscribe([['kept', 2]])
    stored.raw.socket.destroy()
    const passing = await Speaker.connect(t, to, { id: 'passing' })
    await passing.subscribe([['passing', 1]])
    const five = await Speaker.connect(t, to, { id: 'five', version: 5 })
    const four = await Speaker.connect(t, to, { id: 'four', version: 4 })

    disk.fault = fault
    for (const qos of [1, 2] as const) {
      five.send(five.publication('kept', `lost ${qos}`, { qos, id: 1 }))
      const ack = await five.nextOf(qos === 1 ? 4 : 5)
      assert.deepEqual([ack.id, ack.code], [1, 0x97])
      five.send(five.publication('retained', `lost ${qos}`, { qos, id: 2, retain: true }))
      assert.equal((await five.nextOf(qos === 1 ? 4 : 5)).code, 0x97)
    }
    assert.deepEqual(alarms(server), ['store_unwritable'])
    four.send(four.publication('kept', 'not yet', { qos: 1, id: 1 }))
    four.send(four.publication('kept', 'nor this', { qos: 2, id: 2 }))
    four.send(four.publication('passing', 'flows', { qos: 1, id: 3 }))
    const ack = await four.next()
    assert.deepEqual([ack.type, ack.id], [4, 3], 'MQTT 3 is not answered, keeps its connection, and others are')
    assert.equal((await passing.nextOf(3)).payload, 'flows')

    disk.fault = undefined
    await until('the alarm is over', () => alarms(server).length === 0)
    five.send(five.publication('kept', 'kept', { qos: 2, id: 1 }))
    const again = await five.nextOf(5)
    assert.deepEqual([again.id, again.code], [1, 0])
    four.send(four.publication('kept', 'not yet', { qos: 1, id: 1, dup: true }))
    assert.equal((await four.nextOf(4)).id, 1)

    await server.stop()
    const next = await startOn(server.home!)
    t.after(() => next.stop('fast'))
    const port = next.listeners[0]!.port
    const back = await Speaker.connect(t, { port }, { id: 'stored', version: 5, clean: false })
    assert.equal(back.connack.sessionPresent, true)
    assert.equal((await back.next()).payload, 'kept')
    assert.equal((await back.next()).payload, 'not yet')
    await back.subscribe([['retained', 1]])
    const last = await Speaker.connect(t, { port }, { version: 5 })
    await last.publish('kept', 'last', { qos: 1 })
    assert.equal((await back.nextOf(3)).payload, 'last', 'nothing that was refused is there')
  })
}

test('a QoS 2 message that is sent again is not acknowledged while the first is not on disk [MQTT-4.3.3-10]', async t => {
  const { disk, server, to } = await onFaultyDisk(t)
  const stored = await Speaker.connect(t, to, { id: 'stored', clean: false })
  await stored.subscribe([['kept', 2]])
  const from = await Speaker.connect(t, to, { id: 'from', clean: false })
  disk.fault = 'write'
  const publication = (dup: boolean): Buffer => from.publication('kept', 'once', { qos: 2, id: 1, dup })
  from.send(publication(false), publication(true))
  await until('the disk has failed', () => alarms(server).length === 1)
  assert.deepEqual(await from.heard(), [], 'neither is acknowledged')
  disk.fault = undefined
  await until('the alarm is over', () => alarms(server).length === 0)
  from.send(publication(true))
  await from.nextOf(5)
  assert.equal((await stored.nextOf(3)).payload, 'once')
  assert.deepEqual(await stored.payloads(), [])
})

test('PUBCOMP is not said before the id is free on disk, though PUBREL comes twice', async t => {
  const { disk, to } = await onFaultyDisk(t)
  const from = await Speaker.connect(t, to, { id: 'from', version: 5, clean: false })
  from.send(from.publication('t', 'x', { qos: 2, id: 1 }))
  await from.nextOf(5)
  disk.fault = 'slow'
  const began = performance.now()
  from.send(from.ack(6, 1), from.ack(6, 1))
  assert.deepEqual([(await from.nextOf(7)).code, (await from.nextOf(7)).code], [0, 0x92])
  assert(performance.now() - began > 195)
})

test('a slow disk delays what must be kept, and nothing else', async t => {
  const { disk, to } = await onFaultyDisk(t)
  const stored = await Speaker.connect(t, to, { id: 'stored', clean: false })
  await stored.subscribe([['kept', 2]])
  stored.raw.socket.destroy()
  const passing = await Speaker.connect(t, to, { id: 'passing' })
  await passing.subscribe([['passing', 2]])
  const [waits, flows] = [await Speaker.connect(t, to), await Speaker.connect(t, to)]
  const held: (() => void)[] = []
  disk.delay = () => new Promise<void>(resolve => held.push(resolve))
  disk.fault = 'slow'
  waits.send(waits.publication('kept', 'x', { qos: 1, id: 1 }))
  const answered: string[] = []
  const first = waits.nextOf(4).then(() => answered.push('waits'))
  flows.send(flows.publication('passing', 'x', { qos: 1, id: 1 }))
  const second = Promise.all([flows.nextOf(4), passing.nextOf(3)]).then(() => answered.push('flows'))
  await second
  await until('the disk is at it', () => held.length > 0)
  await flows.heard()
  assert.deepEqual(answered, ['flows'])
  disk.fault = undefined
  for (const go of held) go()
  await first
  assert.deepEqual(answered, ['flows', 'waits'])
})

test('nothing acknowledged is lost and no QoS 2 doubled, whatever the disk does', async t => {
  const home = makeHome(t, { conf: `${conf}listener.tcp.test = 127.0.0.1:${await freePort()}` })
  const disk = new FaultyDisk()
  const model = new Model()
  model.isOrdered = false
  let server = startOn(home, disk)
  const { port } = (await server).listeners[0]!
  t.after(async () => (await server).stop('fast'))
  let harms = 0
  const faults: Fault[] = ['write', 'fsync', 'full', 'slow']
  const subject: Subject = {
    port,
    get harms() {
      return harms
    },
    start: () => {},
    harm: async random => {
      for (const fault of [...faults, random.pick(faults)]) {
        await sleep(random.int(0, 200))
        disk.fault = fault
        harms++
        await sleep(random.int(20, 300))
        disk.fault = undefined
        await sleep(random.int(0, 1200))
      }
    },
    restart: async () => {
      await (await server).stop()
      server = startOn(home, disk)
      await server
    }
  }
  const { problems, refusals } = await round(1, model, subject, { messages: 300 })
  assert.deepEqual(problems, [])
  assert(disk.failures > 0 && refusals > 0)
})

test('a full disk: publishes are refused until there is room again', async t => {
  const parent = mkdtempSync(join(tmpdir(), 'broker-full-'))
  if (!mounts(parent)) {
    rmSync(parent, { recursive: true })
    return t.skip('no small file system can be mounted here')
  }
  // Hooks are called in the order in which they are given: the servers must have stopped.
  const stop: (() => Promise<void>)[] = []
  t.after(async () => {
    for (const each of stop) await each()
    execFileSync('umount', [parent])
    rmSync(parent, { recursive: true })
  })
  const home = makeHome(t, { conf: `${conf}store.dir = ${parent}/store` })
  const dir = home.path(`${parent}/store`)
  const server = await startOn(home)
  stop.push(() => server.stop('fast'))
  const to = { port: server.listeners[0]!.port }
  const stored = await Speaker.connect(t, to, { id: 'stored', version: 5, clean: false })
  await stored.subscribe([['kept', 1]])
  stored.raw.socket.destroy()
  const from = await Speaker.connect(t, to, { version: 5 })
  const payload = 'x'.repeat(20_000)
  const filler = join(dir, 'filler')
  const { bavail, bsize } = statfsSync(dir)
  writeFileSync(filler, Buffer.alloc(Math.max(0, bavail * bsize - 200_000)))
  let kept = 0
  let code = 0
  while (code === 0 && kept < 200) {
    from.send(from.publication('kept', `${kept} ${payload}`, { qos: 1, id: 1 }))
    code = (await from.nextOf(4)).code
    if (code === 0) kept++
  }
  assert.equal(code, 0x97)
  assert.match(String(server.alarms.list().find(({ id }) => id === 'store_unwritable')?.details['why']), /no room/)
  rmSync(filler)
  await until('the alarm is over', () => alarms(server).length === 0)
  await from.publish('kept', `${kept++} ${payload}`, { qos: 1 })
  await server.stop()
  const next = await startOn(home)
  stop.push(() => next.stop('fast'))
  const back = await Speaker.connect(t, { port: next.listeners[0]!.port }, { id: 'stored', version: 5, clean: false })
  for (let i = 0; i < kept; i++) {
    const got = await back.nextOf(3)
    assert.equal(got.payload.split(' ')[0], String(i))
    back.send(back.ack(4, got.id))
  }
})

/** A file system of 4 MiB at the directory. */
function mounts(dir: string): boolean {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', dir], { stdio: 'ignore' })
  } catch {
    return false
  }
  return true
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}
