import type { RouteRow } from '../ops/operations.js'
import { command, visible } from './command.js'

const route = ({ topic, node }: RouteRow): string => `${visible(topic)} -> ${node}`
const routes = (rows: RouteRow[]): string => rows.map(route).join('\n')

export const topics = {
  'routes list': command({ summary: 'List all routes', run: ({ topics }) => topics.list(), line: route }),
  'routes show': command({
    summary: 'Show a route',
    usage: '<topic>',
    run: ({ topics }, { topic }) => topics.show(topic),
    print: routes
  }),
  'topics list': command({
    summary: 'List all topics',
    run: ({ topics }) => topics.list(),
    line: ({ topic }) => visible(topic)
  }),
  'topics show': command({
    summary: 'Show a topic',
    usage: '<topic>',
    run: ({ topics }, { topic }) => topics.show(topic),
    print: routes
  })
}
