/** Retained messages. */
import { code, integer, nothing, object, objects, Refusal, type Route, text } from '../route.js'
import { api, done } from './common.js'

const retainedRow = { topic: text, qos: integer, size: integer, from: { type: ['string', 'null'] } }

export const retained: Route[] = [
  {
    method: 'GET',
    path: `${api}/retained`,
    summary: 'All retained messages, without their payloads',
    tag: 'Retained',
    paged: true,
    result: object(retainedRow),
    run: ({ ops: { retained } }) => ({ total: retained.count(), rows: retained.list() })
  },
  {
    method: 'GET',
    path: `${api}/retained/:topic`,
    summary: 'A retained message',
    tag: 'Retained',
    result: objects(object({ ...retainedRow, encoding: { type: 'string', enum: ['plain', 'base64'] }, payload: text })),
    run: async ({ ops, params }) => {
      const found = await ops.retained.show(params['topic']!)
      if (found === undefined) return { objects: [] }
      const { expires_at: _, encoding, ...row } = found
      return { objects: [{ ...row, encoding: encoding === 'utf8' ? 'plain' : encoding }] }
    }
  },
  {
    method: 'DELETE',
    path: `${api}/retained/:topic`,
    summary: 'Forget a retained message',
    tag: 'Retained',
    result: nothing,
    run: async ({ ops, params }) => {
      const topic = params['topic']!
      if (!(await ops.retained.forget(topic))) throw new Refusal(code.unknown, `Topic: ${topic} not found`)
      return done
    }
  }
]
