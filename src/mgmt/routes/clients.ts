/** Clients, their sessions and subscriptions, and the topics that are subscribed to. */
import type { ClientRow, Operations, SessionRow, SubscriptionRow } from '../../ops/operations.js'
import {
  type Asked,
  code,
  flag,
  integer,
  nothing,
  object,
  objects,
  Refusal,
  type Route,
  type Schema,
  text
} from '../route.js'
import { api, clock, done, isCode, mapped, onlyNode } from './common.js'

function clientOf(row: ClientRow) {
  const colon = row.peername.lastIndexOf(':')
  return {
    client_id: row.client_id,
    username: row.username ?? 'undefined',
    ipaddress: row.peername.slice(0, colon),
    port: Number(row.peername.slice(colon + 1)),
    clean_sess: row.clean_sess,
    proto_ver: row.proto_ver,
    keepalive: row.keepalive,
    connected_at: clock(row.connected_at)
  }
}
const clientSchema = object({
  client_id: text,
  username: { type: 'string', description: '`undefined` for a client without one' },
  ipaddress: text,
  port: integer,
  clean_sess: flag,
  proto_ver: integer,
  keepalive: integer,
  connected_at: text
})

const sessionOf = (row: SessionRow) => ({
  client_id: row.client_id,
  clean_sess: row.clean_sess,
  subscriptions: row.subscriptions,
  max_inflight: row.max_inflight,
  inflight_len: row.inflight,
  mqueue_len: row.mqueue_len,
  mqueue_dropped: row.mqueue_dropped,
  awaiting_rel_len: row.awaiting_rel,
  deliver_msg: row.deliver_msg,
  enqueue_msg: row.enqueue_msg,
  created_at: clock(row.created_at)
})
const sessionSchema = object({
  client_id: text,
  clean_sess: flag,
  subscriptions: integer,
  max_inflight: integer,
  inflight_len: integer,
  mqueue_len: integer,
  mqueue_dropped: integer,
  awaiting_rel_len: integer,
  deliver_msg: integer,
  enqueue_msg: integer,
  created_at: text
})

const subscriptionOf = ({ client_id, filter, qos }: SubscriptionRow) => ({ client_id, topic: filter, qos })
const subscriptionSchema = object({ client_id: text, topic: text, qos: integer })

const routeSchema = object({ topic: text, node: text })

const clientsWith = async ({ ops, params }: Asked): Promise<{ objects: unknown[] }> => {
  try {
    return { objects: [clientOf(await ops.clients.show(params['clientid']!))] }
  } catch (err) {
    if (isCode(err, 'NOT_FOUND')) return { objects: [] }
    throw err
  }
}

const sessionsWith = async ({ ops, params }: Asked): Promise<{ objects: unknown[] }> => {
  const found = await ops.sessions.show(params['clientid']!)
  return { objects: found === undefined ? [] : [sessionOf(found)] }
}

const subscriptionsWith = async ({ ops, params }: Asked): Promise<{ objects: unknown[] }> => ({
  objects: (await ops.subscriptions.of(params['clientid']!)).map(subscriptionOf)
})

/** emqttd's three forms: all of a node, and one by its client id with and without the node. */
function lists(
  what: string,
  schema: Schema,
  all: (ops: Operations) => { total: number; rows: Generator<unknown> },
  one: (asked: Asked) => Promise<{ objects: unknown[] }>
): Route[] {
  const tag = `${what[0]!.toUpperCase()}${what.slice(1)}`
  const byClient = { method: 'GET', tag, result: objects(schema) } as const
  return [
    {
      method: 'GET',
      path: `${api}/nodes/:node_name/${what}`,
      summary: `All ${what}`,
      tag,
      paged: true,
      result: schema,
      run: asked => {
        onlyNode(asked)
        return all(asked.ops)
      }
    },
    {
      ...byClient,
      path: `${api}/nodes/:node_name/${what}/:clientid`,
      summary: `Those of a client id, on a node`,
      run: asked => {
        onlyNode(asked)
        return one(asked)
      }
    },
    { ...byClient, path: `${api}/${what}/:clientid`, summary: 'Those of a client id', run: one }
  ]
}

export const clients: Route[] = [
  ...lists(
    'clients',
    clientSchema,
    ({ clients }) => ({ total: clients.count(), rows: mapped(clients.list(), clientOf) }),
    clientsWith
  ),
  {
    method: 'DELETE',
    path: `${api}/clients/:clientid`,
    summary: 'Kick out a client',
    tag: 'Clients',
    result: nothing,
    run: async ({ ops, params }) => {
      await online(() => ops.clients.kick(params['clientid']!))
      return done
    }
  },
  {
    method: 'PUT',
    path: `${api}/clients/:clientid/clean_acl_cache`,
    summary: 'Forget what the ACL said of a client and a topic',
    tag: 'Clients',
    body: object({ topic: text }),
    result: nothing,
    run: async ({ ops, params, body }) => {
      await online(() => ops.clients.forgetVerdict(params['clientid']!, body.topic))
      return done
    }
  },
  ...lists(
    'sessions',
    sessionSchema,
    ({ sessions }) => ({ total: sessions.count(), rows: mapped(sessions.list(), sessionOf) }),
    sessionsWith
  ),
  ...lists(
    'subscriptions',
    subscriptionSchema,
    ({ subscriptions }) => ({ total: subscriptions.count(), rows: mapped(subscriptions.list(), subscriptionOf) }),
    subscriptionsWith
  ),
  {
    method: 'GET',
    path: `${api}/routes`,
    summary: 'All topics that are subscribed to',
    tag: 'Routes',
    paged: true,
    result: routeSchema,
    run: ({ ops: { topics } }) => ({ total: topics.count(), rows: topics.list() })
  },
  {
    method: 'GET',
    path: `${api}/routes/:topic`,
    summary: 'A topic that is subscribed to',
    tag: 'Routes',
    result: objects(routeSchema),
    run: async ({ ops, params }) => ({ objects: await ops.topics.show(params['topic']!) })
  }
]

async function online(work: () => void | Promise<void>): Promise<void> {
  try {
    await work()
  } catch (err) {
    if (isCode(err, 'NOT_FOUND')) throw new Refusal(code.notOnline)
    throw err
  }
}
