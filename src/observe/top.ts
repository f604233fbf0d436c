/**
 * What the broker is busy with, told each second while somebody looks: its clients by
 * rate, bytes and queue, its topics, who is slow, the event loop and memory. Nothing of
 * this exists while nobody does. Clients are walked a millisecond in each turn of the
 * event loop, so that neither messages nor other clients notice how many there are.
 */
import { type IntervalHistogram, monitorEventLoopDelay, performance } from 'node:perf_hooks'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import type { Log } from '../base/log/log.js'
import type { ClientTraffic, Counters, Distribution, Operations, TopicSampling } from '../ops/operations.js'
import type { ClientLoad, Sample } from '../ops/samples.js'

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
  walk = 0
  at = 0
  traffic: ClientTraffic
  messagesIn = 0
  messagesOut = 0
  bytesIn = 0
  bytesOut = 0
  lost = 0

  constructor(traffic: ClientTraffic, walk: number, at: number) {
    this.traffic = traffic
    this.walk = walk
    this.at = at
  }

  look(next: ClientTraffic, walk: number, at: number): void {
    const was = this.traffic
    const seconds = (at - this.at) / 1000 || 1
    this.messagesIn = (next.published - was.published) / seconds
    this.messagesOut = (next.delivered - was.delivered) / seconds
    this.bytesIn = (next.received - was.received) / seconds
    this.bytesOut = (next.sent - was.sent) / seconds
    this.lost = (next.dropped - was.dropped) / seconds
    this.traffic = next
    this.walk = walk
    this.at = at
  }

  get isSlow(): boolean {
    return this.traffic.queue > 0 || this.lost > 0 || this.traffic.unsent > muchUnsent
  }

  row(): ClientLoad {
    const { client_id, username, peername, queue, inflight, unsent, dropped } = this.traffic
    return {
      client_id,
      username,
      peername,
      messages_in: round(this.messagesIn),
      messages_out: round(this.messagesOut),
      bytes_in: Math.round(this.bytesIn),
      bytes_out: Math.round(this.bytesOut),
      queue,
      inflight,
      unsent,
      dropped_rate: round(this.lost),
      dropped
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

/** All that is there while somebody looks. */
class Watching {
  readonly #ops: Operations
  readonly #entries = new Map<object, Entry>()
  readonly #topics: TopicSampling
  readonly #delay: IntervalHistogram = monitorEventLoopDelay({ resolution: resolutionMs })
  readonly #over = new AbortController()
  #walk = 0
  #spentMs = 0
  #from = 0
  #utilization = performance.eventLoopUtilization()
  #cpu = process.cpuUsage()
  #totals: Counters
  #latency: readonly number[]

  constructor(ops: Operations) {
    this.#ops = ops
    this.#topics = ops.topics.sample()
    this.#totals = ops.broker.counters()
    this.#latency = [...ops.broker.latency().counts]
  }

  async run(tell: (sample: Sample) => void): Promise<void> {
    const { signal } = this.#over
    this.#delay.enable()
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
    this.#topics.stop()
  }

  /** Every client once; calls `see` with each that was there before. */
  async #look(see?: (entry: Entry) => void): Promise<void> {
    const { signal } = this.#over
    const walk = ++this.#walk
    let seen = 0
    this.#spentMs = 0
    let from = performance.now()
    for (const traffic of this.#ops.clients.traffic()) {
      const entry = this.#entries.get(traffic.key)
      if (entry === undefined) this.#entries.set(traffic.key, new Entry(traffic, walk, from))
      else {
        entry.look(traffic, walk, from)
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
    for (const [key, entry] of this.#entries) if (entry.walk < walk) this.#entries.delete(key)
  }

  async #sample(): Promise<Sample> {
    let slowCount = 0
    const byRate = new Leaders<Entry>(most, e => e.messagesIn + e.messagesOut)
    const byBytes = new Leaders<Entry>(most, e => e.bytesIn + e.bytesOut)
    const byQueue = new Leaders<Entry>(most, e => e.traffic.queue)
    const bySlowness = new Leaders<Entry>(most, e => 1 + e.traffic.queue + e.lost)
    await this.#look(entry => {
      byRate.offer(entry)
      byBytes.offer(entry)
      byQueue.offer(entry)
      if (!entry.isSlow) return
      slowCount++
      bySlowness.offer(entry)
    })
    const { broker, clients, sessions, subscriptions, retained, topics } = this.#ops
    const { node, version, startedAt } = broker.state()
    const now = performance.now()
    const seconds = (now - this.#from) / 1000
    this.#from = now
    const totals = broker.counters()
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
      node,
      version,
      uptime: Math.floor((Date.now() - startedAt.getTime()) / 1000),
      seconds: round(seconds),
      clients: clients.count(),
      sessions: sessions.count(),
      subscriptions: subscriptions.count(),
      retained: retained.count(),
      rates,
      latency: this.#latencies(broker.latency()),
      ...this.#process(seconds),
      memory: { rss, heap_used: heapUsed, heap_total: heapTotal, external },
      sampled: every,
      top_clients: [...new Set([byRate, byBytes, byQueue].flatMap(each => each.list()))].map(e => e.row()),
      top_topics: this.#topics.end(most).map(({ topic, messages, bytes }) => {
        const receivers = topics.receivers(topic)
        return { topic, messages: round(messages / seconds), bytes: Math.round(bytes / seconds), receivers }
      }),
      slow: bySlowness.list().map(e => e.row()),
      slow_count: slowCount
    }
  }

  #latencies(latency: Distribution): Sample['latency'] {
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
  readonly #ops: Operations
  readonly #log: Log
  readonly #watchers = new Set<(sample: Sample) => void>()
  #watching: Watching | undefined

  constructor(ops: Operations, log: Log) {
    this.#ops = ops
    this.#log = log
  }

  /** Calls `take` with each sample from now on; returns what ends that. */
  watch(take: (sample: Sample) => void): () => void {
    this.#watchers.add(take)
    if (this.#watching === undefined) {
      this.#watching = new Watching(this.#ops)
      const tell = (sample: Sample): void => {
        for (const watcher of this.#watchers) watcher(sample)
      }
      this.#watching.run(tell).catch((err: unknown) => this.#log.error('top', { err }))
    }
    return () => {
      this.#watchers.delete(take)
      if (this.#watchers.size > 0) return
      this.#watching?.stop()
      this.#watching = undefined
    }
  }
}
