import type { Server } from '../server/server.js'
import { command, visible } from './command.js'

export interface Route {
  readonly topic: string
  readonly node: string
}

function* all({ clients, options }: Server): Generator<Route> {
  for (const topic of clients.dispatcher.router.filters()) yield { topic, node: options.node.name }
}

/** None or one: there is one node. */
const one = ({ clients, options }: Server, topic: string): Route[] =>
  clients.dispatcher.router.has(topic) ? [{ topic, node: options.node.name }] : []

const route = ({ topic, node }: Route): string => `${visible(topic)} -> ${node}`
const routes = (rows: Route[]): string => rows.map(route).join('\n')

export const topics = {
  'routes list': command({ summary: 'List all routes', run: all, line: route }),
  'routes show': command({
    summary: 'Show a route',
    usage: '<topic>',
    run: (server, { topic }) => one(server, topic),
    print: routes
  }),
  'topics list': command({ summary: 'List all topics', run: all, line: ({ topic }) => visible(topic) }),
  'topics show': command({
    summary: 'Show a topic',
    usage: '<topic>',
    run: (server, { topic }) => one(server, topic),
    print: routes
  })
}
