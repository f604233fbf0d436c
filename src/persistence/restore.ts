/**
 * Reads the store when the broker starts: sessions with what is on its way to them, and
 * retained messages. Between slices the event loop goes on, so that the operator can
 * ask how far it is.
 */
import { setImmediate as turn } from 'node:timers/promises'
import type { Dispatcher } from '../delivery/dispatcher.js'
import { Message } from '../delivery/message.js'
import { Outgoing } from '../delivery/session/outgoing.js'
import type { Session } from '../delivery/session/session.js'
import type { Store, Table } from '../store/store.js'
import type { Persistence } from './persistence.js'
import {
  decodeEntry,
  decodeMessage,
  decodeSubscription,
  firstOf,
  numberKey,
  type SessionRecord,
  secondOf,
  type WillRecord
} from './records.js'

export interface Restored {
  readonly counts: Counts
  /** The clocks of the sessions go on: what is over ends, and wills that are due are sent. */
  resume(): void
}

export interface Counts {
  readonly sessions: number
  readonly subscriptions: number
  /** On their way to sessions. */
  readonly messages: number
  readonly retained: number
}

/** Whoever has the sessions. @template W a will, ready to be sent. */
export interface SessionOwner<W> {
  /** Makes the session; its messages follow, and resume() when all is there. */
  restore(record: SessionRecord, persistence: Persistence, will: W | undefined): Session
  /** The time alone of the session goes on, or is over. @param since when its client went, on the clock of the wall. */
  resume(session: Session, since: number): void
}

export interface RestoreParts<W> {
  readonly store: Store
  readonly persistence: Persistence
  readonly dispatcher: Dispatcher
  readonly sessions: SessionOwner<W>
  /** Messages that may be under way to a client at a time; 0 is no limit. */
  readonly maxInflight: number
  willFrom(record: WillRecord): W
  /** Told now and then how many records have been read. */
  progress(records: number): void
}

const sliceLength = 2000

/** When the broker was last known to run, in milliseconds since 1970; it is written every `aliveMs`. */
export const aliveKey = Buffer.from('alive')
export const aliveMs = 30_000

interface Stored {
  readonly session: Session
  readonly record: SessionRecord
  readonly entries: { readonly sequence: number; readonly outgoing: Outgoing }[]
}

export async function restore<W>(parts: RestoreParts<W>): Promise<Restored> {
  const { store, persistence, dispatcher, sessions, willFrom, progress } = parts
  const now = Date.now()
  let records = 0
  async function each(table: Table, take: (key: Buffer, value: Buffer) => void): Promise<number> {
    let count = 0
    for (const { key, value } of store.records(table)) {
      take(key, value)
      count++
      if (++records % sliceLength !== 0) continue
      progress(records)
      await turn()
    }
    return count
  }

  /** The session has gone; its number must not be another's while this is on its way. */
  function orphan(table: Table, key: Buffer): void {
    persistence.used({ session: firstOf(key) })
    persistence.remove(table, key)
  }
  let aliveAt = now
  await each('meta', (key, value) => {
    // A client that was there when the broker was killed has been away since then or later, never since before.
    if (aliveKey.equals(key)) aliveAt = Math.min(now, value.readDoubleLE(0) + aliveMs)
  })
  const messages = new Map<number, Message>()
  await each('message', (key, value) => {
    const number = firstOf(key)
    persistence.used({ message: number })
    const message = decodeMessage(value, 0)
    message.number = number
    messages.set(number, message)
  })
  const byId = new Map<number, Stored>()
  await each('session', (_key, value) => {
    const record = JSON.parse(value.toString()) as SessionRecord
    persistence.used({ session: record.id })
    const will = record.will === null ? undefined : willFrom(record.will)
    byId.set(record.id, { session: sessions.restore(record, persistence, will), record, entries: [] })
  })
  const subscriptions = await each('subscription', (key, value) => {
    const session = byId.get(firstOf(key))?.session
    if (session === undefined) return orphan('subscription', key)
    const subscription = decodeSubscription(value, session)
    dispatcher.router.add(subscription)
    session.subscriptions.set(subscription.filter, subscription)
  })
  await each('incoming', (key, _value) => {
    const session = byId.get(firstOf(key))?.session
    if (session === undefined) orphan('incoming', key)
    else session.awaitingRel.take(secondOf(key), 0)
  })
  const entries = await each('entry', (key, value) => {
    const stored = byId.get(firstOf(key))
    const { message, qos, retain, identifiers, shared } = decodeEntry(value)
    const body = typeof message === 'number' ? messages.get(message) : (message ?? new Message())
    if (stored === undefined || body === undefined) return orphan('entry', key)
    const group = shared === undefined ? undefined : dispatcher.router.group(shared)
    const outgoing = new Outgoing(body, qos, retain, identifiers, group)
    outgoing.received = message === undefined
    stored.session.sessionLog!.restored(outgoing, secondOf(key))
    stored.entries.push({ sequence: secondOf(key), outgoing })
  })
  for (const [number, { holders }] of messages) if (holders === 0) persistence.remove('message', numberKey(number))
  for (const stored of byId.values()) putBack(stored, parts.maxInflight || 65_535)
  const retained = await each('retained', (key, value) => {
    const message = decodeMessage(value, 0)
    if (message.expiredAt(now)) persistence.remove('retained', key)
    else dispatcher.retained.put(message.topic, message)
  })
  return {
    counts: { sessions: byId.size, subscriptions, messages: entries, retained },
    resume: () => {
      for (const { session, record } of byId.values()) sessions.resume(session, record.awayAt ?? aliveAt)
    }
  }
}

/**
 * What may have been sent comes first, and under the ids that it had. Of a client that was there when the broker
 * ended nobody knows what it was sent: it is as much as its window holds. Ids go round: of two under the same one
 * only the first can have been sent.
 */
function putBack({ session, record, entries }: Stored, window: number): void {
  const sent = new Set<Outgoing>()
  const byPacketId = new Map<number, Outgoing>()
  for (const { outgoing } of entries)
    if (!byPacketId.has(outgoing.packetId)) byPacketId.set(outgoing.packetId, outgoing)
  if (record.awayAt === null) {
    for (const outgoing of byPacketId.values()) if (outgoing.received || sent.size < window) sent.add(outgoing)
  } else {
    for (const packetId of record.underWay) {
      const outgoing = byPacketId.get(packetId)
      if (outgoing !== undefined) sent.add(outgoing)
    }
    for (const outgoing of byPacketId.values()) if (outgoing.received) sent.add(outgoing)
  }
  for (const outgoing of sent) session.restore(outgoing, true)
  for (const { outgoing } of entries) if (!sent.has(outgoing)) session.restore(outgoing, false)
}
