/**
 * The broker's figures as Prometheus reads them: read when somebody scrapes, and not
 * before. prom-client writes them down; its own measuring of the process is left out,
 * since it wakes the event loop a hundred times a second.
 */
import { Counter, Gauge, type Metric, Registry } from 'prom-client'
import type { Distribution, ListenerState, Operations } from '../ops/operations.js'

type Values = readonly (readonly [labels: Record<string, string>, value: number])[]

export async function figures(ops: Operations): Promise<{ text: string; type: string }> {
  const registry = new Registry()
  const gauge = (name: string, help: string, values: number | Values): void => {
    const made = new Gauge({ name, help, registers: [registry], labelNames: labelsOf(values) })
    for (const [labels, value] of rows(values)) made.set(labels, value)
  }
  const counter = (name: string, help: string, values: number | Values): void => {
    const made = new Counter({ name, help, registers: [registry], labelNames: labelsOf(values) })
    for (const [labels, value] of rows(values)) made.inc(labels, value)
  }

  const { broker, vm, alarms, listeners } = ops
  const { node, version, startedAt, phase } = broker.state()
  gauge('broker_info', 'What runs', [[{ node, version }, 1]])
  gauge('broker_running', 'Whether it has started and does not stop', phase === 'running' ? 1 : 0)
  gauge('broker_start_time_seconds', 'When it was started', startedAt.getTime() / 1000)

  const standard = Object.entries(broker.metrics())
  for (const [name, value] of [...standard, ...Object.entries(broker.losses())]) {
    if (name === 'messages/retained') gauge('broker_messages_retained', name, value)
    else counter(`broker_${flat(name)}_total`, name, value)
  }
  for (const [name, value] of Object.entries(broker.stats())) gauge(`broker_${flat(name)}`, name, value)
  const latency = 'Time of messages through the broker; a sample is the slowest of a turn of the event loop'
  registry.registerMetric(histogram('broker_message_latency_seconds', latency, broker.latency()))
  const states = listeners.states()
  const by = (value: (listener: ListenerState) => number): Values =>
    states.map(each => [{ listener: each.name }, value(each)])
  gauge(
    'broker_listener_up',
    'Whether a listener is open',
    by(({ isOpen }) => (isOpen ? 1 : 0))
  )
  gauge(
    'broker_listener_connections',
    'Connections of a listener',
    by(({ currentClients }) => currentClients)
  )
  const severities = ['warning', 'error', 'critical'] as const
  const raised = alarms.list()
  gauge(
    'broker_alarms',
    'Alarms that last',
    severities.map(severity => [{ severity }, raised.filter(a => a.severity === severity).length])
  )

  const memory = vm.memory()
  const cpu = vm.process()
  const io = await vm.io()
  const loop = vm.eventLoop()
  const gc = vm.gc()
  counter('process_cpu_user_seconds_total', 'CPU time of the process itself', cpu['process/cpu_user'])
  counter('process_cpu_system_seconds_total', 'CPU time of the system for the process', cpu['process/cpu_system'])
  gauge('process_resident_memory_bytes', 'Memory of the process', memory['memory/total'])
  gauge('process_open_fds', 'Open files and connections', io['io/active_fds'])
  gauge('process_max_fds', 'How many there may be; 0: not known', io['io/max_fds'])
  gauge('nodejs_heap_size_total_bytes', 'Heap', memory['memory/heap_total'])
  gauge('nodejs_heap_size_used_bytes', 'Heap in use', memory['memory/heap_used'])
  gauge('nodejs_external_memory_bytes', 'Memory outside the heap', memory['memory/external'])
  gauge('nodejs_eventloop_utilization', 'Part of the time in which it was busy', loop['eventloop/utilization'])
  gauge('nodejs_eventloop_lag_mean_seconds', 'Since the start', loop['eventloop/delay_mean'] / 1000)
  gauge('nodejs_eventloop_lag_p99_seconds', 'Since the start', loop['eventloop/delay_p99'] / 1000)
  gauge('nodejs_eventloop_lag_max_seconds', 'Since the start', loop['eventloop/delay_max'] / 1000)
  counter('nodejs_gc_pause_seconds_total', 'Time of garbage collections', gc['gc/pause_total'] / 1000)

  if (ops.store.summary().type === 'lmdb') {
    const { size, free, records, journal } = await ops.store.info()
    gauge('broker_store_size_bytes', 'The store on disk', size)
    gauge('broker_store_free_bytes', 'Of these, what holds nothing', free)
    gauge(
      'broker_store_records',
      'Records of the store',
      Object.entries(records).map(([table, n]) => [{ table }, n])
    )
    if (journal !== undefined) {
      counter('broker_store_commits_total', 'Times that records went to disk', journal.commits)
      counter('broker_store_written_total', 'Records that went to disk', journal.written)
      counter('broker_store_spared_total', 'Records needed no longer before they were written', journal.spared)
      gauge('broker_store_waiting', 'Records that wait for the disk', journal.waiting)
      gauge('broker_store_failing', 'Whether it cannot be written', journal.isFailing ? 1 : 0)
    }
  }
  return { text: await registry.metrics(), type: registry.contentType }
}

const rows = (values: number | Values): Values => (typeof values === 'number' ? [[{}, values]] : values)
const labelsOf = (values: number | Values): string[] => Object.keys(rows(values)[0]?.[0] ?? {})

/** `messages/qos0/received` → `messages_qos0_received`. */
const flat = (name: string): string => name.replaceAll('/', '_')

/** One that was counted elsewhere, in milliseconds; prom-client's own counts by itself. */
function histogram(name: string, help: string, { bounds, counts, count, sum }: Distribution): Metric {
  let below = 0
  const buckets = counts.map((n, i) => {
    below += n
    const le = i < bounds.length ? String(bounds[i]! / 1000) : '+Inf'
    return { metricName: `${name}_bucket`, labels: { le }, value: below }
  })
  const values = [
    ...buckets,
    { metricName: `${name}_sum`, labels: {}, value: sum / 1000 },
    { metricName: `${name}_count`, labels: {}, value: count }
  ]
  const get = async () => ({ name, help, type: 'histogram', aggregator: 'sum', values })
  return { name, get } as unknown as Metric
}
