/** The time that a session spends alone: its will is sent when its delay is over, and it ends when it expires. */
import { now, type TimerWheel, type WheelItem } from '../base/timer-wheel.js'
import type { Session } from '../delivery/session/session.js'
import type { SessionRecord } from '../persistence/records.js'
import type { LastWill } from './will.js'

/** Seconds; 0xffffffff never expires (MQTT 5, section 3.1.2.11.2). */
const never = 0xffffffff

export class SessionLifetime implements WheelItem {
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
