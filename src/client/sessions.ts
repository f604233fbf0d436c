/**
 * The sessions by client id, and what happens to one while its client is away: its
 * will is sent when its delay is over, and the session ends when it expires.
 */

import type { TimerWheel } from '../base/timer-wheel.js'
import type { Dispatcher } from '../delivery/dispatcher.js'
import { Session, type SessionHost } from '../delivery/session/session.js'
import type { SessionLimits } from '../delivery/session/session-limits.js'
import type { Durability } from '../persistence/durability.js'
import type { Persistence } from '../persistence/persistence.js'
import type { SessionRecord } from '../persistence/records.js'
import { SessionLog } from '../persistence/session-log.js'
import { SessionLifetime } from './lifetime.js'
import type { LastWill } from './will.js'

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
    const { persistence } = this.#dispatcher
    let opened!: Omit<Opened, 'durability'>
    const work = (): void => {
      opened = this.#open(clientId, cleanStart, expirySeconds, will)
    }
    // While the store fails, a client that comes in would wait for the next try.
    if (persistence === undefined || persistence.queue.isFailing) work()
    else return { durability: persistence.transaction(work), ...opened }
    return { durability: undefined, ...opened }
  }

  #open(
    clientId: string,
    cleanStart: boolean,
    expirySeconds: number,
    will: LastWill | undefined
  ): Omit<Opened, 'durability'> {
    const { persistence } = this.#dispatcher
    const before = this.#lifetimes.get(clientId)
    if (before !== undefined && !cleanStart && !before.isOver) {
      const { session } = before
      this.#wheel.forget(before)
      before.resumed(will)
      before.expirySeconds = expirySeconds
      if (expirySeconds === 0) this.#forget(session)
      session.sessionLog?.changed()
      return { session, present: true }
    }
    if (before !== undefined) this.#end(clientId, before)
    const session = new Session(clientId, this.#limits, this.#host, new Date(), this.#dispatcher.metrics)
    const lifetime = this.#lifetimeOf(session, expirySeconds)
    lifetime.will = will
    if (expirySeconds > 0 && persistence !== undefined) {
      this.#keep(lifetime, new SessionLog(persistence, clientId, session))
      session.sessionLog?.changed()
    }
    return { session, present: false }
  }

  #lifetimeOf(session: Session, expirySeconds: number): SessionLifetime {
    const { clientId } = session
    const lifetime = new SessionLifetime(session, expirySeconds, this.#wheel, () => this.end(clientId))
    this.#lifetimes.set(clientId, lifetime)
    this.#dispatcher.metrics.peak('sessions', this.#lifetimes.size)
    return lifetime
  }

  #keep(lifetime: SessionLifetime, log: SessionLog): void {
    lifetime.session.sessionLog = log
    log.record = () => (lifetime.session.sessionLog === log ? lifetime.record(log.id) : undefined)
  }

  /** It ends with its connection now, and nothing of it would be of use after a crash. */
  #forget(session: Session): void {
    const { sessionLog } = session
    if (sessionLog === undefined) return
    session.forget(session.waiting())
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
