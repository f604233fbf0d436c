/**
 * What is overdue, for MQTT 3 alone: MQTT 5 sends nothing twice on one connection
 * [MQTT-4.4.0-1]. Times are the wheel's ticks: a message notes the one it was sent in, and
 * only when the session's deadline comes is there a look at what has waited since.
 */
import type { Inflight, Outgoing } from './inflight.js'
import type { Link } from './link.js'
import type { Session } from './session.js'

/** `sentAt` of what waits for the window: later than any tick, and a small integer, which costs nothing to compare. */
export const notSent = 0x3fffffff

/** The shorter of two times of which 0 is never. */
export const shorter = (a: number, b: number): number => Math.min(a || b, b || a)

/**
 * Sends again, in order, what has waited for so many ticks; tells when the next is due. A slow link is left alone.
 */
export function retry(
  inflight: Inflight,
  { out }: Link,
  tick: number,
  ticks: number,
  sendAgain: (outgoing: Outgoing) => void
): number {
  let next = Number.POSITIVE_INFINITY
  for (const outgoing of inflight.inOrder()) {
    if (outgoing.sentAt === notSent) continue
    if (outgoing.sentAt + ticks < tick && !out.full) sendAgain(outgoing)
    next = Math.min(next, Math.max(outgoing.sentAt, tick - ticks) + ticks)
  }
  return next
}

/** Forgets the QoS 2 messages that came in so many ticks ago and were not released; tells when the next is due. */
export function forgetUnreleased(session: Session, tick: number, ticks: number): number {
  let next = Number.POSITIVE_INFINITY
  for (const [packetId, since] of session.awaitingRel) {
    if (since + ticks < tick) session.release(packetId)
    else next = Math.min(next, since + ticks)
  }
  return next
}
