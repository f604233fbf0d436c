/** Publishing, and subscribing for a client. */
import { code, nothing, object, Refusal, type Route, type Schema, text } from '../route.js'
import { api, done, isCode } from './common.js'

const qos: Schema = { type: 'integer', enum: [0, 1, 2], default: 0 }

export const messages: Route[] = [
  {
    method: 'POST',
    path: `${api}/mqtt/publish`,
    summary: 'Publish a message; no ACL applies',
    tag: 'Messages',
    body: object(
      {
        topic: text,
        payload: { type: 'string', default: '' },
        encoding: { type: 'string', enum: ['plain', 'base64'], default: 'plain', description: 'of the payload' },
        qos,
        retain: { type: 'boolean', default: false },
        client_id: { type: 'string', default: 'http', description: 'whom the message is from' }
      },
      ['topic']
    ),
    result: nothing,
    run: async ({ ops, body: { topic, payload, encoding, qos, retain, client_id: from } }) => {
      const bytes = Buffer.from(payload, encoding === 'base64' ? 'base64' : 'utf8')
      await valid(topic, () => ops.messages.publish({ topic, payload: bytes, qos, retain, from }))
      return done
    }
  },
  {
    method: 'POST',
    path: `${api}/mqtt/subscribe`,
    summary: 'Subscribe for a client; no ACL applies',
    tag: 'Messages',
    body: object({ client_id: text, topic: text, qos }, ['client_id', 'topic']),
    result: nothing,
    run: async ({ ops, body: { client_id: id, topic, qos } }) => {
      await valid(topic, () => ops.subscriptions.add(id, topic, qos), id)
      return done
    }
  },
  {
    method: 'POST',
    path: `${api}/mqtt/unsubscribe`,
    summary: 'Unsubscribe for a client',
    tag: 'Messages',
    body: object({ client_id: text, topic: text }),
    result: nothing,
    run: async ({ ops, body: { client_id: id, topic } }) => {
      await valid(topic, () => ops.subscriptions.remove(id, topic), id)
      return done
    }
  }
]

/** emqttd's words for a bad topic and for a client that is not there. */
async function valid(topic: string, work: () => void | Promise<void>, clientId = ''): Promise<void> {
  try {
    await work()
  } catch (err) {
    if (isCode(err, 'BAD_REQUEST')) throw new Refusal(code.unknown, `validate topic: ${topic} fail`)
    if (isCode(err, 'NOT_FOUND')) throw new Refusal(code.unknown, `Clientid: ${clientId} not found`)
    throw err
  }
}
