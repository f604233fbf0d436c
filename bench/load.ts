/**
 * The load: raw sockets and prebuilt packets, since a client library would be the
 * bottleneck. A worker thread opens publishers and subscribers against one broker and
 * keeps a bounded number of messages under way; each payload holds its publisher, its
 * number and the time, so that what is lost, doubled or out of order is seen.
 */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { PacketType } from '../src/wire/frame.js'

export interface Workload {
  /** In `share` the subscribers are one group. */
  readonly shape: 'fan-in' | 'fan-out' | 'pairs' | 'share'
  readonly publishers: number
  readonly subscribers: number
  readonly qos: 0 | 1 | 2
  /** Bytes of payload, 24 at least. */
  readonly size: number
  readonly seconds: number
  /** 4 is MQTT 3.1.1. */
  readonly version: 4 | 5
  /** Two in each message, in MQTT 5. */
  readonly userProperties?: boolean
  /** Messages a second of all publishers together, come what may; without it each has `window` under way. */
  readonly rate?: number
  /** Subscribers whose sessions live on. */
  readonly stored?: boolean
}

export interface Outcome {
  readonly delivered: number
  readonly seconds: number
  readonly lost: number
  readonly doubled: number
  readonly outOfOrder: number
  /** Milliseconds. */
  readonly p50: number
  readonly p99: number
}

/** Messages of one publisher that may be under way: 50 of them stay within the queue of 1000 that brokers have by default. */
const window = 16

export const string = (text: string): Buffer => {
  const bytes = Buffer.from(text)
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes])
}

export const packet = (header: number, ...body: Buffer[]): Buffer => {
  const all = Buffer.concat(body)
  const length: number[] = []
  for (let rest = all.length; ; rest >>= 7) {
    length.push(rest > 127 ? (rest & 127) | 128 : rest)
    if (rest <= 127) break
  }
  return Buffer.concat([Buffer.from([header, ...length]), all])
}

/** CONNECT of a client that wants a new session, or one that lives on. */
export function connectPacket(id: string, version: number, stored = false): Buffer {
  const expiry = stored ? Buffer.from([5, 0x11, 0, 0, 0x0e, 0x10]) : Buffer.from([0])
  const properties = version === 5 ? expiry : Buffer.alloc(0)
  return packet(0x10, string('MQTT'), Buffer.from([version, stored ? 0 : 2, 0, 0]), properties, string(id))
}

/** Of a PUBLISH in MQTT 5, their length before them. */
function twoUserProperties(): Buffer {
  const pair = (name: string, value: string): Buffer =>
    Buffer.concat([Buffer.from([0x26]), string(name), string(value)])
  const both = Buffer.concat([pair('content', 'reading'), pair('origin', 'bench')])
  return Buffer.concat([Buffer.from([both.length]), both])
}

/** Bytes to send, collected in one buffer until the event loop comes round. */
export class Sender {
  readonly #socket: Socket
  #bytes = Buffer.allocUnsafe(4096)
  #length = 0

  constructor(socket: Socket) {
    this.#socket = socket
  }

  /** The buffer, with room for `n` bytes from `at` on. */
  room(n: number): { bytes: Buffer; at: number } {
    if (this.#length === 0) setImmediate(() => this.#flush())
    if (this.#length + n > this.#bytes.length) {
      const more = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#length + n))
      this.#bytes.copy(more, 0, 0, this.#length)
      this.#bytes = more
    }
    const at = this.#length
    this.#length += n
    return { bytes: this.#bytes, at }
  }

  send(packet: Buffer): void {
    const { bytes, at } = this.room(packet.length)
    packet.copy(bytes, at)
  }

  /** Answers the packet whose id stands at from[id]. */
  acknowledge(header: number, from: Buffer, id: number): void {
    const { bytes, at } = this.room(4)
    bytes[at] = header
    bytes[at + 1] = 2
    bytes[at + 2] = from[id]!
    bytes[at + 3] = from[id + 1]!
  }

  /** After what was sent. */
  end(): void {
    this.#flush()
    this.#socket.end()
  }

  #flush(): void {
    if (this.#length === 0) return
    this.#socket.write(this.#bytes.subarray(0, this.#length))
    this.#bytes = Buffer.allocUnsafe(this.#bytes.length)
    this.#length = 0
  }
}

type OnPacket = (bytes: Buffer, start: number, at: number, end: number) => void

/** Resolves when the broker has accepted the connection. */
export async function open(port: number, id: string, version: number, take: OnPacket, stored = false): Promise<Sender> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  await once(socket, 'connect')
  const sender = new Sender(socket)
  const cut = cutter(take)
  const accepted = new Promise<void>(resolve => {
    socket.on('data', chunk => cut(chunk as Buffer, resolve))
  })
  sender.send(connectPacket(id, version, stored))
  await accepted
  return sender
}

function cutter(take: OnPacket): (chunk: Buffer, accepted: () => void) => void {
  let rest: Buffer = Buffer.alloc(0)
  return (chunk, accepted) => {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    let at = 0
    for (;;) {
      let body = at + 1
      let length = 0
      let shift = 0
      let byte = 128
      while (byte > 127 && body < bytes.length) {
        byte = bytes[body++]!
        length |= (byte & 127) << shift
        shift += 7
      }
      if (byte > 127 || body + length > bytes.length) break
      const type = bytes[at]! >> 4
      if (type === PacketType.CONNACK || type === PacketType.SUBACK) accepted()
      take(bytes, at, body, body + length)
      at = body + length
    }
    rest = bytes.subarray(at)
  }
}

async function run(port: number, load: Workload): Promise<Outcome> {
  const { shape, publishers, subscribers, qos, size, version, seconds, userProperties, rate, stored } = load
  const topicOf = (i: number): string => (shape === 'pairs' ? `bench/${i}` : 'bench/all')
  const receivers = shape === 'fan-out' ? subscribers : 1
  const next: number[] = new Array(publishers).fill(0)
  /** Deliveries still to come, of each publisher. */
  const pending: number[] = new Array(publishers).fill(0)
  const acknowledged: number[] = new Array(publishers).fill(0)
  const latencies: number[] = []
  let delivered = 0
  let doubled = 0
  let outOfOrder = 0
  let measuring = false
  let stopping = false
  const senders: Sender[] = []
  const properties = version === 5 ? Buffer.from([0]) : Buffer.alloc(0)
  const publishProperties = userProperties === true ? twoUserProperties() : properties

  /** Each publisher's PUBLISH, but for its number, time and packet id. */
  const frames = Array.from({ length: publishers }, (_, i) => {
    const payload = Buffer.alloc(size)
    payload.writeUInt32BE(i, 0)
    const topic = string(topicOf(i))
    const frame = packet(0x30 | (qos << 1), topic, Buffer.alloc(qos === 0 ? 0 : 2), publishProperties, payload)
    return { frame, idAt: frame.length - size - publishProperties.length - 2 }
  })

  const publishOne = (i: number): void => {
    const n = next[i]!++
    pending[i]! += receivers
    const { frame, idAt } = frames[i]!
    const { bytes, at } = senders[i]!.room(frame.length)
    frame.copy(bytes, at)
    if (qos > 0) bytes.writeUInt16BE((n % 65_535) + 1, at + idAt)
    const payload = at + frame.length - size
    bytes.writeUInt32BE(n, payload + 4)
    bytes.writeDoubleBE(performance.now(), payload + 8)
  }

  /** As many as may be under way. */
  const publish = (i: number): void => {
    if (rate !== undefined) return
    const room = window * receivers
    while (!stopping && pending[i]! + receivers <= room && (qos === 0 || next[i]! - acknowledged[i]! < window)) {
      publishOne(i)
    }
  }

  /** As many as are due by now, from one publisher after the other. */
  const publishDue = (perSecond: number): NodeJS.Timeout => {
    const from = performance.now()
    let sent = 0
    return setInterval(() => {
      const due = ((performance.now() - from) / 1000) * perSecond
      while (!stopping && sent < due) publishOne(sent++ % publishers)
    }, 1)
  }

  for (let s = 0; s < subscribers; s++) {
    const last: number[] = new Array(publishers).fill(-1)
    const sender = await open(
      port,
      `bench-s${s}`,
      version,
      (bytes, start, at, end) => {
        const type = bytes[start]! >> 4
        if (type === PacketType.PUBREL) sender.acknowledge(0x70, bytes, at)
        if (type !== PacketType.PUBLISH) return
        const topic = (bytes[at]! << 8) | bytes[at + 1]!
        const granted = (bytes[start]! >> 1) & 3
        const id = at + 2 + topic
        if (granted === 1) sender.acknowledge(0x40, bytes, id)
        if (granted === 2) sender.acknowledge(0x50, bytes, id)
        const payload = end - size
        const from = bytes.readUInt32BE(payload)
        const n = bytes.readUInt32BE(payload + 4)
        if (n === last[from]) doubled++
        else if (n < last[from]!) outOfOrder++
        else last[from] = n
        pending[from]!--
        if (measuring) {
          delivered++
          if ((delivered & 15) === 0) latencies.push(performance.now() - bytes.readDoubleBE(payload + 8))
        }
        publish(from)
      },
      stored
    )
    const filter = shape === 'share' ? `$share/bench/${topicOf(s)}` : topicOf(s)
    sender.send(packet(0x82, Buffer.from([0, 1]), properties, string(filter), Buffer.from([qos])))
  }
  await sleep(200)
  for (let i = 0; i < publishers; i++) {
    senders[i] = await open(port, `bench-p${i}`, version, (bytes, start, at) => {
      const type = bytes[start]! >> 4
      if (type === PacketType.PUBACK || type === PacketType.PUBCOMP) acknowledged[i]!++
      if (type === PacketType.PUBREC) senders[i]!.acknowledge(0x62, bytes, at)
      if (type !== PacketType.CONNACK) publish(i)
    })
  }
  if (rate !== undefined) publishDue(rate)
  for (let i = 0; i < publishers; i++) publish(i)
  await sleep(500)
  parentPort!.postMessage('measuring')
  measuring = true
  const began = performance.now()
  await sleep(seconds * 1000)
  measuring = false
  const took = (performance.now() - began) / 1000
  parentPort!.postMessage('measured')
  stopping = true
  await sleep(500)
  const lost = pending.reduce((sum, n) => sum + Math.max(0, n), 0)
  latencies.sort((a, b) => a - b)
  const percentile = (p: number): number => latencies[Math.floor(latencies.length * p)] ?? Number.NaN
  return { delivered, seconds: took, lost, doubled, outOfOrder, p50: percentile(0.5), p99: percentile(0.99) }
}

const { port, load } = (workerData ?? {}) as { port: number; load?: Workload }
if (parentPort !== null && load !== undefined) {
  parentPort.postMessage(await run(port, load))
  process.exit()
}
