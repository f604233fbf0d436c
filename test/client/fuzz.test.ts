/**
 * Good packets made bad in many ways, and bytes that never were packets: whatever comes, the broker goes on
 * serving, and says nothing that a server must not say. The seed is fixed, so that a failure comes again; FUZZ_SEED and FUZZ_CONNECTIONS try others.
 */
import assert from 'node:assert/strict'
import net from 'node:net'
import { test } from 'node:test'
import { parser } from 'mqtt-packet'
import {
  client,
  disconnect,
  lengthBytes,
  next,
  packet,
  pingreq,
  publishPacket,
  startServer,
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

/** Properties of MQTT 5: any of them in any number, mostly well-formed, and not asking where they belong. */
function properties(version: number): Buffer {
  if (version < 5) return Buffer.alloc(0)
  if (roll(1) < 0.1) return noise(12)
  const one = (): Buffer => {
    const word = text(pick(names).slice(0, 100))
    const number = Buffer.from([pick([0x02, 0x11, 0x18, 0x27]), 0, 0, 0, upTo(4)])
    const short = Buffer.from([pick([0x13, 0x21, 0x22, 0x23]), 0, upTo(4)])
    const byte = Buffer.from([pick([0x01, 0x0b, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2a]), upTo(3)])
    const words = Buffer.concat([Buffer.from([pick([0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1f])]), word])
    return pick([number, short, byte, words, Buffer.concat([Buffer.from([0x26]), word, word])])
  }
  const all = Buffer.concat(Array.from({ length: upTo(3) }, one))
  return Buffer.concat([lengthBytes(all.length), all])
}

/** A packet of each kind, mostly good. */
const kinds: readonly ((version: number) => Buffer)[] = [
  v => connect(pick([...names, 'c1', 'c2', 'c3']), pick([v, v, v, 3, 0, 6, 0x84])),
  v => {
    const will = [properties(v), text(pick(names)), text('x')]
    return packet(
      0x10,
      text('MQTT'),
      v,
      upTo(256),
      0,
      1,
      properties(v),
      text(pick(names)),
      ...will,
      text('u'),
      text('p')
    )
  },
  v => packet(0x30 | upTo(16), text(pick(names)), ...(roll(1) < 0.7 ? [id()] : []), properties(v), noise(50)),
  () => publishPacket(pick(names), noise(20), { qos: upTo(3), retain: roll(1) < 0.3, id: upTo(4) }),
  v => packet(0x33, text(pick(names)), id(), properties(v), noise(20)),
  v => packet(pick([0x40, 0x50, 0x62, 0x70]), id(), ...(v === 5 ? [pick([0, 0x10, 0x80]), properties(v)] : [])),
  v => packet(0x82, id(), properties(v), ...[1, 2].flatMap(() => [text(pick(names)), pick([0, 1, 2, 3, upTo(256)])])),
  v => packet(0x82, id(), properties(v), text(pick(names))),
  v => packet(0xa2, id(), properties(v), text(pick(names))),
  () => pingreq,
  v => (v === 5 ? packet(0xe0, pick([0, 4, 0x81]), properties(v)) : disconnect),
  v => packet(0xf0, upTo(256), properties(v)),
  () => packet(upTo(256), noise(100))
]

function connect(clientId: string, version: number): Buffer {
  const flags = roll(1) < 0.5 ? 2 : 0
  return packet(0x10, text('MQTT'), version, flags, 0, upTo(3), properties(version), text(clientId))
}

/** One of many ways to spoil bytes. */
function spoil(bytes: Buffer): Buffer {
  const at = upTo(bytes.length + 1)
  const spoilt = Buffer.from(bytes)
  switch (upTo(7)) {
    case 0: // another byte
      if (bytes.length > 0) spoilt[upTo(bytes.length)] = upTo(256)
      return spoilt
    case 1: // one bit, most often near the channel where lengths and flags are
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
function script(version: number): Buffer[] {
  const parts: Buffer[] = []
  for (let n = upTo(6); n >= 0; n--) {
    const good = pick(kinds)(version)
    parts.push(roll(1) < 0.5 ? good : roll(1) < 0.8 ? spoil(good) : noise(200))
  }
  const bytes = Buffer.concat(parts)
  if (roll(1) < 0.6) return [bytes]
  const cut = upTo(bytes.length)
  return [bytes.subarray(0, cut), bytes.subarray(cut)]
}

/** The flags of what a server sends; undefined: not a server's packet. */
const serversFlags = [undefined, undefined, 0, -1, 0, 0, 2, 0, undefined, 0, undefined, 0, undefined, 0, 0, undefined]

/** What is wrong with all that the broker said on a connection, whose last packet may be cut off. */
function wrongIn(said: Buffer, version: number): string | undefined {
  let accepted = false
  for (let at = 0; at + 1 < said.length; ) {
    const type = said[at]! >> 4
    const flags = serversFlags[type]
    if (flags === undefined || (flags !== -1 && flags !== (said[at]! & 15))) return `header ${said[at]!.toString(16)}`
    if (type === 14 && version < 5) return 'DISCONNECT to MQTT 3'
    if (accepted !== (type !== 2)) return accepted ? 'a second CONNACK [MQTT-3.2.0-2]' : 'before CONNACK [MQTT-3.2.0-1]'
    let body = at + 1
    let length = 0
    for (let shift = 0; body < said.length; shift += 7) {
      length |= (said[body]! & 127) << shift
      if (said[body++]! < 128) break
    }
    at = body + length
    if (at > said.length) return undefined
    if (type === 2 && said[body]! > 1) return 'flags of CONNACK [MQTT-3.2.2-1]'
    if (type === 2 && said[body + 1] !== 0 && at < said.length) return 'behind a refusal [MQTT-3.2.2-7]'
    if (type === 2 && said[body + 1] !== 0 && said[body] !== 0) return 'a session in a refusal [MQTT-3.2.2-6]'
    if (type === 14 && at < said.length) return 'behind DISCONNECT [MQTT-3.14.4-1]'
    accepted = true
  }
  let fault: string | undefined
  const reader = parser({ protocolVersion: version as 3 | 4 | 5 })
  reader.on('error', (err: Error) => {
    fault ??= err.message
  })
  reader.on('packet', ({ cmd, topic }: { cmd: string; topic?: string }) => {
    if (cmd === 'publish' && /[+#\0]/.test(topic!)) fault ??= `PUBLISH to ${topic}`
  })
  reader.parse(said)
  return fault
}

async function attack(port: number, wrong: string[]): Promise<void> {
  const socket = net.connect(port, '127.0.0.1')
  const said: Buffer[] = []
  socket.on('error', () => {}).on('data', chunk => said.push(chunk as Buffer))
  const closed = next(socket, 'close')
  const version = pick([3, 4, 4, 5, 5, 5])
  const introduced = roll(1) < 0.85
  if (introduced) {
    const flags = pick([0, 2])
    const name = version === 3 ? 'MQIsdp' : 'MQTT'
    const promises = version < 5 ? [] : [pick([Buffer.from([0]), Buffer.from([5, 0x11, 0, 0, 0, upTo(3)])])]
    socket.write(packet(0x10, text(name), version, flags, 0, upTo(3), ...promises, text(`f${upTo(50)}`)))
    if (roll(1) < 0.7) await Promise.race([next(socket, 'data'), closed]) // its CONNACK
  }
  for (const piece of script(version)) {
    socket.write(piece)
    if (roll(1) < 0.5) await new Promise(setImmediate)
  }
  const patience = upTo(15)
  const late = setTimeout(() => (patience % 3 === 0 ? socket.resetAndDestroy() : socket.end()), patience)
  const never = setTimeout(() => socket.destroy(), 1000)
  await closed
  clearTimeout(late)
  clearTimeout(never)
  const fault = introduced ? wrongIn(Buffer.concat(said), version) : undefined
  if (fault !== undefined) wrong.push(`${fault}: MQTT ${version}, ${Buffer.concat(said).toString('hex')}`)
}

test(`Broker outlives ${connections} connections that send nonsense (seed ${seed})`, async t => {
  const running = await startServer(t, { conf: 'mqtt.max_packet_size = 100KB\nmqtt.client.idle_timeout = 60s' })
  const bugs: unknown[] = []
  const note = (err: unknown): void => void bugs.push(err)
  process.on('uncaughtExceptionMonitor', note).on('warning', note)
  t.after(() => process.off('uncaughtExceptionMonitor', note).off('warning', note))

  const wrong: string[] = []
  let left = connections
  const attackers = Array.from({ length: atOnce }, async () => {
    while (left-- > 0) await attack(running.port, wrong)
  })
  await Promise.all(attackers)

  const c = await client(t, running, { clientId: 'good' })
  const message = next(c, 'message')
  await c.subscribeAsync('good/+', { qos: 1 })
  await c.publishAsync('good/1', 'x', { qos: 1 })
  assert.equal((await message)[0], 'good/1')
  await until('the others are gone', () => running.server.clients.connectionCount === 1)
  assert.deepEqual(bugs, [])
  assert.deepEqual(wrong, [])
  const errors = running.log.filter(line => /\[(error|critical)\]|(Type|Range|Reference|Assertion)Error/.test(line))
  assert.deepEqual(errors, [])
})
