/**
 * The sessions by client id, and what happens to one while its client is away: its
 * will is sent when its delay is over, and the session ends when it expires.
 */

import { type DeadlineWheel, now, type Watched } from '../base/timer-wheel.js'
import type { Hub } from '../delivery/dispatcher.js'
import { Session, type SessionHost, type SessionLimits } from '../delivery/session/session.js'
import { type Keeper, type Receipt, SessionKeep } from '../persistence/persistence.js'
import type { LastWill, WillRecord } from './will.js'

/** Seconds; 0xffffffff never expires (MQTT 5, section 3.1.2.11.2). */
const never = 0xffffffff

/** What the store has of a session beside its subscriptions and messages, in JSON. Times are milliseconds since 1970. */
export interface SessionRecord {
  /** By which its other records know it. */
  readonly id: number
  readonly clientId: string
  readonly createdAt: number
  /** Seconds. */
  readonly expiry: number
  /** Since when its client is away; null: it was there. */
  readonly awayAt: number | null
  /** Not yet sent. */
  readonly will: WillRecord | null
  /** Packet ids under way, in order, while its client is away. */
  readonly underWay: readonly number[]
}

/** A session and its time alone. */
class Stay implements Watched {
  readonly session: Session
  readonly #wheel: DeadlineWheel
  readonly #over: () => void
  expirySeconds: number
  /** The client's, from its CONNECT on until it is sent or no longer due. */
  will: LastWill | undefined
  /** It is being judged; the store has it until it is routed. */
  #leaving: LastWill | undefined
  #willAt = Number.POSITIVE_INFINITY
  #expiresAt = Number.POSITIVE_INFINITY
  /** On the clock of the wall. */
  #awayAt: number | undefined

  constructor(session: Session, expirySeconds: number, wheel: DeadlineWheel, over: () => void) {
    this.session = session
    this.expirySeconds = expirySeconds
    this.#wheel = wheel
    this.#over = over
  }

  /** @param since on the clock of the wall. */
  alone(since = Date.now()): void {
    const from = now() - Math.max(0, Date.now() - since)
    this.#awayAt = since
    this.#expiresAt = this.expirySeconds >= never ? Number.POSITIVE_INFINITY : from + this.expirySeconds * 1000
    this.#willAt =
      this.will === undefined ? Number.POSITIVE_INFINITY : Math.min(from + this.will.delay * 1000, this.#expiresAt)
  }

  /** The client is back: the will it left is no longer due [MQTT-3.1.3-9]. */
  back(will: LastWill | undefined): void {
    this.will = will
    this.#awayAt = undefined
    this.#willAt = this.#expiresAt = Number.POSITIVE_INFINITY
  }

  get isOver(): boolean {
    return this.#expiresAt <= now()
  }

  deadline(): number {
    return Math.min(this.#willAt, this.#expiresAt)
  }

  expire(): void {
    this.sendWill()
    if (this.isOver) this.#over()
    else this.#wheel.watch(this)
  }

  sendWill(): void {
    const { will } = this
    this.will = undefined
    this.#willAt = Number.POSITIVE_INFINITY
    if (will === undefined) return
    this.#leaving = will
    void will.publish().then(() => {
      if (this.#leaving === will) this.#leaving = undefined
      this.session.keep?.changed()
    })
  }

  record(id: number): Uint8Array {
    const { session, expirySeconds, will } = this
    const record: SessionRecord = {
      id,
      clientId: session.clientId,
      createdAt: session.createdAt.getTime(),
      expiry: expirySeconds,
      awayAt: this.#awayAt ?? null,
      will: (will ?? this.#leaving)?.record() ?? null,
      underWay: this.#awayAt === undefined ? [] : session.underWay()
    }
    return Buffer.from(JSON.stringify(record))
  }
}

/** What a client that comes in finds. */
export interface Opened {
  readonly session: Session
  readonly present: boolean
  /** Open until the store has it so: the session as it is now, and none that was discarded. */
  readonly receipt: Receipt | undefined
}

export class Sessions {
  readonly #hub: Hub
  #limits: SessionLimits
  readonly #wheel: DeadlineWheel
  readonly #host: SessionHost
  readonly #stays = new Map<string, Stay>()

  constructor(hub: Hub, limits: SessionLimits, wheel: DeadlineWheel, host: SessionHost) {
    this.#hub = hub
    this.#limits = limits
    this.#wheel = wheel
    this.#host = host
  }

  /** Other limits, also for the sessions that there are. */
  use(limits: SessionLimits): void {
    this.#limits = limits
    for (const { session } of this.#stays.values()) session.use(limits)
  }

  get size(): number {
    return this.#stays.size
  }

  all(): Session[] {
    return [...this.#stays.values()].map(({ session }) => session)
  }

  get(clientId: string): Session | undefined {
    return this.#stays.get(clientId)?.session
  }

  /** Whether the session ends with its connection. */
  transient(clientId: string): boolean {
    return this.#stays.get(clientId)?.expirySeconds === 0
  }

  /** May be read over several turns of the event loop. */
  *each(): Generator<Session> {
    for (const { session } of this.#stays.values()) yield session
  }

  /**
   * The session of a client that comes in: the one it has, or a new one [MQTT-3.1.2-4], [MQTT-3.1.2-5].
   * @param will published when the client goes without saying so.
   */
  open(clientId: string, cleanStart: boolean, expirySeconds: number, will: LastWill | undefined): Opened {
    const before = this.#stays.get(clientId)
    const { keeper } = this.#hub
    if (keeper?.journal.isFailing !== true) keeper?.gather() // else who comes in would wait for the next try
    if (before !== undefined && !cleanStart && !before.isOver) {
      const { session } = before
      this.#wheel.forget(before)
      before.back(will)
      before.expirySeconds = expirySeconds
      if (expirySeconds === 0) this.#forget(session)
      session.keep?.changed()
      return { session, present: true, receipt: keeper?.gathered() }
    }
    if (before !== undefined) this.#end(clientId, before)
    const session = new Session(clientId, this.#limits, this.#host, new Date(), this.#hub.metrics)
    const stay = this.#stayOf(session, expirySeconds)
    stay.will = will
    if (expirySeconds > 0 && keeper !== undefined) {
      this.#keep(stay, new SessionKeep(keeper, clientId, session))
      session.keep?.changed()
    }
    return { session, present: false, receipt: keeper?.gathered() }
  }

  #stayOf(session: Session, expirySeconds: number): Stay {
    const { clientId } = session
    const stay = new Stay(session, expirySeconds, this.#wheel, () => this.end(clientId))
    this.#stays.set(clientId, stay)
    this.#hub.metrics.peak('sessions', this.#stays.size)
    return stay
  }

  #keep(stay: Stay, keep: SessionKeep): void {
    stay.session.keep = keep
    keep.record = () => (stay.session.keep === keep ? stay.record(keep.id) : undefined)
  }

  /** It ends with its connection now, and nothing of it would be of use after a crash. */
  #forget(session: Session): void {
    const { keep } = session
    if (keep === undefined) return
    this.#hub.forget(session, session.waiting())
    keep.changed()
  }

  /** A session of the store; its messages come with Session.restore(), and resume() when all is there. */
  restore(record: SessionRecord, keeper: Keeper, will: LastWill | undefined): Session {
    const { id, clientId, createdAt, expiry } = record
    const session = new Session(clientId, this.#limits, this.#host, new Date(createdAt), this.#hub.metrics)
    const stay = this.#stayOf(session, expiry)
    stay.will = will
    this.#keep(stay, new SessionKeep(keeper, clientId, session, { id }))
    return session
  }

  /** The time alone of a restored session goes on, or is over. @param since when its client went, on the clock of the wall. */
  resume(session: Session, since: number): void {
    const stay = this.#stays.get(session.clientId)!
    stay.alone(since)
    if (stay.isOver) stay.expire()
    else this.#wheel.watch(stay)
  }

  /** MQTT 5's DISCONNECT may change how long the session lives on. */
  setExpiry(clientId: string, expirySeconds: number): void {
    const stay = this.#stays.get(clientId)
    if (stay !== undefined) stay.expirySeconds = expirySeconds
  }

  /**
   * The connection is gone; a session that does not live on ends with it, and its will is sent at once [MQTT-3.1.3-9].
   * @param will undefined when the client has said so.
   */
  leave(session: Session, will: LastWill | undefined): void {
    session.detach()
    const stay = this.#stays.get(session.clientId)
    if (stay?.session !== session) {
      void will?.publish()
      return
    }
    stay.will = will
    stay.alone()
    if (stay.expirySeconds === 0 || will?.delay === 0) stay.sendWill()
    session.keep?.changed()
    if (stay.expirySeconds === 0) this.#end(session.clientId, stay)
    else this.#wheel.watch(stay)
  }

  end(clientId: string): void {
    const stay = this.#stays.get(clientId)
    if (stay !== undefined) this.#end(clientId, stay)
  }

  #end(clientId: string, stay: Stay): void {
    const { session } = stay
    const { keep } = session
    this.#stays.delete(clientId)
    this.#wheel.forget(stay)
    stay.sendWill()
    this.#hub.end(session)
    keep?.changed()
  }
}
