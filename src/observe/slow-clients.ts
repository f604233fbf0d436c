/**
 * What the operator is told of sessions: an alarm while a queue is long, and a line in
 * the log when a connected client misses messages. Both happen as often as messages
 * come, and are told at most now and then for each client.
 */

import type { Log } from '../base/log/log.js'
import { now, type TimerWheel, type WheelItem } from '../base/timer-wheel.js'
import type { Session, SessionHost } from '../delivery/session/session.js'
import type { Alarms } from './alarms.js'

/** How long a queue must have been low: one that goes up and down is one alarm. */
const lowMs = 1000
/** How often the log says that a client misses messages. */
const lossMs = 60_000

class Later implements WheelItem {
  readonly #at: number

  constructor(
    ms: number,
    readonly expire: () => void
  ) {
    this.#at = now() + ms
  }

  deadline(): number {
    return this.#at
  }
}

export class SlowClientMonitor implements SessionHost {
  readonly wheel: TimerWheel
  readonly #alarms: Alarms
  readonly #log: Log
  readonly #low = new Map<Session, Later>()
  readonly #losing = new Map<Session, Later>()

  constructor(wheel: TimerWheel, alarms: Alarms, log: Log) {
    this.wheel = wheel
    this.#alarms = alarms
    this.#log = log
  }

  queueIsHigh(session: Session, isHigh: boolean): void {
    if (isHigh) {
      this.#forget(this.#low, session)
      this.#alarms.raise(alarmId(session), 'warning', 'the queue of a session is over its high watermark', {
        clientId: session.clientId,
        length: session.queueLength
      })
    } else {
      this.#later(this.#low, session, lowMs, () => this.#alarms.clear(alarmId(session)))
    }
  }

  drops(session: Session): void {
    const { clientId, dropped } = session
    this.#log.warning('messages are dropped: the client is too slow', { clientId, dropped })
    this.#later(this.#losing, session, lossMs, () => {
      session.reportDropsAgain()
      if (session.online && session.dropped > dropped) this.drops(session)
    })
  }

  ended(session: Session): void {
    this.#forget(this.#low, session)
    this.#forget(this.#losing, session)
    this.#alarms.clear(alarmId(session))
  }

  #later(among: Map<Session, Later>, session: Session, ms: number, what: () => void): void {
    this.#forget(among, session)
    const later = new Later(ms, () => {
      among.delete(session)
      what()
    })
    among.set(session, later)
    this.wheel.watch(later)
  }

  #forget(among: Map<Session, Later>, session: Session): void {
    const later = among.get(session)
    if (later === undefined) return
    among.delete(session)
    this.wheel.forget(later)
  }
}

/** emqttd's. */
const alarmId = ({ clientId }: Session): string => `queue_high_watermark.${clientId}`
