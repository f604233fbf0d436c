/**
 * The last connections of each client id and address, and how each ended, for an operator who asks
 * later why a client is not there.
 *
 * Bounded twice: so many of one id (or of one address, where no id was said), and so
 * many in all, of which those go first whose id was not seen for the longest time. With
 * texts cut to what fits a line, all of it takes some 6 MiB, and 15 at the worst.
 */
import type { EndReason, Peer } from '../base/client-info.js'
import type { ClientCard } from './card.js'

const ofEach = 10
const inAll = 10_000
/** Characters of what a client chose. */
const longest = 200

export interface ConnectionRecord {
  readonly at: Date
  /** '' when it said none. */
  readonly clientId: string
  readonly username: string | undefined
  readonly peer: Peer
  readonly listener: string
  /** Of MQTT, 3 to 5; 0 when it did not get as far as to say. */
  readonly version: number
  readonly accepted: boolean
  /** While the connection lasts, undefined. */
  endedAt: Date | undefined
  end: EndReason | 'turned_away' | undefined
  why: string | undefined
}

export class ConnectionHistory {
  /** Those of an id together, the id that was seen last at the end. */
  readonly #by = new Map<string, ConnectionRecord[]>()
  #count = 0

  get size(): number {
    return this.#count
  }

  add(record: ConnectionRecord): ConnectionRecord {
    const clientId = cut(record.clientId)
    const kept = {
      ...record,
      clientId,
      username: record.username && cut(record.username),
      why: record.why && cut(record.why)
    }
    const key = clientId === '' ? `@${record.peer.address}` : `=${clientId}`
    const list = this.#by.get(key) ?? []
    this.#by.delete(key)
    this.#by.set(key, list)
    list.push(kept)
    if (list.length > ofEach) list.shift()
    else this.#count++
    while (this.#count > inAll) {
      const [oldest, its] = this.#by.entries().next().value!
      its.shift()
      this.#count--
      if (its.length === 0) this.#by.delete(oldest)
    }
    return kept
  }

  /** A client has connected, whether it got in or not. @param at when its connection began. */
  connected({ origin, claimedId, clientId, ref, version }: ClientCard, at: Date, accepted: boolean): ConnectionRecord {
    const { peer, listener } = origin
    return this.add({
      at,
      clientId: clientId === '' ? claimedId : clientId,
      username: ref.username,
      peer,
      listener,
      version,
      accepted,
      endedAt: undefined,
      end: undefined,
      why: undefined
    })
  }

  /** Its connection is over. */
  ended(record: ConnectionRecord, { identity, why }: ClientCard, end: EndReason): void {
    record.endedAt = new Date()
    record.end = end
    const silent = end === 'keepalive_timeout' ? `its keep alive is ${identity?.client.keepAlive} s` : undefined
    record.why = (why ?? silent)?.slice(0, longest)
  }

  /** It did not get as far as MQTT. */
  turnedAway(listener: string, peer: Peer, why: string): void {
    const now = new Date()
    this.add({
      at: now,
      clientId: '',
      username: undefined,
      peer,
      listener,
      version: 0,
      accepted: false,
      endedAt: now,
      end: 'turned_away',
      why
    })
  }

  /** Of a client id or an address, the oldest first. */
  of(who: string, address: string | undefined): ConnectionRecord[] {
    const its = this.#by.get(`=${cut(who)}`) ?? []
    if (address === undefined) return [...its]
    const found = [...this.#by.values()].flatMap(list =>
      list.filter(record => record.peer.address === address || record.clientId === who)
    )
    return found.sort((a, b) => a.at.getTime() - b.at.getTime())
  }
}

/** A copy: a part of a long text would keep all of it. */
function cut(text: string): string {
  return text.length <= longest ? text : Buffer.from(`${text.slice(0, longest - 1)}…`).toString()
}
