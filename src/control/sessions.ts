/**
 * The sessions by client id, and what happens to one while its client is away: its
 * will is sent when its delay is over, and the session ends when it expires.
 */
import type { Hub } from '../delivery/hub.js'
import { Session, type SessionHost, type SessionLimits } from '../delivery/session.js'
import { type DeadlineWheel, now, type Watched } from '../net/keepalive.js'

/** Seconds; 0xffffffff never expires (MQTT 5, section 3.1.2.11.2). */
const never = 0xffffffff

/** What is sent when a client goes without saying so. */
export interface LastWill {
  /** Seconds until it is sent. */
  readonly delay: number
  publish(): void
}

/** A session and its time alone. */
class Stay implements Watched {
  readonly session: Session
  expirySeconds: number
  #will: LastWill | undefined
  #willAt = Number.POSITIVE_INFINITY
  #expiresAt = Number.POSITIVE_INFINITY
  readonly #wheel: DeadlineWheel
  readonly #over: () => void

  constructor(session: Session, expirySeconds: number, wheel: DeadlineWheel, over: () => void) {
    this.session = session
    this.expirySeconds = expirySeconds
    this.#wheel = wheel
    this.#over = over
  }

  alone(will: LastWill | undefined): void {
    this.#expiresAt = this.expirySeconds >= never ? Number.POSITIVE_INFINITY : now() + this.expirySeconds * 1000
    this.#will = will
    this.#willAt = will === undefined ? Number.POSITIVE_INFINITY : Math.min(now() + will.delay * 1000, this.#expiresAt)
  }

  /** The client is back: its will is no longer due [MQTT-3.1.3-9]. */
  back(): void {
    this.#will = undefined
    this.#willAt = this.#expiresAt = Number.POSITIVE_INFINITY
  }

  deadline(): number {
    return Math.min(this.#willAt, this.#expiresAt)
  }

  expire(): void {
    this.sendWill()
    if (this.#expiresAt <= now()) this.#over()
    else this.#wheel.watch(this)
  }

  sendWill(): void {
    const will = this.#will
    this.#will = undefined
    this.#willAt = Number.POSITIVE_INFINITY
    will?.publish()
  }
}

export class Sessions {
  readonly #hub: Hub
  readonly #limits: SessionLimits
  readonly #wheel: DeadlineWheel
  readonly #host: SessionHost
  readonly #stays = new Map<string, Stay>()

  constructor(hub: Hub, limits: SessionLimits, wheel: DeadlineWheel, host: SessionHost) {
    this.#hub = hub
    this.#limits = limits
    this.#wheel = wheel
    this.#host = host
  }

  get size(): number {
    return this.#stays.size
  }

  all(): Session[] {
    return [...this.#stays.values()].map(({ session }) => session)
  }

  /** The session of a client that comes in: the one it has, or a new one [MQTT-3.1.2-4], [MQTT-3.1.2-5]. */
  open(clientId: string, cleanStart: boolean, expirySeconds: number): { session: Session; present: boolean } {
    const before = this.#stays.get(clientId)
    if (before !== undefined && !cleanStart) {
      this.#wheel.forget(before)
      before.back()
      before.expirySeconds = expirySeconds
      return { session: before.session, present: true }
    }
    if (before !== undefined) this.#end(clientId, before)
    const session = new Session(clientId, this.#limits, this.#host)
    this.#stays.set(clientId, new Stay(session, expirySeconds, this.#wheel, () => this.end(clientId)))
    return { session, present: false }
  }

  /** MQTT 5's DISCONNECT may change how long the session lives on. */
  setExpiry(clientId: string, expirySeconds: number): void {
    const stay = this.#stays.get(clientId)
    if (stay !== undefined) stay.expirySeconds = expirySeconds
  }

  /** The connection is gone; a session that does not live on ends with it, and its will is sent at once [MQTT-3.1.3-9]. */
  leave(session: Session, will: LastWill | undefined): void {
    session.detach()
    const stay = this.#stays.get(session.clientId)
    if (stay?.session !== session) {
      will?.publish()
      return
    }
    stay.alone(will)
    if (stay.expirySeconds === 0 || will?.delay === 0) stay.sendWill()
    if (stay.expirySeconds === 0) this.#end(session.clientId, stay)
    else this.#wheel.watch(stay)
  }

  end(clientId: string): void {
    const stay = this.#stays.get(clientId)
    if (stay !== undefined) this.#end(clientId, stay)
  }

  #end(clientId: string, stay: Stay): void {
    this.#stays.delete(clientId)
    this.#wheel.forget(stay)
    stay.sendWill()
    this.#hub.end(stay.session)
  }
}
