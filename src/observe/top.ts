/**
 * What the broker is busy with, told each second while somebody looks: its clients by
 * rate, bytes and queue, its topics, who is slow, the event loop and memory. Nothing of
 * this exists while nobody does. Clients are walked a millisecond in each turn of the
 * event loop, so that neither messages nor other clients notice how many there are.
 */
import { type IntervalHistogram, monitorEventLoopDelay, performance } from 'node:perf_hooks'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import type { Channel } from '../client/channel.js'
import type { Server } from '../server/server.js'
import type { Metrics } from './metrics.js'
import { TopicSample } from './topic-sample.js'

/** Of the clients; rates are a second's. */
export interface ClientLoad {
  readonly client_id: string
  readonly username: string | null
  readonly peername: string
  readonly messages_in: number
  readonly messages_out: number
  readonly bytes_in: number
  readonly bytes_out: number
  /** Messages that wait, and that are under way. */
  readonly queue: number
  readonly inflight: number
  /** Bytes that it has not taken yet. */
  readonly unsent: number
  /** Messages that it missed in a second, and in all. */
  readonly dropped_rate: number
  readonly dropped: number
}

export interface TopicLoad {
  readonly topic: string
  readonly messages: number
  readonly bytes: number
  /** Sessions that get it; a shared subscription's group is one. */
  readonly receivers: number
}

export interface Sample {
  readonly node: string
  readonly version: string
  readonly uptime: number
  /** What the rates are over. */
  readonly seconds: number
  readonly clients: number
  readonly sessions: number
  readonly subscriptions: number
  readonly retained: number
  readonly rates: Readonly<Record<'messages_in' | 'messages_out' | 'bytes_in' | 'bytes_out' | 'dropped', number>>
  /** In ms, the bounds of `broker latency`; null: above the last, or nothing came. */
  readonly latency: { readonly p50: number | null; readonly p99: number | null }
  /** 0 to 1, and by how many ms it was late. */
  readonly event_loop: { readonly busy: number; readonly late_p99: number; readonly late_max: number }
  /** Of one processor's, 1. */
  readonly cpu: number
  readonly memory: Readonly<Record<'rss' | 'heap_used' | 'heap_total' | 'external', number>>
  /** One message in so many was looked at for `topics`. */
  readonly sampled: number
  /** The busiest by each of the columns that they can be put in order by, the busiest by rate first. */
  readonly top_clients: readonly ClientLoad[]
  readonly top_topics: readonly TopicLoad[]
  readonly slow: readonly ClientLoad[]
  /** How many are slow in all. */
  readonly slow_count: number
}

const everyMs = 1000
/** A walk through very many clients is not begun again at once. */
const restsFor = 10
const slice = 1
const most = 100
/** Bytes that wait for a moment with everybody. */
const muchUnsent = 64 * 1024
const resolutionMs = 10

/** What a client had counted when it was last looked at, and what came since. */
class Entry {
  readonly channel: Channel
  walk = 0
  at = 0
  published = 0
  delivered = 0
  received = 0
  sent = 0
  dropped = 0
  messagesIn = 0
  messagesOut = 0
  bytesIn = 0
  bytesOut = 0
  lost = 0
  queue = 0
  unsent = 0

  constructor(channel: Channel, walk: number, at: number) {
    this.channel = channel
    this.#note(walk, at)
  }

  look(walk: number, at: number): void {
    const { connection } = this.channel
    const session = this.channel.session!
    const seconds = (at - this.at) / 1000 || 1
    this.messagesIn = (session.published - this.published) / seconds
    this.messagesOut = (session.delivered - this.delivered) / seconds
    this.bytesIn = (connection.received - this.received) / seconds
    this.bytesOut = (connection.out.sent - this.sent) / seconds
    this.lost = (session.dropped - this.dropped) / seconds
    this.queue = session.queueLength
    this.unsent = connection.pendingBytes
    this.#note(walk, at)
  }

  /** What the next look is compared with. */
  #note(walk: number, at: number): void {
    const { connection, session } = this.channel
    this.walk = walk
    this.at = at
    this.published = session!.published
    this.delivered = session!.delivered
    this.received = connection.received
    this.sent = connection.out.sent
    this.dropped = session!.dropped
  }

  get isSlow(): boolean {
    return this.queue > 0 || this.lost > 0 || this.unsent > muchUnsent
  }

  row(): ClientLoad {
    const { client } = this.channel.identity!
    return {
      client_id: client.clientId,
      username: client.username ?? null,
      peername: `${client.peer.address}:${client.peer.port}`,
      messages_in: round(this.messagesIn),
      messages_out: round(this.messagesOut),
      bytes_in: Math.round(this.bytesIn),
      bytes_out: Math.round(this.bytesOut),
      queue: this.queue,
      inflight: this.channel.session!.inflightLength,
      unsent: this.unsent,
      dropped_rate: round(this.lost),
      dropped: this.dropped
    }
  }
}

/** Those with the most of something, of very many. */
export class Leaders<T> {
  readonly #value: (each: T) => number
  readonly #most: number
  #kept: T[] = []
  #least = 0

  constructor(most: number, value: (each: T) => number) {
    this.#most = most
    this.#value = value
  }

  /** One with nothing is none. */
  offer(each: T): void {
    if (this.#value(each) <= this.#least) return
    if (this.#kept.push(each) >= 2 * this.#most) this.#kept = this.list()
    if (this.#kept.length === this.#most) this.#least = this.#value(this.#kept.at(-1)!)
  }

  /** The first has the most. */
  list(): T[] {
    return this.#kept.sort((a, b) => this.#value(b) - this.#value(a)).slice(0, this.#most)
  }
}

const round = (n: number): number => Number(n.toFixed(n < 10 ? 2 : 0))

/** The totals that rates are made of. */
const totalsOf = (metrics: Metrics) => ({
  messages_in: metrics.messagesReceived,
  messages_out: metrics.messagesSent,
  bytes_in: metrics.bytesReceived,
  bytes_out: metrics.bytesSent,
  dropped:
    metrics.droppedQueueFull +
    metrics.droppedSlow +
    metrics.droppedAway +
    metrics.droppedTooLarge +
    metrics.droppedExpired +
    metrics.qos2Dropped
})

/** All that is there while somebody looks. */
class Watching {
  readonly #server: Server
  readonly #entries = new Map<Channel, Entry>()
  readonly #topics = new TopicSample()
  readonly #delay: IntervalHistogram = monitorEventLoopDelay({ resolution: resolutionMs })
  readonly #over = new AbortController()
  #walk = 0
  #spentMs = 0
  #from = 0
  #utilization = performance.eventLoopUtilization()
  #cpu = process.cpuUsage()
  #totals: ReturnType<typeof totalsOf>
  #latency: number[]

  constructor(server: Server) {
    this.#server = server
    const { metrics } = server.clients
    this.#totals = totalsOf(metrics)
    this.#latency = [...metrics.latency.counts]
  }

  async run(tell: (sample: Sample) => void): Promise<void> {
    const { signal } = this.#over
    this.#delay.enable()
    this.#server.clients.ingress.sample = this.#topics
    this.#from = performance.now()
    try {
      await this.#look()
      for (;;) {
        await sleep(Math.max(everyMs, restsFor * this.#spentMs), undefined, { signal, ref: false })
        tell(await this.#sample())
      }
    } catch (err) {
      if (!signal.aborted) throw err
    }
  }

  stop(): void {
    this.#over.abort()
    this.#delay.disable()
    const { ingress } = this.#server.clients
    if (ingress.sample === this.#topics) ingress.sample = undefined
  }

  /** Every client once; calls `see` with each that was there before. */
  async #look(see?: (entry: Entry) => void): Promise<void> {
    const { signal } = this.#over
    const walk = ++this.#walk
    let seen = 0
    this.#spentMs = 0
    let from = performance.now()
    for (const channel of this.#server.clients.eachChannel()) {
      const entry = this.#entries.get(channel)
      if (entry === undefined) this.#entries.set(channel, new Entry(channel, walk, from))
      else {
        entry.look(walk, from)
        see?.(entry)
      }
      if (++seen % 64 > 0) continue
      const now = performance.now()
      if (now - from < slice) continue
      this.#spentMs += now - from
      await nextTurn(undefined, { signal })
      from = performance.now()
    }
    this.#spentMs += performance.now() - from
    if (this.#entries.size === seen) return
    for (const [channel, entry] of this.#entries) if (entry.walk < walk) this.#entries.delete(channel)
  }

  async #sample(): Promise<Sample> {
    let slowCount = 0
    const byRate = new Leaders<Entry>(most, e => e.messagesIn + e.messagesOut)
    const byBytes = new Leaders<Entry>(most, e => e.bytesIn + e.bytesOut)
    const byQueue = new Leaders<Entry>(most, e => e.queue)
    const bySlowness = new Leaders<Entry>(most, e => 1 + e.queue + e.lost)
    await this.#look(entry => {
      byRate.offer(entry)
      byBytes.offer(entry)
      byQueue.offer(entry)
      if (!entry.isSlow) return
      slowCount++
      bySlowness.offer(entry)
    })
    const { options, version, startedAt, clients } = this.#server
    const { metrics, dispatcher, sessions } = clients
    const now = performance.now()
    const seconds = (now - this.#from) / 1000
    this.#from = now
    const totals = totalsOf(metrics)
    const rate = (name: keyof typeof totals): number => round((totals[name] - this.#totals[name]) / seconds)
    const rates = {
      messages_in: rate('messages_in'),
      messages_out: rate('messages_out'),
      bytes_in: rate('bytes_in'),
      bytes_out: rate('bytes_out'),
      dropped: rate('dropped')
    }
    this.#totals = totals
    const { every } = this.#topics
    const { rss, heapUsed, heapTotal, external } = process.memoryUsage()
    return {
      node: options.node.name,
      version,
      uptime: Math.floor((Date.now() - startedAt.getTime()) / 1000),
      seconds: round(seconds),
      clients: clients.clientCount,
      sessions: sessions.size,
      subscriptions: dispatcher.router.size,
      retained: dispatcher.retained.size,
      rates,
      latency: this.#latencies(metrics),
      ...this.#process(seconds),
      memory: { rss, heap_used: heapUsed, heap_total: heapTotal, external },
      sampled: every,
      top_clients: [...new Set([byRate, byBytes, byQueue].flatMap(each => each.list()))].map(e => e.row()),
      top_topics: this.#topics.end(most).map(({ topic, messages, bytes }) => {
        const { routes, groups } = dispatcher.router.match(topic)
        const receivers = routes.length + groups.length
        return { topic, messages: round(messages / seconds), bytes: Math.round(bytes / seconds), receivers }
      }),
      slow: bySlowness.list().map(e => e.row()),
      slow_count: slowCount
    }
  }

  #latencies({ latency }: Metrics): Sample['latency'] {
    const counts = latency.counts.map((n, i) => n - this.#latency[i]!)
    this.#latency = [...latency.counts]
    const all = counts.reduce((a, b) => a + b, 0)
    const within = (part: number): number | null => {
      let sum = 0
      const at = counts.findIndex(n => {
        sum += n
        return sum >= all * part
      })
      return all === 0 ? null : (latency.bounds[at] ?? null)
    }
    return { p50: within(0.5), p99: within(0.99) }
  }

  #process(seconds: number): Pick<Sample, 'event_loop' | 'cpu'> {
    const busy = performance.eventLoopUtilization(this.#utilization).utilization
    this.#utilization = performance.eventLoopUtilization()
    const { user, system } = process.cpuUsage(this.#cpu)
    this.#cpu = process.cpuUsage()
    const late = (ns: number): number => round(Math.max(0, ns / 1e6 - resolutionMs))
    const isKnown = this.#delay.max > 0
    const event_loop = {
      busy: round(busy),
      late_p99: isKnown ? late(this.#delay.percentile(99)) : 0,
      late_max: isKnown ? late(this.#delay.max) : 0
    }
    this.#delay.reset()
    return { event_loop, cpu: round((user + system) / 1e6 / seconds) }
  }
}

export class Top {
  readonly #server: Server
  readonly #watchers = new Set<(sample: Sample) => void>()
  #watching: Watching | undefined

  constructor(server: Server) {
    this.#server = server
  }

  /** Calls `take` with each sample from now on; returns what ends that. */
  watch(take: (sample: Sample) => void): () => void {
    this.#watchers.add(take)
    if (this.#watching === undefined) {
      this.#watching = new Watching(this.#server)
      const tell = (sample: Sample): void => {
        for (const watcher of this.#watchers) watcher(sample)
      }
      this.#watching.run(tell).catch((err: unknown) => this.#server.log.error('top', { err }))
    }
    return () => {
      this.#watchers.delete(take)
      if (this.#watchers.size > 0) return
      this.#watching?.stop()
      this.#watching = undefined
    }
  }
}
