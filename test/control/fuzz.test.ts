/**
 * Good packets made bad in many ways, and bytes that never were packets: whatever comes, the broker goes on
 * serving. The seed is fixed, so that a failure comes again; FUZZ_SEED and FUZZ_CONNECTIONS try others.
 */
import assert from 'node:assert/strict'
import net from 'node:net'
import { test } from 'node:test'
import {
  client,
  connectPacket,
  disconnect,
  next,
  packet,
  pingreq,
  publishPacket,
  startServer,
  subscribePacket,
  text,
  until
} from '../support/server.js'

const seed = Number(process.env['FUZZ_SEED'] ?? 20_261_122)
const connections = Number(process.env['FUZZ_CONNECTIONS'] ?? 2000)
const atOnce = 40

/** mulberry32: small, and the same everywhere. */
function random(state: number): (below: number) => number {
  return below => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return (((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below
  }
}

const roll = random(seed)
const upTo = (n: number): number => Math.floor(roll(n))
const pick = <T>(from: readonly T[]): T => from[upTo(from.length)]!
const noise = (most: number): Buffer => Buffer.from(Array.from({ length: upTo(most) }, () => upTo(256)))

const names = [
  'a',
  'a/b',
  '',
  '#',
  '+',
  'a/#',
  '+/b',
  '$SYS/x',
  '$share/g/a',
  'a\0b',
  '__proto__',
  'constructor',
  '/',
  '\ud800',
  'x'.repeat(70_000)
]
const id = (): Buffer => pick([Buffer.from([0, 1]), Buffer.from([0, 0]), Buffer.from([255, 255]), noise(3)])
const qos = (): number => pick([0, 1, 2, 3])

/** A packet of each kind, mostly good. */
const kinds: readonly (() => Buffer)[] = [
  () =>
    connectPacket({
      id: pick([...names, 'c1', 'c2', 'c3']),
      clean: roll(1) < 0.5,
      level: pick([4, 4, 4, 3, 5, 0, 0x84])
    }),
  () =>
    packet(
      0x10,
      text('MQTT'),
      4,
      upTo(256),
      0,
      1,
      text(pick(names)),
      text(pick(names)),
      text('x'),
      text('u'),
      text('p')
    ),
  () => packet(0x30 | upTo(16), text(pick(names)), ...(roll(1) < 0.7 ? [id()] : []), noise(50)),
  () => publishPacket(pick(names), noise(20), { qos: upTo(3), retain: roll(1) < 0.3, id: upTo(4) }),
  () => packet(pick([0x40, 0x50, 0x62, 0x70]), id()),
  () =>
    subscribePacket(
      [
        [pick(names), qos()],
        [pick(names), qos()]
      ],
      upTo(3)
    ),
  () => packet(0x82, id(), text(pick(names))),
  () => packet(0xa2, id(), text(pick(names))),
  () => pingreq,
  () => disconnect,
  () => packet(upTo(256), noise(100))
]

/** One of many ways to spoil bytes. */
function spoil(bytes: Buffer): Buffer {
  const at = upTo(bytes.length + 1)
  const spoilt = Buffer.from(bytes)
  switch (upTo(7)) {
    case 0: // another byte
      if (bytes.length > 0) spoilt[upTo(bytes.length)] = upTo(256)
      return spoilt
    case 1: // one bit, most often near the front where lengths and flags are
      if (bytes.length > 0) spoilt[upTo(Math.min(bytes.length, 16))]! ^= 1 << upTo(8)
      return spoilt
    case 2:
      return bytes.subarray(0, at)
    case 3:
      return Buffer.concat([bytes.subarray(0, at), noise(8), bytes.subarray(at)])
    case 4:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(upTo(bytes.length + 1))])
    case 5: // a length that lies
      if (bytes.length > 1) spoilt[1] = upTo(256)
      return spoilt
    default:
      return Buffer.concat([bytes, bytes])
  }
}

/** What one connection sends behind a good CONNECT or without one, in the pieces in which it sends it. */
function script(): Buffer[] {
  const parts: Buffer[] = []
  for (let n = upTo(6); n >= 0; n--) {
    const good = pick(kinds)()
    parts.push(roll(1) < 0.5 ? good : roll(1) < 0.8 ? spoil(good) : noise(200))
  }
  const bytes = Buffer.concat(parts)
  if (roll(1) < 0.6) return [bytes]
  const cut = upTo(bytes.length)
  return [bytes.subarray(0, cut), bytes.subarray(cut)]
}

async function attack(port: number): Promise<void> {
  const socket = net.connect(port, '127.0.0.1')
  socket.on('error', () => {}).resume()
  const closed = next(socket, 'close')
  if (roll(1) < 0.85) {
    socket.write(connectPacket({ id: `f${upTo(50)}`, clean: roll(1) < 0.5, keepAlive: upTo(3) }))
    if (roll(1) < 0.7) await Promise.race([next(socket, 'data'), closed]) // its CONNACK
  }
  for (const piece of script()) {
    socket.write(piece)
    if (roll(1) < 0.5) await new Promise(setImmediate)
  }
  const patience = upTo(15)
  const late = setTimeout(() => (patience % 3 === 0 ? socket.resetAndDestroy() : socket.end()), patience)
  const never = setTimeout(() => socket.destroy(), 1000)
  await closed
  clearTimeout(late)
  clearTimeout(never)
}

test(`Broker outlives up to ${connections} connections that send nonsense (seed ${seed})`, async t => {
  const running = await startServer(t, { conf: 'mqtt.max_packet_size = 100KB\nmqtt.client.idle_timeout = 1s' })
  const bugs: unknown[] = []
  const note = (err: unknown): void => void bugs.push(err)
  process.on('uncaughtExceptionMonitor', note).on('warning', note)
  t.after(() => process.off('uncaughtExceptionMonitor', note).off('warning', note))

  let left = connections
  const enough = performance.now() + 4000 // on a busy machine they are fewer
  const attackers = Array.from({ length: atOnce }, async () => {
    while (left-- > 0 && performance.now() < enough) await attack(running.port)
  })
  await Promise.all(attackers)

  const c = await client(t, running, { clientId: 'good' })
  const message = next(c, 'message')
  await c.subscribeAsync('good/+', { qos: 1 })
  await c.publishAsync('good/1', 'x', { qos: 1 })
  assert.equal((await message)[0], 'good/1')
  await until('the others are gone', () => running.server.broker.connectionCount === 1)
  assert.deepEqual(bugs, [])
  const errors = running.log.filter(line => /\[(error|critical)\]|(Type|Range|Reference|Assertion)Error/.test(line))
  assert.deepEqual(errors, [])
})
