/** What the broker is busy with, as `top` shows it each second. */

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
