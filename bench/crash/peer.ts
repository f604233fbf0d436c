/**
 * A client of the crash test. What a client must not lose is kept over its connections and over the
 * broker's crashes: packet ids of what it publishes, and of the QoS 2 messages that it has received
 * (MQTT 5, section 4.3.3, method A or B). It comes back by itself, sends again what is not acknowledged with the same
 * ids, and reports what no broker may do.
 */
import { type Socket, connect as to } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Arrival, Message, Model, Receiver, Subscription } from './model.js'
import type { Random } from './random.js'
import {
  ack,
  connect,
  disconnect,
  type Packet,
  publish,
  Reader,
  subscribe,
  Type,
  unsubscribe,
  type Version
} from './wire.js'

export interface PeerOptions {
  readonly id: string
  readonly version: Version
  /** Seconds that MQTT 5's session lives on. */
  readonly expiry?: number
  /** MQTT 5's: how many messages may be under way to it. */
  readonly receiveMaximum?: number
  /** Messages that it has under way to the broker. */
  readonly window?: number
  /** Most milliseconds that it takes to acknowledge a message. */
  readonly slowness?: number
}

interface Sending {
  readonly message: Message
  readonly id: number
  isReceived: boolean
}

interface Asked {
  readonly bytes: Buffer
  readonly done: (codes: readonly number[]) => void
}

export class Peer implements Receiver {
  readonly options: PeerOptions
  readonly subscriptions: Subscription[] = []
  /** In the order in which they came, without those that it had by their packet id. */
  readonly arrivals: Arrival[] = []
  /** How often the application got each message. */
  readonly delivered = new Map<string, number>()
  /** Called at each CONNACK. */
  entered: (present: boolean) => void = () => {}
  /** Whether the broker must have its session; undefined: who knows. */
  mustBePresent: boolean | undefined = false
  readonly #port: number
  readonly #model: Model
  readonly #random: Random
  readonly #method: 'A' | 'B'
  #clean = false
  #wanted = false
  #socket: Socket | undefined
  #isIn = false
  /** In the order in which they were first sent. */
  readonly #sending = new Map<number, Sending>()
  readonly #backlog: Message[] = []
  readonly #asked = new Map<number, Asked>()
  /** QoS 2 messages that came in and were not released, by packet id. */
  readonly #incoming = new Map<number, string>()
  #unacknowledged = 0
  #acks: Buffer[] = []
  #lastId = 0
  #lostAt = performance.now()
  #retry: NodeJS.Timeout | undefined

  constructor(options: PeerOptions, port: number, model: Model, random: Random) {
    this.options = options
    this.#port = port
    this.#model = model
    this.#random = random
    this.#method = random.chance(0.5) ? 'A' : 'B'
    this.#lastId = random.pick([0, 0, 65_500]) // so that some go round
  }

  get isIn(): boolean {
    return this.#isIn
  }

  /** Everything it had to publish is acknowledged. */
  get isThrough(): boolean {
    return this.#backlog.length === 0 && this.#sending.size === 0
  }

  get isAsking(): boolean {
    return this.#asked.size > 0
  }

  /** Comes in and stays in, whatever happens to the broker. */
  come({ clean = false } = {}): void {
    this.#wanted = true
    this.#clean = clean
    if (this.#socket === undefined) this.#connect()
  }

  /** Goes, and stays away. @param politely with DISCONNECT. */
  go(politely: boolean): void {
    this.#wanted = false
    clearTimeout(this.#retry)
    const socket = this.#socket
    this.#lost()
    if (socket === undefined) return
    if (politely) socket.end(disconnect)
    else socket.destroy()
  }

  /** Loses its connection, and comes back. */
  stumble(): void {
    this.#socket?.destroy()
  }

  /** A second connection under its id while the first is there [MQTT-3.1.4-2]. */
  takeOver(): void {
    if (!this.#isIn) return
    const first = this.#socket!
    this.#lost()
    first.removeAllListeners('data')
    setTimeout(() => first.destroy(), 500).unref()
    this.#connect()
  }

  publish(message: Message): void {
    this.#backlog.push(message)
    this.#pump()
  }

  async subscribe(filters: readonly (readonly [string, number])[]): Promise<void> {
    const made = filters.map(([filter, qos]) => this.#model.subscribing(filter, qos))
    this.subscriptions.push(...made)
    let codes: readonly number[]
    for (;;) {
      const id = this.#freeId()
      codes = await this.#ask(id, subscribe(this.options.version, id, filters))
      if (!codes.includes(this.options.version === 5 ? 0x97 : 0x80)) break
      this.#model.refusals++
      await sleep(50)
    }
    codes.forEach((code, i) => {
      if (code !== made[i]!.qos) this.#model.problem(`${this.options.id}: SUBACK ${code} for ${made[i]!.filter}`)
      this.#model.subscribed(made[i]!)
    })
  }

  async unsubscribe(subscription: Subscription): Promise<void> {
    this.#model.unsubscribing(subscription)
    const id = this.#freeId()
    await this.#ask(id, unsubscribe(this.options.version, id, subscription.filter))
    this.#model.unsubscribed(subscription)
  }

  #ask(id: number, bytes: Buffer): Promise<readonly number[]> {
    return new Promise(done => {
      this.#asked.set(id, { bytes, done })
      if (this.#isIn) this.#socket!.write(bytes)
    })
  }

  #freeId(): number {
    do this.#lastId = (this.#lastId % 65_535) + 1
    while (this.#sending.has(this.#lastId) || this.#asked.has(this.#lastId))
    return this.#lastId
  }

  // ── the connection ─────────────────────────────────────────────────────────

  #connect(): void {
    const { id, version, expiry = 3600, receiveMaximum = 0 } = this.options
    const clean = this.#clean
    const socket = to({ port: this.#port, host: '127.0.0.1', noDelay: true })
    this.#socket = socket
    const reader = new Reader(version)
    let must: boolean | undefined = false
    socket.once('connect', () => {
      socket.write(connect({ id, version, clean, expiry, receiveMaximum }))
      if (clean) return
      must = this.mustBePresent
      if (must === true && performance.now() - this.#lostAt > expiry * 1000 - 500) must = undefined // it may have expired
      if (must === false) this.mustBePresent = undefined // it is there once the broker has this, whether we hear so or not
    })
    socket.on('data', chunk => {
      for (const packet of reader.packets(chunk as Buffer)) {
        if (this.#socket !== socket) return
        if (packet.type === Type.CONNACK) this.#enter(packet, clean, must)
        else this.#take(packet)
      }
    })
    socket.on('error', () => {})
    socket.once('close', () => {
      if (this.#socket !== socket) return
      this.#lost()
      if (this.#wanted) this.#retry = setTimeout(() => this.#connect(), this.#random.int(1, 30))
    })
  }

  #lost(): void {
    if (this.#isIn) this.#lostAt = performance.now()
    this.#socket = undefined
    this.#isIn = false
    this.#acks = []
    this.#unacknowledged = 0
  }

  #take(packet: Packet): void {
    const { type, id, code } = packet
    switch (type) {
      case Type.PUBLISH:
        return this.#receive(packet)
      case Type.PUBREL: {
        const key = this.#incoming.get(id)
        this.#incoming.delete(id)
        if (key !== undefined && this.#method === 'A') this.#deliver(key)
        return this.#answer(Type.PUBCOMP, id)
      }
      case Type.PUBACK:
      case Type.PUBREC:
      case Type.PUBCOMP:
        return this.#acknowledged(type, id, code)
      case Type.SUBACK:
      case Type.UNSUBACK: {
        const asked = this.#asked.get(id)
        this.#asked.delete(id)
        asked?.done(packet.codes)
        return
      }
      case Type.DISCONNECT:
        if (code !== 0x8b && code !== 0x8e) this.#problem(`DISCONNECT with 0x${code.toString(16)}`)
    }
  }

  #enter({ code, present }: Packet, clean: boolean, must: boolean | undefined): void {
    if (code !== 0) return this.#problem(`CONNACK with ${code}`)
    if (must !== undefined && must !== present) this.#problem(`session present ${present}, expected ${must}`)
    if (!present) this.#incoming.clear()
    if (clean) this.#clean = false
    if (clean && this.options.version === 4) {
      // MQTT 3's session that begins clean ends with its connection: the next one is to stay.
      this.mustBePresent = false
      this.#socket!.destroy()
      return
    }
    this.#isIn = true
    this.mustBePresent = true
    for (const sending of this.#sending.values()) this.#send(sending, present)
    for (const { bytes } of this.#asked.values()) this.#socket!.write(bytes)
    this.entered(present)
    this.#pump()
  }

  // ── what it publishes ──────────────────────────────────────────────────────

  #pump(): void {
    const { window = 10 } = this.options
    while (this.#isIn && this.#sending.size < window) {
      const message = this.#backlog.shift()
      if (message === undefined) return
      const sending = { message, id: this.#freeId(), isReceived: false }
      this.#sending.set(sending.id, sending)
      this.#model.sent(message)
      this.#send(sending, false)
    }
  }

  #send({ message, id, isReceived }: Sending, dup: boolean): void {
    const { topic, payload, qos, retain } = message
    this.#socket!.write(
      isReceived ? ack(Type.PUBREL, id) : publish(this.options.version, { topic, payload, qos, id, retain, dup })
    )
  }

  #acknowledged(type: number, id: number, code: number): void {
    const sending = this.#sending.get(id)
    if (sending === undefined) return this.#problem(`${type} for the id ${id}, which is free`)
    const { message } = sending
    if (code >= 0x80 && code !== 0x92) {
      this.#sending.delete(id)
      this.#model.refused(message, code)
      if (code === 0x97) this.#backlog.unshift(message)
      setTimeout(() => this.#pump(), this.#random.int(5, 50))
      return
    }
    if (message.qos === 1 || type === Type.PUBREC) this.#model.acknowledged(message)
    if (type === Type.PUBREC) {
      sending.isReceived = true
      this.#socket!.write(ack(Type.PUBREL, id))
    } else {
      if (type !== (message.qos === 1 ? Type.PUBACK : Type.PUBCOMP))
        return this.#problem(`${type} for QoS ${message.qos}`)
      if (type === Type.PUBCOMP && !sending.isReceived) this.#problem('PUBCOMP before PUBREC')
      this.#sending.delete(id)
    }
    this.#pump()
  }

  // ── what it receives ───────────────────────────────────────────────────────

  #receive({ id, qos, topic, payload, retain }: Packet): void {
    const key = this.#model.keyOf(topic, payload)
    if (qos > 0) this.#unacknowledged++
    const { receiveMaximum = 0, version } = this.options
    if (version === 5 && receiveMaximum > 0 && this.#unacknowledged > receiveMaximum)
      this.#problem('Receive Maximum exceeded')
    const known = qos === 2 ? this.#incoming.get(id) : undefined
    if (known === undefined) {
      this.arrivals.push({ key, topic, qos, retain, at: this.#model.now() })
      if (qos === 2) this.#incoming.set(id, key)
      if (qos < 2 || this.#method === 'B') this.#deliver(key)
    } else if (known !== key) this.#problem(`the id ${id} of ${known} was given to ${key}`)
    if (qos > 0) this.#answer(qos === 1 ? Type.PUBACK : Type.PUBREC, id)
  }

  #deliver(key: string): void {
    this.delivered.set(key, (this.delivered.get(key) ?? 0) + 1)
    this.#model.delivered(this, key)
  }

  /** In the order in which the messages came, and not over another connection. */
  #answer(type: number, id: number): void {
    const { slowness = 0 } = this.options
    this.#acks.push(ack(type, id))
    if (slowness === 0) return this.#flush(this.#acks)
    if (this.#acks.length > 1) return
    const acks = this.#acks
    setTimeout(() => this.#flush(acks), this.#random.int(0, slowness))
  }

  #flush(acks: Buffer[]): void {
    if (acks !== this.#acks || this.#socket === undefined) return
    for (const bytes of acks.splice(0)) {
      if (bytes[0]! >> 4 !== Type.PUBREC) this.#unacknowledged--
      this.#socket.write(bytes)
    }
  }

  #problem(what: string): void {
    this.#model.problem(`${this.options.id}: ${what}`)
  }
}
