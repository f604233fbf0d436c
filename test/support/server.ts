import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import mqtt, { type IClientOptions, type MqttClient } from 'mqtt'
import { AdminClient } from '../../src/admin/client.js'
import { Home } from '../../src/base/home.js'
import { createLog } from '../../src/base/log/log.js'
import { Server } from '../../src/server/server.js'
import { readSettings } from '../../src/server/settings.js'

export interface Running {
  readonly home: Home
  readonly server: Server
  readonly admin: AdminClient
  /** Of the first listener. */
  readonly port: number
  /** Of the listener `tcp:test`. */
  portOf(listener: string): number
  /** Lines of the log so far. */
  readonly log: string[]
}

export interface ServerFiles {
  /** etc/broker.conf; a listener tcp:test on a free loopback port is added unless it has a listener. */
  readonly conf?: string
  readonly acl?: string
  /** etc/plugins/<name>.conf by name. */
  readonly plugins?: Readonly<Record<string, string>>
}

/** etc/broker.conf, with what ServerFiles says of it. */
export function writeConf(root: string, conf: string): void {
  const listener = /^listener\./m.test(conf) ? '' : 'listener.tcp.test = 127.0.0.1:0\n'
  // Most tests are not about the store; TEST_STORE=lmdb runs all of them with it.
  const store = /^store\./m.test(conf) ? '' : `store.type = ${process.env['TEST_STORE'] ?? 'memory'}\n`
  writeFileSync(join(root, 'etc/broker.conf'), `${listener}${store}${conf}\n`)
}

/** A fresh home; gone when the test ends. */
export function makeHome(t: Pick<TestContext, 'after'>, { conf = '', acl = '', plugins = {} }: ServerFiles = {}): Home {
  const root = mkdtempSync(join(tmpdir(), 'broker-test-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  mkdirSync(join(root, 'etc/plugins'), { recursive: true })
  writeConf(root, conf)
  writeFileSync(join(root, 'etc/acl.conf'), acl)
  for (const [name, text] of Object.entries(plugins)) writeFileSync(join(root, `etc/plugins/${name}.conf`), text)
  return new Home(root)
}

/** A broker of its own in a fresh home, on free ports; gone when the test ends. */
export async function startServer(
  t: TestContext,
  files: ServerFiles = {},
  home = makeHome(t, files)
): Promise<Running> {
  const log: string[] = []
  const server = await Server.start({
    home,
    settings: readSettings(home, {}),
    log: createLog({ level: 'debug', format: 'text', write: line => void log.push(line) })
  })
  t.after(() => server.stop('fast'))
  const portOf = (name: string): number => server.listeners.find(l => l.name === name)!.port
  return { home, server, admin: new AdminClient(home.adminSocket), port: server.listeners[0]!.port, portOf, log }
}

/** A connected MQTT.js client; gone when the test ends. */
export async function client(
  t: TestContext,
  { port }: Pick<Running, 'port'>,
  options: IClientOptions = {}
): Promise<MqttClient> {
  const c = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { reconnectPeriod: 0, ...options })
  t.after(() => c.endAsync(true))
  return c
}

/** The arguments of the next `event`. */
export async function next(c: Pick<NodeJS.EventEmitter, 'once'> | MqttClient, event: string): Promise<any[]> {
  return await new Promise(resolve => {
    ;(c as NodeJS.EventEmitter).once(event, (...args: unknown[]) => resolve(args))
  })
}

/** Raw bytes in and out: for what no well-behaved client sends. */
export class RawClient {
  readonly socket: net.Socket
  readonly closed: Promise<void>
  #bytes = Buffer.alloc(0)
  #wake = (): void => {}

  private constructor(socket: net.Socket) {
    this.socket = socket
    socket.on('data', chunk => {
      this.#bytes = Buffer.concat([this.#bytes, chunk as Buffer])
      this.#wake()
    })
    socket.on('error', () => {})
    this.closed = new Promise(resolve => {
      socket.once('close', () => {
        this.#wake()
        resolve()
      })
    })
  }

  static async connect(t: TestContext, { port }: Pick<Running, 'port'>): Promise<RawClient> {
    const socket = net.connect(port, '127.0.0.1')
    await next(socket, 'connect')
    return RawClient.over(t, socket)
  }

  /** On a connection made otherwise: from another address, or through TLS. */
  static over(t: TestContext, socket: net.Socket): RawClient {
    t.after(() => void socket.destroy())
    return new RawClient(socket)
  }

  send(...bytes: (number | Buffer | string)[]): void {
    this.socket.write(
      Buffer.concat(bytes.map(b => (typeof b === 'number' ? Buffer.from([b]) : Buffer.from(b as string))))
    )
  }

  /** The next `count` bytes; fewer when the connection ends before. */
  async read(count: number): Promise<Buffer> {
    while (this.#bytes.length < count && !this.socket.destroyed) {
      await new Promise<void>(resolve => {
        this.#wake = resolve
      })
    }
    const bytes = this.#bytes.subarray(0, count)
    this.#bytes = this.#bytes.subarray(count)
    return bytes
  }

  /** The next whole packet; empty when the connection ends before. */
  async readPacket(): Promise<Buffer> {
    const header = [await this.read(1)]
    let remaining = 0
    for (let shift = 0; ; shift += 7) {
      const byte = await this.read(1)
      header.push(byte)
      remaining |= ((byte[0] ?? 0) & 127) << shift
      if ((byte[0] ?? 0) < 128) return Buffer.concat([...header, await this.read(remaining)])
    }
  }
}

/** A packet of any kind: its first byte, its length, and what is given. */
export function packet(first: number, ...parts: (number | Buffer)[]): Buffer {
  const body = Buffer.concat(parts.map(p => (typeof p === 'number' ? Buffer.from([p]) : p)))
  return Buffer.concat([Buffer.from([first]), lengthBytes(body.length), body])
}

export function publishPacket(
  topic: string,
  payload: string | Buffer = '',
  { qos = 0, retain = false, id = 1 }: { qos?: number; retain?: boolean; id?: number } = {}
): Buffer {
  const messageId = qos === 0 ? [] : [id >> 8, id & 255]
  return packet(0x30 | (qos << 1) | (retain ? 1 : 0), text(topic), ...messageId, Buffer.from(payload))
}

/** A SUBSCRIBE for filters, each with its QoS. */
export function subscribePacket(filters: readonly (readonly [string, number])[], id = 1): Buffer {
  return packet(0x82, id >> 8, id & 255, ...filters.flatMap(([filter, qos]) => [text(filter), qos]))
}

/** PINGREQ and DISCONNECT have nothing but their header. */
export const pingreq = Buffer.from([0xc0, 0])
export const disconnect = Buffer.from([0xe0, 0])

/** A 3.1.1 CONNECT packet. */
export function connectPacket({
  id = 'raw',
  clean = true,
  keepAlive = 0,
  name = 'MQTT',
  level = 4
}: {
  id?: string
  clean?: boolean
  keepAlive?: number
  name?: string
  level?: number
} = {}): Buffer {
  const body = Buffer.concat([
    text(name),
    Buffer.from([level, clean ? 2 : 0, keepAlive >> 8, keepAlive & 255]),
    text(id)
  ])
  return Buffer.concat([Buffer.from([0x10]), lengthBytes(body.length), body])
}

/** MQTT's two-byte length and the text. */
export function text(value: string): Buffer {
  const bytes = Buffer.from(value)
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes])
}

/** MQTT's variable byte integer. */
export function lengthBytes(value: number): Buffer {
  const out: number[] = []
  let rest = value
  do {
    out.push((rest & 127) | (rest > 127 ? 128 : 0))
    rest >>= 7
  } while (rest > 0)
  return Buffer.from(out)
}

/** What only a hang meets, however slow or busy the machine is. */
export const hangMs = 60_000

/** Polls until `probe` gives something true; fails after `timeoutMs`. */
export async function until<T>(what: string, probe: () => T | Promise<T>, timeoutMs = hangMs): Promise<NonNullable<T>> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const value = await probe()
    if (value) return value as NonNullable<T>
    if (performance.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms`)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

// ── a client that speaks MQTT 3.1.1 or 5 and shows each packet ───────────────

/** A property of MQTT 5 by its identifier. */
export type Property = readonly [id: number, value: number | string | Buffer | readonly [string, string]]

type PropertyKind = 'byte' | 'uint16' | 'uint32' | 'length' | 'binary' | 'pair' | 'text'

function kindOf(id: number): PropertyKind {
  if ([0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2a].includes(id)) return 'byte'
  if ([0x13, 0x21, 0x22, 0x23].includes(id)) return 'uint16'
  if ([0x02, 0x11, 0x18, 0x27].includes(id)) return 'uint32'
  if (id === 0x0b) return 'length'
  if (id === 0x09 || id === 0x16) return 'binary'
  return id === 0x26 ? 'pair' : 'text'
}

const bigEndian = (value: number, bytes: number): Buffer => {
  const out = Buffer.alloc(bytes)
  out.writeUIntBE(value, 0, bytes)
  return out
}

/** Properties as MQTT 5 writes them, with their length. */
export function propertyBytes(properties: readonly Property[] = []): Buffer {
  const all = Buffer.concat(
    properties.map(([id, value]) => {
      const kind = kindOf(id)
      const bytes =
        kind === 'pair'
          ? Buffer.concat((value as [string, string]).map(text))
          : kind === 'text'
            ? text(value as string)
            : kind === 'binary'
              ? Buffer.concat([bigEndian(value.toString().length, 2), Buffer.from(value as Buffer)])
              : kind === 'length'
                ? lengthBytes(value as number)
                : bigEndian(value as number, kind === 'byte' ? 1 : kind === 'uint16' ? 2 : 4)
      return Buffer.concat([Buffer.from([id]), bytes])
    })
  )
  return Buffer.concat([lengthBytes(all.length), all])
}

/** A packet that the broker sent, taken apart. */
export interface Got {
  /** 2 is CONNACK, 3 PUBLISH and so on; 0 when the connection ended instead. */
  readonly type: number
  readonly bytes: Buffer
  /** Packet identifier; 0 is none. */
  readonly id: number
  /** The return or reason code of CONNACK, DISCONNECT, AUTH, PUBACK, PUBREC, PUBREL, PUBCOMP. */
  readonly code: number
  /** Of SUBACK and UNSUBACK. */
  readonly codes: number[]
  readonly sessionPresent: boolean
  readonly topic: string
  readonly payload: string
  readonly qos: number
  readonly retain: boolean
  readonly dup: boolean
  readonly properties: Property[]
}

/** Takes apart what a server may send. */
function takeApart(bytes: Buffer, version: number): Got {
  const type = (bytes[0] ?? 0) >> 4
  const flags = (bytes[0] ?? 0) & 15
  let at = 1
  while (bytes[at]! > 127) at++
  at++
  const uint = (n: number): number => {
    at += n
    return bytes.readUIntBE(at - n, n)
  }
  const sizedText = (): string => {
    const n = uint(2)
    at += n
    return bytes.toString('utf8', at - n, at)
  }
  const length = (): number => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const byte = uint(1)
      value |= (byte & 127) << shift
      if (byte < 128) return value
    }
  }
  const readAll = (): Property[] => {
    if (version !== 5 || at >= bytes.length) return []
    const n = length()
    const end = at + n
    const found: Property[] = []
    while (at < end) {
      const id = uint(1)
      const kind = kindOf(id)
      if (kind === 'pair') found.push([id, [sizedText(), sizedText()]])
      else if (kind === 'text' || kind === 'binary') found.push([id, sizedText()])
      else if (kind === 'length') found.push([id, length()])
      else found.push([id, uint(kind === 'byte' ? 1 : kind === 'uint16' ? 2 : 4)])
    }
    return found
  }
  const got = { type, bytes, id: 0, code: 0, codes: [] as number[], sessionPresent: false, topic: '', payload: '' }
  const of = { ...got, qos: 0, retain: false, dup: false, properties: [] as Property[] }
  if (bytes.length < 2) return of
  if (type === 2) {
    const sessionPresent = uint(1) === 1
    return { ...of, sessionPresent, code: uint(1), properties: readAll() }
  }
  if (type === 3) {
    const qos = (flags >> 1) & 3
    const topic = sizedText()
    const id = qos > 0 ? uint(2) : 0
    const properties = readAll()
    const payload = bytes.toString('utf8', at)
    return { ...of, qos, topic, id, properties, payload, retain: (flags & 1) === 1, dup: (flags & 8) !== 0 }
  }
  if (type >= 4 && type <= 7) {
    const id = uint(2)
    return { ...of, id, code: at < bytes.length ? uint(1) : 0, properties: readAll() }
  }
  if (type === 9 || type === 11) return { ...of, id: uint(2), properties: readAll(), codes: [...bytes.subarray(at)] }
  if (type === 14 || type === 15) return { ...of, code: at < bytes.length ? uint(1) : 0, properties: readAll() }
  return of
}

export interface SpeakerOptions {
  readonly version?: 3 | 4 | 5
  readonly id?: string
  /** Clean session or clean start. */
  readonly clean?: boolean
  /** Seconds that MQTT 5's session lives on; without it an hour when `clean` is false. */
  readonly expiry?: number
  readonly keepAlive?: number
  readonly properties?: readonly Property[]
  readonly will?: {
    readonly topic: string
    readonly payload?: string
    readonly qos?: number
    readonly retain?: boolean
    readonly properties?: readonly Property[]
  }
}

export interface PublishOptions {
  readonly qos?: number
  readonly retain?: boolean
  readonly dup?: boolean
  readonly id?: number
  readonly properties?: readonly Property[]
}

export class Speaker {
  readonly raw: RawClient
  readonly version: number
  connack!: Got
  /** Came before what was waited for. */
  readonly #early: Got[] = []
  #lastId = 0

  constructor(raw: RawClient, version: number) {
    this.raw = raw
    this.version = version
  }

  /** Connects, sends CONNECT and waits for the answer. */
  static async connect(t: TestContext, to: Pick<Running, 'port'>, options: SpeakerOptions = {}): Promise<Speaker> {
    const speaker = new Speaker(await RawClient.connect(t, to), options.version ?? 4)
    speaker.raw.send(Speaker.connectBytes(options))
    speaker.connack = await speaker.next()
    return speaker
  }

  static connectBytes(options: SpeakerOptions = {}): Buffer {
    const { version = 4, id = '', clean = true, expiry, keepAlive = 0, properties = [], will } = options
    const flags =
      (clean ? 2 : 0) | (will === undefined ? 0 : 4 | ((will.qos ?? 0) << 3) | (will.retain === true ? 0x20 : 0))
    const lives: Property[] = expiry !== undefined ? [[0x11, expiry]] : clean ? [] : [[0x11, 3600]]
    const v5 = version === 5
    return packet(
      0x10,
      text(version === 3 ? 'MQIsdp' : 'MQTT'),
      version,
      flags,
      bigEndian(keepAlive, 2),
      ...(v5 ? [propertyBytes([...lives, ...properties])] : []),
      text(id),
      ...(will === undefined
        ? []
        : [...(v5 ? [propertyBytes(will.properties)] : []), text(will.topic), text(will.payload ?? '')])
    )
  }

  send(...bytes: Buffer[]): void {
    this.raw.send(...bytes)
  }

  /** The next packet; type 0 when the connection ends. */
  async next(): Promise<Got> {
    return this.#early.shift() ?? takeApart(await this.raw.readPacket(), this.version)
  }

  /** The next packet of a type; others stay for next(). */
  async nextOf(type: number): Promise<Got> {
    const at = this.#early.findIndex(got => got.type === type)
    if (at >= 0) return this.#early.splice(at, 1)[0]!
    for (;;) {
      const got = takeApart(await this.raw.readPacket(), this.version)
      if (got.type === type) return got
      if (got.type === 0) throw new Error(`the connection ended before a packet of type ${type}`)
      this.#early.push(got)
    }
  }

  /** All that the broker has sent by the time it answers a PINGREQ. */
  async heard(): Promise<Got[]> {
    this.send(pingreq)
    await this.nextOf(13)
    return this.#early.splice(0)
  }

  /** The payloads of what it has heard. */
  async payloads(): Promise<string[]> {
    return (await this.heard()).filter(({ type }) => type === 3).map(({ payload }) => payload)
  }

  /** A PUBLISH packet of its version. */
  publication(topic: string, payload: string | Buffer = '', options: PublishOptions = {}): Buffer {
    const { qos = 0, retain = false, dup = false, id = 1, properties } = options
    return packet(
      0x30 | (dup ? 8 : 0) | (qos << 1) | (retain ? 1 : 0),
      text(topic),
      ...(qos === 0 ? [] : [bigEndian(id, 2)]),
      ...(this.version === 5 ? [propertyBytes(properties)] : []),
      Buffer.from(payload)
    )
  }

  /** Publishes and waits until the broker has dealt with it; the last acknowledgement. */
  async publish(topic: string, payload: string | Buffer = '', options: PublishOptions = {}): Promise<Got> {
    const id = options.id ?? ++this.#lastId
    this.send(this.publication(topic, payload, { ...options, id }))
    if (options.qos === 1) return await this.nextOf(4)
    if (options.qos === 2) {
      const received = await this.nextOf(5)
      if (received.code >= 0x80) return received
      this.send(this.ack(6, id))
      return await this.nextOf(7)
    }
    this.send(pingreq)
    return await this.nextOf(13)
  }

  subscription(filters: readonly (readonly [string, number])[], id = 1, properties?: readonly Property[]): Buffer {
    return packet(
      0x82,
      bigEndian(id, 2),
      ...(this.version === 5 ? [propertyBytes(properties)] : []),
      ...filters.flatMap(([filter, options]) => [text(filter), options])
    )
  }

  /** Subscribes to filters, each with its options; the codes of SUBACK. */
  async subscribe(
    filters: readonly (readonly [string, number])[],
    properties?: readonly Property[]
  ): Promise<number[]> {
    this.send(this.subscription(filters, 1, properties))
    return (await this.nextOf(9)).codes
  }

  unsubscription(filters: readonly string[], id = 1): Buffer {
    return packet(0xa2, bigEndian(id, 2), ...(this.version === 5 ? [0] : []), ...filters.map(text))
  }

  async unsubscribe(filters: readonly string[]): Promise<number[]> {
    this.send(this.unsubscription(filters))
    return (await this.nextOf(11)).codes
  }

  /** PUBACK 4, PUBREC 5, PUBREL 6, PUBCOMP 7. */
  ack(type: number, id: number, code?: number): Buffer {
    return packet((type << 4) | (type === 6 ? 2 : 0), bigEndian(id, 2), ...(code === undefined ? [] : [code]))
  }

  /** Says DISCONNECT and waits for the end. */
  async leave(code?: number, properties?: readonly Property[]): Promise<void> {
    const more = code === undefined ? [] : [code, ...(properties === undefined ? [] : [propertyBytes(properties)])]
    this.send(packet(0xe0, ...more))
    await this.raw.closed
  }

  /** Goes without a word. */
  async drop(): Promise<void> {
    this.raw.socket.destroy()
    await this.raw.closed
  }
}
