/**
 * SUBSCRIBE and UNSUBSCRIBE, once the policy has judged them: what they change in the dispatcher, a
 * code for each filter in the order of the packet, and what is to be on disk before the
 * client is answered. Retained messages follow the answer.
 */

import type { Dispatcher } from '../delivery/dispatcher.js'
import type { Session } from '../delivery/session/session.js'
import type { Durability } from '../persistence/durability.js'
import type { Persistence } from '../persistence/persistence.js'
import { sayReason } from '../wire/describe.js'
import { type Subscribe, suback, type Unsubscribe, unsuback, type Version } from '../wire/packets.js'
import { PacketError, Reason, type ReasonCode } from '../wire/reason-codes.js'
import { levelsOf, mounted, splitShared } from '../wire/topic.js'
import type { ChannelOptions } from './options.js'

/** Done as far as the process goes. */
export interface Settled {
  /** Open while it is not on disk. */
  readonly durability: Durability | undefined
  /** Makes the packet that says what came of it; once the durability is settled. */
  answer(): Buffer
  /** What follows the answer. */
  after?(): void
}

/** A SUBACK that the client does not take cannot be left out [MQTT-3.8.4-1]: it is told so before anything is done. */
export function checkAnswer(codes: number, maximumPacketSize: number): void {
  if (maximumPacketSize === Number.POSITIVE_INFINITY) return
  if (suback(5, 1, new Array(codes).fill(0)).length <= maximumPacketSize) return
  throw new PacketError(Reason.PACKET_TOO_LARGE, 'the answer is over the Maximum Packet Size of the client')
}

/** What SUBSCRIBE and UNSUBSCRIBE of a client need. */
export interface SubscribeDeps {
  readonly dispatcher: Dispatcher
  readonly session: Session
  readonly version: Version
  readonly mountpoint: string
  readonly options: Pick<ChannelOptions, 'maxSubscriptions' | 'maxTopicLevels'>
  /** The client has subscribed, in its own words. */
  subscribed(filter: string, qos: number): void
  unsubscribed(filter: string): void
}

/** @param granted whether the policy grants each filter, in the order of the packet [MQTT-3.8.4-6]. */
export function subscribe(
  { packetId, requests, identifier }: Subscribe,
  granted: readonly boolean[],
  { dispatcher, session, version, mountpoint, options, subscribed }: SubscribeDeps
): Settled {
  const { persistence } = dispatcher
  const refusal = (reason: ReasonCode): number => (version === 5 ? reason : 0x80)
  const replays: (() => void)[] = []
  const added: string[] = []
  let codes: number[] = []
  const durability = within(persistence, () => {
    codes = requests.map((request, i) => {
      const { qos, noLocal, retainAsPublished, retainHandling } = request
      const filter = mounted(mountpoint, request.filter)
      const refused = (reason: ReasonCode): number => {
        session.noteDenial(filter, sayReason(reason))
        return refusal(reason)
      }
      if (!granted[i]) return refused(Reason.NOT_AUTHORIZED)
      if (levelsOf(splitShared(request.filter).filter) > options.maxTopicLevels)
        return refused(Reason.TOPIC_FILTER_INVALID)
      const full = options.maxSubscriptions > 0 && session.subscriptions.size >= options.maxSubscriptions
      if (full && !session.subscriptions.has(filter)) return refused(Reason.QUOTA_EXCEEDED)
      const subscription = { subscriber: session, filter, qos, noLocal, retainAsPublished, identifier }
      const isNew = dispatcher.subscribe(subscription)
      session.denials?.forget(filter)
      if (isNew) added.push(filter)
      subscribed(request.filter, qos)
      const shared = splitShared(filter).group !== undefined // no retained messages (MQTT 5, section 4.8.2)
      if (!shared && (retainHandling === 0 || (retainHandling === 1 && isNew))) {
        replays.push(() => session.replayRetained(dispatcher.retainedFor(subscription)))
      }
      return qos
    })
  })
  const isKept = (): boolean => durability?.failed !== true
  return {
    durability,
    answer() {
      if (!isKept()) for (const filter of added) dispatcher.unsubscribe(session, filter)
      dispatcher.metrics.subackSent++
      return suback(version, packetId, isKept() ? codes : codes.map(() => refusal(Reason.QUOTA_EXCEEDED)))
    },
    after() {
      if (isKept()) for (const replay of replays) replay()
    }
  }
}

export function unsubscribe(
  { packetId, filters }: Unsubscribe,
  { dispatcher, session, version, mountpoint, unsubscribed }: SubscribeDeps
): Settled {
  let codes: number[] = []
  const durability = within(dispatcher.persistence, () => {
    codes = filters.map(filter => {
      const was = dispatcher.unsubscribe(session, mounted(mountpoint, filter))
      if (was) unsubscribed(filter)
      return was ? Reason.SUCCESS : Reason.NO_SUBSCRIPTION_EXISTED
    })
  })
  return {
    durability,
    answer() {
      dispatcher.metrics.unsubackSent++
      return unsuback(version, packetId, codes)
    }
  }
}

/** A transaction, where anything outlives the process. */
function within(persistence: Persistence | undefined, work: () => void): Durability | undefined {
  if (persistence !== undefined) return persistence.transaction(work)
  work()
  return undefined
}
