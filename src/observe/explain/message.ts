/**
 * Why a client did not get a message, or would not: each thing that stands between a
 * publisher and a subscriber, in the order in which a message meets it, looked at as it
 * is now; and what the session has missed so far.
 */
import type { AclExplanation } from '../../access/access.js'
import type { Action } from '../../base/client-info.js'
import type { Ingress } from '../../delivery/ingress.js'
import { Message } from '../../delivery/message.js'
import type { Subscription } from '../../delivery/router.js'
import type { DropCause } from '../../delivery/session/drops.js'
import type { Session } from '../../delivery/session/session.js'
import type { Subscriber } from '../../delivery/subscriber.js'
import type { QoS } from '../../wire/frame.js'
import { matches, splitShared } from '../../wire/topic.js'

export interface MessageQuestion {
  readonly clientId: string
  readonly topic: string
  /** Who publishes it. */
  readonly from: string | undefined
  readonly qos: QoS
  /** Bytes of its payload. */
  readonly size: number
}

/** `no` keeps the message away, `?` may. */
export type Bearing = 'ok' | 'no' | '?'

export interface MessageExplanation {
  readonly client_id: string
  readonly topic: string
  readonly qos: number
  /** Null: that hangs on what is not known. */
  readonly would_get: boolean | null
  readonly findings: readonly { bearing: Bearing; text: string }[]
  /** What its session has missed, of any topic. */
  readonly lost: Readonly<Record<DropCause, number>> | null
  /** The last of it under this topic; `at` in seconds since 1970. */
  readonly last: readonly { at: number; topic: string; qos: number; cause: DropCause }[]
}

export interface MessageDeps {
  readonly ingress: Ingress
  readonly session: Session | undefined
  /** What stands before its topics with the broker. */
  readonly mountpoint: string
  isOnline(clientId: string): boolean
  acl(clientId: string, action: Action, topic: string): Promise<AclExplanation>
}

const nearby = 3

export async function explainMessage(
  { clientId, topic, from, qos, size }: MessageQuestion,
  { ingress, session, mountpoint, isOnline, acl }: MessageDeps
): Promise<MessageExplanation> {
  const findings: { bearing: Bearing; text: string }[] = []
  const say = (bearing: Bearing, text: string): void => void findings.push({ bearing, text })
  const whole = mountpoint + topic
  const { dispatcher } = ingress

  await publisher()
  if (session === undefined) say('no', 'it is not connected, and has no session that would wait for it')
  else {
    const granted = await subscriptions(session)
    if (granted !== undefined) state(session, granted)
  }
  retained()
  const { counts, last } = { counts: session?.drops?.counts, last: session?.drops?.last() ?? [] }
  const bears = (what: Bearing): boolean => findings.some(({ bearing }) => bearing === what)
  return {
    client_id: clientId,
    topic,
    qos,
    would_get: bears('no') ? false : bears('?') ? null : true,
    findings,
    lost: counts === undefined ? null : { ...counts },
    last: last.filter(loss => loss.topic === whole).map(({ at, ...loss }) => ({ ...loss, at: Math.floor(at / 1000) }))
  }

  async function publisher(): Promise<void> {
    if (from === undefined) return
    if (!isOnline(from))
      return say('?', `${from}, who publishes it, is not connected: whether the ACL lets it is not known`)
    const { allowed, by } = await acl(from, 'publish', topic)
    say(allowed ? 'ok' : 'no', `${from} ${allowed ? 'may' : 'may not'} publish it: ${by}`)
  }

  /** The QoS at which it comes; undefined when it does not. */
  async function subscriptions(its: Session): Promise<QoS | undefined> {
    const found = [...its.subscriptions.values()].filter(({ filter }) => matches(splitShared(filter).filter, whole))
    if (found.length === 0) {
      await notSubscribed(its)
      return undefined
    }
    const { routes } = dispatcher.router.match(whole)
    const plain = found.filter(({ filter }) => splitShared(filter).group === undefined)
    const route = routes.find(({ subscriber }) => subscriber === its)
    for (const { filter, qos } of plain) say('ok', `subscribed to ${shown(filter)} with QoS ${qos}`)
    if (route !== undefined) {
      if (from === clientId && !dispatcher.reaches(route, messageOf())) {
        say('no', 'it is its own message, which it does not want back (No Local, or mqtt.session.ignore_loop_deliver)')
      }
      return dispatcher.granted(route.qos, qos)
    }
    return shares(its, found)
  }

  /** Of groups, one that brings it is enough. */
  function shares(its: Session, found: readonly Subscription<Subscriber>[]): QoS {
    const message = messageOf()
    const { groups } = dispatcher.router.match(whole)
    const all = found.flatMap(({ filter: written, qos: wanted }) => {
      const name = splitShared(written).group
      const group = groups.find(g => g.members.some(m => m.subscriber === its && m.filter === written))
      if (group === undefined) return []
      const next = group.members.length === 1 ? its : dispatcher.next(group, message)
      const many = `one of ${group.members.length} in the group ${name}`
      const bearing: Bearing = next === its ? 'ok' : next === undefined ? '?' : 'no'
      const text = {
        ok: `subscribed to ${written} with QoS ${wanted}, ${many}${group.members.length === 1 ? '' : ', and the next'}`,
        '?': `${many}, of which each gets some (${written})`,
        no: `it goes elsewhere: ${many}, of which ${next?.clientId} is the next (${written})`
      }[bearing]
      return [{ bearing, text, granted: dispatcher.granted(wanted, qos) }]
    })
    const best = (['ok', '?', 'no'] as const).find(b => all.some(({ bearing }) => bearing === b))
    for (const { bearing, text } of all) if (bearing === best) say(bearing, text)
    return Math.max(0, ...all.map(({ granted }) => granted)) as QoS
  }

  async function notSubscribed(its: Session): Promise<void> {
    const all = [...its.subscriptions.keys()]
    const near = all
      .map(filter => ({ filter, alike: alike(splitShared(filter).filter, whole) }))
      .sort((a, b) => b.alike - a.alike)
      .slice(0, nearby)
      .map(({ filter }) => shown(filter))
    const some = all.length === 0 ? 'it has no subscription' : `the nearest of its ${all.length}: ${near.join(', ')}`
    say('no', `not subscribed; ${some}`)
    for (const [filter, { at, why }] of its.denials ?? []) {
      if (!matches(splitShared(filter).filter, whole)) continue
      say('no', `its SUBSCRIBE for ${shown(filter)} was refused at ${new Date(at).toISOString()}: ${why}`)
    }
    if (!isOnline(clientId)) return
    const { allowed, by } = await acl(clientId, 'subscribe', topic)
    say(allowed ? 'ok' : 'no', `it ${allowed ? 'may' : 'may not'} subscribe to the topic: ${by}`)
  }

  function state(its: Session, granted: QoS): void {
    const { inflight, window, queued, maxQueued, storesQos0, congested, largest } = its.state
    const room = maxQueued === 0 || queued < maxQueued
    const queue = `${queued}${maxQueued === 0 ? '' : ` of ${maxQueued}`} messages wait`
    const waits = (why: string): void =>
      say(
        room ? 'ok' : '?',
        room ? `it would wait: ${why}; ${queue}` : `${why}, and the queue is full: one has to go for it`
      )
    if (!its.online) {
      if (granted === 0 && !storesQos0) say('no', 'it is away, and QoS 0 does not wait (mqtt.mqueue.store_qos0)')
      else waits(`it is away, and QoS ${granted} is kept`)
      return
    }
    const length = its.lengthOf(messageOf(), granted)
    if (length > largest) say('no', `it has ${length} bytes, and the client takes ${largest} (Maximum Packet Size)`)
    if (granted === 0) {
      if (congested) say('no', 'the client reads too slowly, and QoS 0 is dropped meanwhile')
      else if (queued > 0) waits('what came before it has to go first')
      else say('ok', 'it is connected, and would get it with QoS 0 at once')
    } else if (congested) waits('the client reads too slowly')
    else if (inflight >= window) waits(`${inflight} of ${window} messages are under way and not acknowledged`)
    else if (queued > 0) waits('what came before it has to go first')
    else say('ok', `it is connected, and would get it with QoS ${granted} at once; ${inflight} of ${window} under way`)
  }

  function retained(): void {
    const kept = dispatcher.retained.get(whole)
    if (kept !== undefined)
      return say('ok', `a message is retained there: QoS ${kept.qos}, ${kept.payloadLength} bytes`)
    const why = ingress.overLimits(messageOf())
    if (why !== undefined) say('ok', `one with RETAIN is delivered, and not kept: over ${why}`)
  }

  function messageOf(): Message {
    return Message.of(whole, Buffer.alloc(size), { qos, retain: false, ...(from === undefined ? {} : { from }) })
  }

  function shown(filter: string): string {
    return mountpoint !== '' && filter.startsWith(mountpoint) ? filter.slice(mountpoint.length) : filter
  }
}

/** How many levels a filter has in common with a topic; a wildcard counts for less. */
function alike(filter: string, topic: string): number {
  const levels = topic.split('/')
  let score = 0
  for (const [i, level] of filter.split('/').entries()) {
    if (level === levels[i]) score += 2
    else if (level === '+' || level === '#') score++
  }
  return score
}
