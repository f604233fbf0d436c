/** emqttd's /api/v2 and what is new here, in the order in which the description shows them. */

import { banKinds } from '../access/banned.js'
import type { ClientInfo } from '../base/client-info.js'
import { BrokerError } from '../base/errors.js'
import { description, localTime, uptime } from '../base/uptime.js'
import { banned } from '../commands/banned.js'
import type { Message } from '../delivery/message.js'
import type { Subscription } from '../delivery/router.js'
import type { Session } from '../delivery/session/session.js'
import type { Subscriber } from '../delivery/subscriber.js'
import type { ListenerInfo } from '../net/listener.js'
import type { Alarm } from '../observe/alarms.js'
import type { Reload } from '../server/reload.js'
import type { Server } from '../server/server.js'
import { firstUser } from './admins.js'
import { figures } from './prometheus.js'
import { readiness } from './readiness.js'
import {
  type Asked,
  code,
  flag,
  integer,
  listOf,
  nothing,
  number,
  object,
  objects,
  Plain,
  Refusal,
  type Route,
  type Schema,
  text
} from './route.js'

const api = '/api/v2'
/** emqttd's empty result. */
const done: [] = []

// ── nodes ────────────────────────────────────────────────────────────────────

/** There is one node; any other cannot be reached. */
function onlyNode({ server, params }: Asked): string {
  const { name } = server.options.node
  if (params['node_name'] !== undefined && params['node_name'] !== name) {
    throw new Refusal(code.badRpc, `no such node: ${params['node_name']}`)
  }
  return name
}

/** emqttd's `otp_release`: what the broker runs on. */
const release = `Node.js ${process.version}`
const runs = ({ phase }: Server): string => (phase === 'running' ? 'Running' : 'Stopped')

const nodeOf = (server: Server) => ({
  version: server.version,
  sysdescr: description,
  uptime: uptime(Math.floor((Date.now() - server.startedAt.getTime()) / 1000)),
  datetime: localTime(new Date()),
  otp_release: release,
  node_status: runs(server)
})
const nodeSchema = { version: text, sysdescr: text, uptime: text, datetime: text, otp_release: text, node_status: text }

const mega = (bytes: number): string => `${(bytes / 1024 ** 2).toFixed(2)}M`

async function loadOf(server: Server) {
  const { vm, options, clients } = server
  const memory = vm.memory()
  const cpu = vm.load()
  return {
    name: options.node.name,
    otp_release: release,
    memory_total: mega(memory['memory/total']),
    memory_used: mega(memory['memory/heap_used'] + memory['memory/external']),
    process_available: 1,
    process_used: 1,
    max_fds: (await vm.io())['io/max_fds'],
    clients: clients.clientCount,
    node_status: runs(server),
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

const listenerRow = ({ transport, bind, maxClients, currentClients, shutdownCount }: ListenerInfo) => ({
  protocol: `mqtt:${transport}`,
  listen: bind,
  acceptors: 1,
  max_clients: maxClients,
  current_clients: currentClients,
  shutdown_count: Object.keys(shutdownCount).length === 0 ? [] : shutdownCount // as Erlang's lists become JSON
})
const listenersNow = ({ listeners, management }: Server) =>
  [...listeners, ...(management?.listeners ?? [])].filter(l => l.listening).map(l => listenerRow(l.info()))
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
  value: (server: Server) => unknown | Promise<unknown>
): Route[] {
  const tag = 'Monitoring'
  return [
    {
      method: 'GET',
      path: `${api}/${path}`,
      summary,
      tag,
      result: byNode(of),
      run: async asked => [{ [onlyNode(asked)]: await value(asked.server) }]
    },
    {
      method: 'GET',
      path: `${api}/${path}/:node_name`,
      summary: `${summary}, of a node`,
      tag,
      result: of,
      run: asked => {
        onlyNode(asked)
        return value(asked.server)
      }
    }
  ]
}

const nodes: Route[] = [
  {
    method: 'GET',
    path: `${api}/management/nodes`,
    summary: 'The nodes',
    tag: 'Nodes',
    result: listOf(object({ name: text, ...nodeSchema })),
    run: ({ server }) => [{ name: server.options.node.name, ...nodeOf(server) }]
  },
  {
    method: 'GET',
    path: `${api}/management/nodes/:node_name`,
    summary: 'A node',
    tag: 'Nodes',
    result: object(nodeSchema),
    run: asked => {
      onlyNode(asked)
      return nodeOf(asked.server)
    }
  },
  {
    method: 'GET',
    path: `${api}/monitoring/nodes`,
    summary: 'Load of the nodes',
    tag: 'Monitoring',
    result: listOf(loadSchema),
    run: async ({ server }) => [await loadOf(server)]
  },
  {
    method: 'GET',
    path: `${api}/monitoring/nodes/:node_name`,
    summary: 'Load of a node',
    tag: 'Monitoring',
    result: loadSchema,
    run: asked => {
      onlyNode(asked)
      return loadOf(asked.server)
    }
  },
  ...ofNodes('monitoring/listeners', 'Listeners that are open', listOf(listenerSchema), listenersNow),
  ...ofNodes('monitoring/metrics', 'Metrics', numbers, ({ clients }) =>
    clients.metrics.standard(clients.dispatcher.retained.size)
  ),
  ...ofNodes('monitoring/stats', 'Stats', numbers, server => server.stats())
]

// ── clients, sessions, subscriptions, routes ─────────────────────────────────

const clientRow = (c: ClientInfo) => ({
  client_id: c.clientId,
  username: c.username ?? 'undefined',
  ipaddress: c.peer.address,
  port: c.peer.port,
  clean_sess: c.cleanSession,
  proto_ver: c.protocolVersion,
  keepalive: c.keepAlive,
  connected_at: localTime(c.connectedAt)
})
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

const sessionRow = (s: Session, { clients }: Server) => ({
  client_id: s.clientId,
  clean_sess: clients.sessions.transient(s.clientId),
  subscriptions: s.subscriptions.size,
  max_inflight: s.maxInflight,
  inflight_len: s.inflightLength,
  mqueue_len: s.queueLength,
  mqueue_dropped: s.dropped,
  awaiting_rel_len: s.awaitingRel.size,
  deliver_msg: s.delivered,
  enqueue_msg: s.enqueued,
  created_at: localTime(s.createdAt)
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

const subscriptionRow = ({ subscriber, filter, qos }: Subscription<Subscriber>) => ({
  client_id: subscriber.clientId,
  topic: filter,
  qos
})
const subscriptionSchema = object({ client_id: text, topic: text, qos: integer })

const routeSchema = object({ topic: text, node: text })

function* mapped<T>(all: Iterable<T>, row: (each: T) => unknown): Generator<unknown> {
  for (const each of all) yield row(each)
}

function* subscriptionsOf(sessions: Iterable<Session>): Generator<unknown> {
  for (const { subscriptions } of sessions) for (const each of subscriptions.values()) yield subscriptionRow(each)
}

const clientsWith = ({ server, params }: Asked): { objects: unknown[] } => {
  try {
    return { objects: [clientRow(server.clients.client(params['clientid']!))] }
  } catch (err) {
    if (isCode(err, 'NOT_FOUND')) return { objects: [] }
    throw err
  }
}

const sessionsWith = ({ server, params }: Asked): { objects: unknown[] } => {
  const found = server.clients.sessions.get(params['clientid']!)
  return { objects: found === undefined ? [] : [sessionRow(found, server)] }
}

const subscriptionsWith = ({ server, params }: Asked): { objects: unknown[] } => {
  const found = server.clients.sessions.get(params['clientid']!)
  return { objects: found === undefined ? [] : [...subscriptionsOf([found])] }
}

/** emqttd's three forms: all of a node, and one by its client id with and without the node. */
function lists(
  what: string,
  schema: Schema,
  all: (server: Server) => { total: number; rows: Generator<unknown> },
  one: (asked: Asked) => { objects: unknown[] }
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
        return all(asked.server)
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

const clients: Route[] = [
  ...lists(
    'clients',
    clientSchema,
    ({ clients }) => ({ total: clients.clientCount, rows: mapped(clients.eachClient(), clientRow) }),
    clientsWith
  ),
  {
    method: 'DELETE',
    path: `${api}/clients/:clientid`,
    summary: 'Kick out a client',
    tag: 'Clients',
    result: nothing,
    run: async ({ server, params }) => {
      await online(() => server.clients.kick(params['clientid']!))
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
    run: async ({ server, params, body }) => {
      await online(() => server.clients.forgetVerdict(params['clientid']!, body.topic))
      return done
    }
  },
  ...lists(
    'sessions',
    sessionSchema,
    server => ({
      total: server.clients.sessions.size,
      rows: mapped(server.clients.sessions.each(), session => sessionRow(session, server))
    }),
    sessionsWith
  ),
  ...lists(
    'subscriptions',
    subscriptionSchema,
    ({ clients }) => ({ total: clients.dispatcher.router.size, rows: subscriptionsOf(clients.sessions.each()) }),
    subscriptionsWith
  ),
  {
    method: 'GET',
    path: `${api}/routes`,
    summary: 'All topics that are subscribed to',
    tag: 'Routes',
    paged: true,
    result: routeSchema,
    run: ({ server }) => {
      const { router } = server.clients.dispatcher
      return { total: router.topics, rows: mapped(router.filters(), topic => routeOf(server, topic)) }
    }
  },
  {
    method: 'GET',
    path: `${api}/routes/:topic`,
    summary: 'A topic that is subscribed to',
    tag: 'Routes',
    result: objects(routeSchema),
    run: ({ server, params }) => {
      const topic = params['topic']!
      return { objects: server.clients.dispatcher.router.has(topic) ? [routeOf(server, topic)] : [] }
    }
  }
]

const routeOf = ({ options }: Server, topic: string) => ({ topic, node: options.node.name })

async function online(work: () => void | Promise<void>): Promise<void> {
  try {
    await work()
  } catch (err) {
    if (isCode(err, 'NOT_FOUND')) throw new Refusal(code.notOnline)
    throw err
  }
}

const isCode = (err: unknown, is: BrokerError['code']): err is BrokerError =>
  err instanceof BrokerError && err.code === is

// ── messages ─────────────────────────────────────────────────────────────────

const qos: Schema = { type: 'integer', enum: [0, 1, 2], default: 0 }

const messages: Route[] = [
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
    run: async ({ server, body: { topic, payload, encoding, qos, retain, client_id: from } }) => {
      const bytes = Buffer.from(payload, encoding === 'base64' ? 'base64' : 'utf8')
      await valid(topic, () => server.clients.publish({ topic, payload: bytes, qos, retain, from }))
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
    run: async ({ server, body: { client_id: id, topic, qos } }) => {
      await valid(topic, () => server.clients.subscribe(id, topic, qos), id)
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
    run: async ({ server, body: { client_id: id, topic } }) => {
      await valid(topic, () => server.clients.unsubscribe(id, topic), id)
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

// ── retained messages ────────────────────────────────────────────────────────

const retainedRow = { topic: text, qos: integer, size: integer, from: { type: ['string', 'null'] } }

const retainedOf = ({ topic, qos, payloadLength: size, from }: Message) => ({ topic, qos, size, from: from ?? null })

const retained: Route[] = [
  {
    method: 'GET',
    path: `${api}/retained`,
    summary: 'All retained messages, without their payloads',
    tag: 'Retained',
    paged: true,
    result: object(retainedRow),
    run: ({ server }) => {
      const { retained } = server.clients.dispatcher
      return { total: retained.size, rows: mapped(retained.all(), retainedOf) }
    }
  },
  {
    method: 'GET',
    path: `${api}/retained/:topic`,
    summary: 'A retained message',
    tag: 'Retained',
    result: objects(object({ ...retainedRow, encoding: { type: 'string', enum: ['plain', 'base64'] }, payload: text })),
    run: ({ server, params }) => {
      const message = server.clients.dispatcher.retained.get(params['topic']!)
      if (message === undefined) return { objects: [] }
      const { payload } = message
      const said = payload.toString('utf8')
      const isText = Buffer.from(said).equals(payload)
      const shown = isText
        ? { encoding: 'plain', payload: said }
        : { encoding: 'base64', payload: payload.toString('base64') }
      return { objects: [{ ...retainedOf(message), ...shown }] }
    }
  },
  {
    method: 'DELETE',
    path: `${api}/retained/:topic`,
    summary: 'Forget a retained message',
    tag: 'Retained',
    result: nothing,
    run: ({ server, params }) => {
      const topic = params['topic']!
      if (server.clients.dispatcher.retained.get(topic) === undefined)
        throw new Refusal(code.unknown, `Topic: ${topic} not found`)
      server.clients.forget(topic)
      return done
    }
  }
]

// ── plugins and alarms ───────────────────────────────────────────────────────

const alarmRow = ({ id, severity, title, details, raisedAt }: Alarm) => ({
  id,
  severity,
  title,
  summary: Object.entries(details)
    .map(([name, value]) => `${name}=${String(value)}`)
    .join(' '),
  occurred_at: localTime(raisedAt)
})
const alarm = { id: text, severity: text, title: text, summary: text, occurred_at: text }

const care: Route[] = [
  {
    method: 'GET',
    path: `${api}/nodes/:node_name/plugins`,
    summary: 'Plugins',
    tag: 'Plugins',
    result: listOf(
      object({ name: text, version: text, description: text, active: flag, trouble: text }, [
        'name',
        'version',
        'description',
        'active'
      ])
    ),
    run: async asked => {
      onlyNode(asked)
      return await asked.server.plugins.list()
    }
  },
  {
    method: 'PUT',
    path: `${api}/nodes/:node_name/plugins/:plugin_name`,
    summary: 'Load or unload a plugin',
    tag: 'Plugins',
    body: object({ active: flag }),
    result: nothing,
    run: async asked => {
      onlyNode(asked)
      const { server, params, body } = asked
      const name = params['plugin_name']!
      const { plugins } = server
      try {
        await (body.active ? plugins.load(name) : plugins.unload(name))
      } catch (err) {
        if (isCode(err, 'CONFLICT')) throw new Refusal(code.loaded, 'plugin has been loaded')
        if (isCode(err, 'NOT_FOUND') && err.message === 'not_started')
          throw new Refusal(code.unloaded, 'plugin has been unloaded')
        throw err
      }
      return done
    }
  },
  {
    method: 'GET',
    path: `${api}/nodes/:node_name/alarms`,
    summary: 'Alarms that last',
    tag: 'Alarms',
    result: listOf(object(alarm)),
    run: asked => {
      onlyNode(asked)
      return asked.server.alarms.list().map(alarmRow)
    }
  },
  {
    method: 'GET',
    path: `${api}/nodes/:node_name/alarms/history`,
    summary: 'The last alarms that are over',
    tag: 'Alarms',
    result: listOf(object({ ...alarm, cleared_at: text })),
    run: asked => {
      onlyNode(asked)
      return asked.server.alarms.history().map(a => ({ ...alarmRow(a), cleared_at: localTime(a.clearedAt!) }))
    }
  }
]

// ── bans ─────────────────────────────────────────────────────────────────────

const untilWhen: Schema = { type: ['integer', 'null'], description: 'seconds since 1970; null: for ever' }
const ban = { as: text, who: text, at: integer, until: untilWhen, reason: { type: ['string', 'null'] } }

const bans: Route[] = [
  {
    method: 'GET',
    path: `${api}/banned`,
    summary: 'Who may not connect',
    tag: 'Bans',
    result: listOf(object(ban)),
    run: ({ server }) => banned['banned list'].run(server, {})
  },
  {
    method: 'POST',
    path: `${api}/banned`,
    summary: 'Ban, and kick out',
    tag: 'Bans',
    body: object(
      {
        as: { type: 'string', enum: [...banKinds] },
        who: text,
        for: { type: 'string', description: 'how long: 30m, 1h, 7d' },
        until: { type: 'string', description: 'until when: 2027-01-31T18:00:00Z' },
        reason: text
      },
      ['as', 'who']
    ),
    result: object({ ...ban, kicked: integer }),
    run: ({ server, body }) => banned['banned add'].run(server, body)
  },
  {
    method: 'DELETE',
    path: `${api}/banned/:as/:who`,
    summary: 'Let it connect again',
    tag: 'Bans',
    result: nothing,
    run: async ({ server, params }) => {
      await banned['banned del'].run(server, { as: params['as']!, who: params['who']! })
      return done
    }
  }
]

// ── configuration ────────────────────────────────────────────────────────────

/** emqttd's name of the application that the broker's own keys belong to. */
const app = 'emqttd'

/** As emqttd names a value's kind, by how it is written. */
function kindOf(value: string): string {
  if (/^(true|false|on|off)$/.test(value)) return 'flag'
  if (/^\d+$/.test(value)) return 'integer'
  if (/^\d+\.\d+$/.test(value)) return 'float'
  if (/^\d+(\.\d+)?%$/.test(value)) return 'percent'
  if (/^\d+\s*[KMG]B$/i.test(value)) return 'bytesize'
  return /^(\d+(ms|s|m|h|d))+$/.test(value) ? 'duration' : 'string'
}

const reloadsOf = ({ reloads }: Server): Reload => {
  if (reloads === undefined) throw new Refusal(code.unknown, 'this broker has no files to read')
  return reloads
}

/** Keys in force, passwords masked. `datatpye` is emqttd's spelling. */
const configsOf = (server: Server) =>
  reloadsOf(server)
    .show()
    .filter(({ key }) => /^(node|log|mqtt|store|listener)\./.test(key))
    .map(({ key, value }) => ({ key, value: value ?? 'undefined', datatpye: kindOf(value ?? ''), app }))
const configSchema = listOf(object({ key: text, value: text, datatpye: text, app: text }))

const setConfig = async ({ server, params, body }: Asked): Promise<[]> => {
  if (params['app'] !== app) throw new Refusal(code.unknown, `no such app: ${params['app']}; there is ${app}`)
  await reloadsOf(server).set(body.key, body.value)
  return done
}
const setting = {
  method: 'PUT',
  tag: 'Configuration',
  body: object({ key: text, value: text }),
  result: nothing
} as const

const configs: Route[] = [
  {
    method: 'GET',
    path: `${api}/configs`,
    summary: 'Keys in force, by node',
    tag: 'Configuration',
    result: { type: 'object', additionalProperties: configSchema },
    run: ({ server }) => ({ [server.options.node.name]: configsOf(server) })
  },
  {
    method: 'GET',
    path: `${api}/nodes/:node_name/configs`,
    summary: 'Keys in force, of a node',
    tag: 'Configuration',
    result: configSchema,
    run: asked => {
      onlyNode(asked)
      return configsOf(asked.server)
    }
  },
  {
    ...setting,
    path: `${api}/configs/:app`,
    summary: 'Set a key until a restart or a reload',
    run: setConfig
  },
  {
    ...setting,
    path: `${api}/nodes/:node_name/configs/:app`,
    summary: 'Set a key until a restart or a reload, on a node',
    run: asked => {
      onlyNode(asked)
      return setConfig(asked)
    }
  },
  {
    method: 'GET',
    path: `${api}/nodes/:node_name/plugin_configs/:plugin_name`,
    summary: 'Keys of a plugin that is loaded',
    tag: 'Configuration',
    result: listOf(object({ key: text, value: text, desc: text, required: flag })),
    run: asked => {
      onlyNode(asked)
      const prefix = asked.params['plugin_name']!.replace(/^emqx?_/, '').replaceAll('_', '.')
      const keys = reloadsOf(asked.server).show(prefix)
      return keys.map(({ key, value }) => ({ key, value: value ?? 'undefined', desc: '', required: true }))
    }
  }
]

// ── users ────────────────────────────────────────────────────────────────────

const userSchema = object({ username: text, tags: text })

/** Gives `done`, or emqttd's codes for what is wrong with a user. */
async function user(work: () => void | Promise<void>): Promise<[]> {
  try {
    await work()
    return done
  } catch (err) {
    if (isCode(err, 'NOT_FOUND')) throw new Refusal(code.noSuchUser, 'no such user')
    if (isCode(err, 'CONFLICT')) throw new Refusal(code.userExists, 'user already exists')
    throw err
  }
}

function notEmpty(...values: string[]): void {
  if (values.includes('')) throw new Refusal(code.emptyPassword, 'empty username or password')
}

/** Tries a password as a login does, with its delays. */
async function prove({ login, address }: Asked, username: string, password: string, wrong: Refusal): Promise<void> {
  const verdict = await login.password(username, password, address)
  if (verdict === 'refused') throw wrong
  if (verdict !== true) throw new Refusal(code.badPassword, 'too many wrong passwords', verdict.waitSeconds)
}

const users: Route[] = [
  {
    method: 'POST',
    path: `${api}/auth`,
    summary: 'Whether a user name and a password are right',
    tag: 'Users',
    open: true,
    body: object({ username: text, password: text }),
    result: nothing,
    run: async asked => {
      const { username, password } = asked.body
      notEmpty(username, password)
      await prove(asked, username, password, new Refusal(code.badPassword, 'Password error'))
      return done
    }
  },
  {
    method: 'GET',
    path: `${api}/users`,
    summary: 'Users of this API',
    tag: 'Users',
    result: listOf(userSchema),
    run: ({ admins }) => admins.users()
  },
  {
    method: 'POST',
    path: `${api}/users`,
    summary: 'Add a user',
    tag: 'Users',
    body: object({ username: text, password: text, tags: { type: 'string', default: '' } }, ['username', 'password']),
    result: nothing,
    run: async ({ admins, body: { username, password, tags } }) => {
      notEmpty(username, password)
      return await user(() => admins.add(username, password, tags))
    }
  },
  {
    method: 'GET',
    path: `${api}/users/:username`,
    summary: 'A user',
    tag: 'Users',
    result: userSchema,
    run: ({ admins, params }) => {
      const found = admins.user(params['username']!)
      if (found === undefined) throw new Refusal(code.noSuchUser, 'no such user')
      return found
    }
  },
  {
    method: 'PUT',
    path: `${api}/users/:username`,
    summary: 'Change the tags of a user',
    tag: 'Users',
    body: object({ tags: text }),
    result: nothing,
    run: ({ admins, params, body }) => user(() => admins.setTags(params['username']!, body.tags))
  },
  {
    method: 'DELETE',
    path: `${api}/users/:username`,
    summary: 'Delete a user',
    tag: 'Users',
    result: nothing,
    run: ({ admins, params }) => {
      const username = params['username']!
      if (username === firstUser) throw new Refusal(code.adminStays, 'admin can not be deleted')
      return user(() => admins.remove(username))
    }
  },
  {
    method: 'PUT',
    path: `${api}/change_pwd/:username`,
    summary: 'Change the password of a user',
    tag: 'Users',
    body: object({ old_pwd: text, new_pwd: text }),
    result: nothing,
    run: async asked => {
      const { admins, params, body } = asked
      const username = params['username']!
      notEmpty(body.old_pwd, body.new_pwd)
      if (admins.user(username) === undefined) throw new Refusal(code.noSuchUser, 'no such user')
      await prove(asked, username, body.old_pwd, new Refusal(code.wrongOldPassword, 'old password error'))
      return await user(() => admins.setPassword(username, body.new_pwd))
    }
  }
]

// ── what watches the broker ──────────────────────────────────────────────────

const watching: Route[] = [
  {
    method: 'GET',
    path: '/status',
    summary: 'Whether the broker runs, in words',
    tag: 'Watching',
    open: 'status',
    always: true,
    gives: ['text/plain', text],
    run: ({ server }) => {
      const words = server.phase === 'running' ? 'is running' : `is ${server.phase}`
      return new Plain(`Node ${server.options.node.name} is started\nbroker ${words}`)
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
    run: ({ server }) => {
      const why = readiness(server)
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
    run: async ({ server }) => {
      const { text, type } = await figures(server)
      return new Plain(text, 200, type)
    }
  }
]

export const routes: readonly Route[] = [
  ...nodes,
  ...clients,
  ...messages,
  ...retained,
  ...care,
  ...bans,
  ...configs,
  ...users,
  ...watching
]
