/** emqttd's stats, in its order: how many of everything there are, and the most that there were. */
import type { Dispatcher } from '../delivery/dispatcher.js'

export type Stats = ReturnType<typeof statsOf>

export function statsOf(clients: number, sessions: number, { metrics, router, retained }: Dispatcher) {
  const { peaks } = metrics
  metrics.peak('sessions', sessions) // also those that were there before the first came in
  metrics.peak('retained', retained.size)
  metrics.peak('subscriptions', router.size)
  metrics.peak('topics', router.topics)
  return {
    'clients/count': clients,
    'clients/max': peaks.clients,
    'retained/count': retained.size,
    'retained/max': peaks.retained,
    'routes/count': router.topics,
    'routes/max': peaks.topics,
    'sessions/count': sessions,
    'sessions/max': peaks.sessions,
    'subscribers/count': router.size,
    'subscribers/max': peaks.subscriptions,
    'subscriptions/count': router.size,
    'subscriptions/max': peaks.subscriptions,
    'topics/count': router.topics,
    'topics/max': peaks.topics
  }
}
