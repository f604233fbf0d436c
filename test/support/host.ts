/** Whom sessions tell and ask, with a clock that a test turns. */

import type { WheelItem } from '../../src/base/timer-wheel.js'
import type { Session, SessionHost } from '../../src/delivery/session/session.js'

const tickMs = 100

export class Host implements SessionHost {
  readonly watched = new Set<WheelItem>()
  /** `high`, `low`, `loses`, `ended`. */
  readonly told: string[] = []
  readonly wheel = {
    tick: 0,
    tickMs,
    watch: (item: WheelItem): void => void this.watched.add(item),
    forget: (item: WheelItem): void => void this.watched.delete(item)
  }

  queueIsHigh(_: Session, isHigh: boolean): void {
    this.told.push(isHigh ? 'high' : 'low')
  }

  drops(): void {
    this.told.push('loses')
  }

  ended(): void {
    this.told.push('ended')
  }

  /** Lets time pass, tick by tick. */
  pass(ms: number): void {
    for (let left = ms; left > 0; left -= tickMs) {
      this.wheel.tick++
      for (const item of [...this.watched]) {
        if (item.deadline() > this.wheel.tick * tickMs) continue
        this.watched.delete(item)
        item.expire()
      }
    }
  }
}
