/** Nodes, their load, listeners, metrics and stats. */
import { description, localTime, uptime } from '../../base/uptime.js'
import type { NodeState, Operations } from '../../ops/operations.js'
import { integer, listOf, number, object, type Route, type Schema, text } from '../route.js'
import { api, onlyNode } from './common.js'

/** emqttd's `otp_release`: what the broker runs on. */
const release = `Node.js ${process.version}`
const runs = ({ phase }: NodeState): string => (phase === 'running' ? 'Running' : 'Stopped')

const nodeOf = (state: NodeState) => ({
  version: state.version,
  sysdescr: description,
  uptime: uptime(Math.floor((Date.now() - state.startedAt.getTime()) / 1000)),
  datetime: localTime(new Date()),
  otp_release: release,
  node_status: runs(state)
})
const nodeSchema = { version: text, sysdescr: text, uptime: text, datetime: text, otp_release: text, node_status: text }

const mega = (bytes: number): string => `${(bytes / 1024 ** 2).toFixed(2)}M`

async function loadOf({ vm, broker, clients }: Operations) {
  const state = broker.state()
  const memory = vm.memory()
  const cpu = vm.load()
  return {
    name: state.node,
    otp_release: release,
    memory_total: mega(memory['memory/total']),
    memory_used: mega(memory['memory/heap_used'] + memory['memory/external']),
    process_available: 1,
    process_used: 1,
    max_fds: (await vm.io())['io/max_fds'],
    clients: clients.count(),
    node_status: runs(state),
    load1: cpu['cpu/load1'],
    load5: cpu['cpu/load5'],
    load15: cpu['cpu/load15']
  }
}
const loadSchema = object({
  name: text,
  otp_release: text,
  memory_total: text,
  memory_used: text,
  process_available: integer,
  process_used: integer,
  max_fds: integer,
  clients: integer,
  node_status: text,
  load1: text,
  load5: text,
  load15: text
})

const listenersNow = ({ listeners }: Operations) =>
  listeners.list().map(({ name: _, shutdown_count: counts, ...row }) => ({
    ...row,
    shutdown_count: Object.keys(counts).length === 0 ? [] : counts // as Erlang's lists become JSON
  }))
const listenerSchema = object({
  protocol: text,
  listen: text,
  acceptors: integer,
  max_clients: integer,
  current_clients: integer,
  shutdown_count: {
    type: ['array', 'object'],
    description: 'how often connections ended, by why; an empty list: never'
  }
})

const numbers: Schema = { type: 'object', additionalProperties: number }
const byNode = (of: Schema): Schema => listOf({ type: 'object', additionalProperties: of })

/** Both of emqttd's forms: of all nodes, and of one. */
function ofNodes(
  path: string,
  summary: string,
  of: Schema,
  value: (ops: Operations) => unknown | Promise<unknown>
): Route[] {
  const tag = 'Monitoring'
  return [
    {
      method: 'GET',
      path: `${api}/${path}`,
      summary,
      tag,
      result: byNode(of),
      run: async asked => [{ [onlyNode(asked)]: await value(asked.ops) }]
    },
    {
      method: 'GET',
      path: `${api}/${path}/:node_name`,
      summary: `${summary}, of a node`,
      tag,
      result: of,
      run: asked => {
        onlyNode(asked)
        return value(asked.ops)
      }
    }
  ]
}

export const nodes: Route[] = [
  {
    method: 'GET',
    path: `${api}/management/nodes`,
    summary: 'The nodes',
    tag: 'Nodes',
    result: listOf(object({ name: text, ...nodeSchema })),
    run: ({ ops }) => [{ name: ops.broker.state().node, ...nodeOf(ops.broker.state()) }]
  },
  {
    method: 'GET',
    path: `${api}/management/nodes/:node_name`,
    summary: 'A node',
    tag: 'Nodes',
    result: object(nodeSchema),
    run: asked => {
      onlyNode(asked)
      return nodeOf(asked.ops.broker.state())
    }
  },
  {
    method: 'GET',
    path: `${api}/monitoring/nodes`,
    summary: 'Load of the nodes',
    tag: 'Monitoring',
    result: listOf(loadSchema),
    run: async ({ ops }) => [await loadOf(ops)]
  },
  {
    method: 'GET',
    path: `${api}/monitoring/nodes/:node_name`,
    summary: 'Load of a node',
    tag: 'Monitoring',
    result: loadSchema,
    run: asked => {
      onlyNode(asked)
      return loadOf(asked.ops)
    }
  },
  ...ofNodes('monitoring/listeners', 'Listeners that are open', listOf(listenerSchema), listenersNow),
  ...ofNodes('monitoring/metrics', 'Metrics', numbers, ({ broker }) => broker.metrics()),
  ...ofNodes('monitoring/stats', 'Stats', numbers, ({ broker }) => broker.stats())
]
