import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import mqtt, { type IClientOptions, type MqttClient } from 'mqtt'
import { AdminClient } from '../../src/admin/client.js'
import { Home } from '../../src/home.js'
import { createLog } from '../../src/log.js'
import { Server } from '../../src/server.js'
import { readSettings } from '../../src/settings.js'

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

/** A fresh home; gone when the test ends. */
export function makeHome(t: Pick<TestContext, 'after'>, { conf = '', acl = '', plugins = {} }: ServerFiles = {}): Home {
  const root = mkdtempSync(join(tmpdir(), 'broker-test-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  mkdirSync(join(root, 'etc/plugins'), { recursive: true })
  const listener = /^listener\./m.test(conf) ? '' : 'listener.tcp.test = 127.0.0.1:0\n'
  writeFileSync(join(root, 'etc/broker.conf'), `${listener}${conf}\n`)
  writeFileSync(join(root, 'etc/acl.conf'), acl)
  for (const [name, text] of Object.entries(plugins)) writeFileSync(join(root, `etc/plugins/${name}.conf`), text)
  return new Home(root)
}

/** A broker of its own in a fresh home, on free ports; gone when the test ends. */
export async function startServer(t: TestContext, files: ServerFiles = {}): Promise<Running> {
  const home = makeHome(t, files)
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
export async function next(c: NodeJS.EventEmitter, event: string): Promise<any[]> {
  return await new Promise(resolve => {
    c.once(event, (...args: unknown[]) => resolve(args))
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
    t.after(() => void socket.destroy())
    await next(socket, 'connect')
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
}

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

/** Polls until `probe` gives something true; fails after `timeoutMs`. */
export async function until<T>(what: string, probe: () => T | Promise<T>, timeoutMs = 5000): Promise<NonNullable<T>> {
  const deadline = Date.now() + timeoutMs
  for (;;) {
    const value = await probe()
    if (value) return value as NonNullable<T>
    if (Date.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms`)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}
