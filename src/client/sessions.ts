/**
 * The sessions by client id, and what happens to one while its client is away: its
 * will is sent when its delay is over, and the session ends when it expires.
 */

import { now, type TimerWheel, type WheelItem } from '../base/timer-wheel.js'
import type { Dispatcher } from '../delivery/dispatcher.js'
import { Session, type SessionHost, type SessionLimits } from '../delivery/session/session.js'
import { type Durability, type Persistence, SessionLog } from '../persistence/persistence.js'
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
class SessionLifetime implements WheelItem {
  readonly session: Session
  readonly #wheel: TimerWheel
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

  constructor(session: Session, expirySeconds: number, wheel: TimerWheel, over: () => void) {
    this.session = session
    this.expirySeconds = expirySeconds
    this.#wheel = wheel
    this.#over = over
  }

  /** @param since on the clock of the wall. */
  disconnected(since = Date.now()): void {
    const from = now() - Math.max(0, Date.now() - since)
    this.#awayAt = since
    this.#expiresAt = this.expirySeconds >= never ? Number.POSITIVE_INFINITY : from + this.expirySeconds * 1000
    this.#willAt =
      this.will === undefined ? Number.POSITIVE_INFINITY : Math.min(from + this.will.delay * 1000, this.#expiresAt)
  }

  /** The client is back: the will it left is no longer due [MQTT-3.1.3-9]. */
  resumed(will: LastWill | undefined): void {
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
      this.session.sessionLog?.changed()
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
  readonly durability: Durability | undefined
}

export class Sessions {
  readonly #dispatcher: Dispatcher
  #limits: SessionLimits
  readonly #wheel: TimerWheel
  readonly #host: SessionHost
  readonly #lifetimes = new Map<string, SessionLifetime>()

  constructor(dispatcher: Dispatcher, limits: SessionLimits, wheel: TimerWheel, host: SessionHost) {
    this.#dispatcher = dispatcher
    this.#limits = limits
    this.#wheel = wheel
    this.#host = host
  }

  /** Other limits, also for the sessions that there are. */
  reconfigure(limits: SessionLimits): void {
    this.#limits = limits
    for (const { session } of this.#lifetimes.values()) session.reconfigure(limits)
  }

  get size(): number {
    return this.#lifetimes.size
  }

  all(): Session[] {
    return [...this.#lifetimes.values()].map(({ session }) => session)
  }

  get(clientId: string): Session | undefined {
    return this.#lifetimes.get(clientId)?.session
  }

  /** Whether the session ends with its connection. */
  transient(clientId: string): boolean {
    return this.#lifetimes.get(clientId)?.expirySeconds === 0
  }

  /** May be read over several turns of the event loop. */
  *each(): Generator<Session> {
    for (const { session } of this.#lifetimes.values()) yield session
  }

  /**
   * The session of a client that comes in: the one it has, or a new one [MQTT-3.1.2-4], [MQTT-3.1.2-5].
   * @param will published when the client goes without saying so.
   */
  open(clientId: string, cleanStart: boolean, expirySeconds: number, will: LastWill | undefined): Opened {
    const before = this.#lifetimes.get(clientId)
    const { persistence } = this.#dispatcher
    if (persistence?.queue.isFailing !== true) persistence?.gather() // else who comes in would wait for the next try
    if (before !== undefined && !cleanStart && !before.isOver) {
      const { session } = before
      this.#wheel.forget(before)
      before.resumed(will)
      before.expirySeconds = expirySeconds
      if (expirySeconds === 0) this.#forget(session)
      session.sessionLog?.changed()
      return { session, present: true, durability: persistence?.gathered() }
    }
    if (before !== undefined) this.#end(clientId, before)
    const session = new Session(clientId, this.#limits, this.#host, new Date(), this.#dispatcher.metrics)
    const lifetime = this.#lifetimeOf(session, expirySeconds)
    lifetime.will = will
    if (expirySeconds > 0 && persistence !== undefined) {
      this.#keep(lifetime, new SessionLog(persistence, clientId, session))
      session.sessionLog?.changed()
    }
    return { session, present: false, durability: persistence?.gathered() }
  }

  #lifetimeOf(session: Session, expirySeconds: number): SessionLifetime {
    const { clientId } = session
    const lifetime = new SessionLifetime(session, expirySeconds, this.#wheel, () => this.end(clientId))
    this.#lifetimes.set(clientId, lifetime)
    this.#dispatcher.metrics.peak('sessions', this.#lifetimes.size)
    return lifetime
  }

  #keep(lifetime: SessionLifetime, keep: SessionLog): void {
    lifetime.session.sessionLog = keep
    keep.record = () => (lifetime.session.sessionLog === keep ? lifetime.record(keep.id) : undefined)
  }

  /** It ends with its connection now, and nothing of it would be of use after a crash. */
  #forget(session: Session): void {
    const { sessionLog } = session
    if (sessionLog === undefined) return
    this.#dispatcher.forget(session, session.waiting())
    sessionLog.changed()
  }

  /** A session of the store; its messages come with Session.restore(), and resume() when all is there. */
  restore(record: SessionRecord, persistence: Persistence, will: LastWill | undefined): Session {
    const { id, clientId, createdAt, expiry } = record
    const session = new Session(clientId, this.#limits, this.#host, new Date(createdAt), this.#dispatcher.metrics)
    const lifetime = this.#lifetimeOf(session, expiry)
    lifetime.will = will
    this.#keep(lifetime, new SessionLog(persistence, clientId, session, { id }))
    return session
  }

  /** The time alone of a restored session goes on, or is over. @param since when its client went, on the clock of the wall. */
  resume(session: Session, since: number): void {
    const lifetime = this.#lifetimes.get(session.clientId)!
    lifetime.disconnected(since)
    if (lifetime.isOver) lifetime.expire()
    else this.#wheel.watch(lifetime)
  }

  /** MQTT 5's DISCONNECT may change how long the session lives on. */
  setExpiry(clientId: string, expirySeconds: number): void {
    const lifetime = this.#lifetimes.get(clientId)
    if (lifetime !== undefined) lifetime.expirySeconds = expirySeconds
  }

  /**
   * The connection is gone; a session that does not live on ends with it, and its will is sent at once [MQTT-3.1.3-9].
   * @param will undefined when the client has said so.
   */
  leave(session: Session, will: LastWill | undefined): void {
    session.detach()
    const lifetime = this.#lifetimes.get(session.clientId)
    if (lifetime?.session !== session) {
      void will?.publish()
      return
    }
    lifetime.will = will
    lifetime.disconnected()
    if (lifetime.expirySeconds === 0 || will?.delay === 0) lifetime.sendWill()
    session.sessionLog?.changed()
    if (lifetime.expirySeconds === 0) this.#end(session.clientId, lifetime)
    else this.#wheel.watch(lifetime)
  }

  end(clientId: string): void {
    const lifetime = this.#lifetimes.get(clientId)
    if (lifetime !== undefined) this.#end(clientId, lifetime)
  }

  #end(clientId: string, lifetime: SessionLifetime): void {
    const { session } = lifetime
    const { sessionLog } = session
    this.#lifetimes.delete(clientId)
    this.#wheel.forget(lifetime)
    lifetime.sendWill()
    this.#dispatcher.end(session)
    sessionLog?.changed()
  }
}
