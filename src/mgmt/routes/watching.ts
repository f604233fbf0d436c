/** What watches the broker from outside: load balancers, supervisors, Prometheus. */
import { figures } from '../prometheus.js'
import { readiness } from '../readiness.js'
import { flag, listOf, object, Plain, type Route, text } from '../route.js'

export const watching: Route[] = [
  {
    method: 'GET',
    path: '/status',
    summary: 'Whether the broker runs, in words',
    tag: 'Watching',
    open: 'status',
    always: true,
    gives: ['text/plain', text],
    run: ({ ops }) => {
      const { node, phase } = ops.broker.state()
      return new Plain(`Node ${node} is started\nbroker is ${phase}`)
    }
  },
  {
    method: 'GET',
    path: '/healthz',
    summary: 'Whether the process answers',
    tag: 'Watching',
    open: 'healthz',
    always: true,
    gives: ['application/json', object({ alive: flag })],
    run: () => new Plain({ alive: true })
  },
  {
    method: 'GET',
    path: '/readyz',
    summary: 'Whether clients can be served; status 503 when not, and why',
    tag: 'Watching',
    open: 'readyz',
    always: true,
    gives: ['application/json', object({ ready: flag, why: listOf(text) })],
    run: ({ ops }) => {
      const why = readiness(ops)
      return new Plain({ ready: why.length === 0, why }, why.length === 0 ? 200 : 503)
    }
  },
  {
    method: 'GET',
    path: '/metrics',
    summary: 'Metrics for Prometheus',
    tag: 'Watching',
    open: 'metrics',
    always: true,
    gives: ['text/plain', text],
    run: async ({ ops }) => {
      const { text, type } = await figures(ops)
      return new Plain(text, 200, type)
    }
  }
]
