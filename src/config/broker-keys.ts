/**
 * Every key of etc/broker.conf: what it is, and when a change of it takes effect, for
 * `reload`, `set`, `show` and docs/configuration.md. The names are emqttd's wherever
 * emqttd had one. The shipped file documents each; a test keeps the two equal.
 */
import { isTopicName } from '../wire/topic.js'
import { now, onConnect, onRestart } from './effect.js'
import { describeKeys, type Given, named, type Options as OptionsOf } from './schema.js'
import {
  address,
  decimal,
  duration,
  type Effect,
  expected,
  flag,
  integer,
  key,
  list,
  type Network,
  network,
  oneOf,
  optional,
  own,
  parseNetwork,
  percent,
  size,
  text,
  word
} from './values.js'

/** `allow all`, `deny 10.0.0.0/8`: asked in the order of their numbers when a peer connects. */
export interface AccessRule {
  readonly allow: boolean
  /** Undefined: everybody. */
  readonly from: Network | undefined
}

const accessRule = key((raw): AccessRule => {
  const [, verdict, who] = /^(allow|deny)\s+(\S+)$/.exec(raw) ?? expected('allow | deny, then all or a network', raw)
  return { allow: verdict === 'allow', from: who === 'all' ? undefined : parseNetwork(who!) }
})

/** emqttd's `burst,rate` in KB and KB/s: how fast one connection is read. */
const rateLimit = key(raw => {
  const [, burst, rate] = /^(\d+)\s*,\s*(\d+)$/.exec(raw) ?? expected('burst,rate in KB such as 100,10', raw)
  if (Number(burst) === 0 || Number(rate) === 0) expected('burst and rate above 0', raw)
  return { burst: Number(burst) * 1024, perSecond: Number(rate) * 1024 }
})

/** emqttd's one number, a second, or `burst,rate`; undefined is no limit. */
const publishRate = key(raw => {
  const [, first, second = first] = /^(\d+)(?:\s*,\s*(\d+))?$/.exec(raw) ?? expected('a number or burst,rate', raw)
  if (raw === '0') return undefined
  if (Number(first) === 0 || Number(second) === 0) expected('burst and rate above 0', raw)
  return { burst: Number(first), perSecond: Number(second) }
}, '0')

/** emqttd's `topic/1=10,topic2=8`. */
const priorities = key((raw): ReadonlyMap<string, number> => {
  const pairs = raw.split(',').map(part => {
    const [, topic, n] =
      /^(.+)=(\d+)$/.exec(part.trim()) ?? expected('topics with a number each, topic/1=10,topic2=8', raw)
    if (!isTopicName(topic!)) expected('a topic without wildcards', topic!)
    const priority = Number(n)
    return priority >= 1 && priority <= 255 ? ([topic!, priority] as const) : expected('a priority from 1 to 255', n!)
  })
  const topics = new Map(pairs)
  return topics.size === pairs.length ? topics : expected('each topic once', raw)
})

const peerName = optional(oneOf(['cn', 'dn']))

const common = {
  bind: now(own(address())),
  maxClients: now(integer(102400, { min: 1 })),
  access: onConnect(named(accessRule)),
  mountpoint: onConnect(
    key(raw => (/[+#\0]/.test(raw) ? expected('a part of a topic, without wildcards', raw) : raw), '')
  ),
  rateLimit: onConnect(optional(rateLimit)),
  proxyProtocol: onConnect(flag(false)),
  proxyProtocolTimeout: onConnect(duration('3s')),
  backlog: now(integer(1024, { min: 1, max: 65535 })),
  sendTimeout: onConnect(duration('15s')),
  sendTimeoutClose: onConnect(flag(true)),
  nodelay: onConnect(flag(true))
}

const tls = onConnect({
  certfile: text('etc/certs/cert.pem'),
  keyfile: text('etc/certs/key.pem'),
  cacertfile: optional(text()),
  dhfile: optional(text()),
  verify: oneOf(['verify_none', 'verify_peer'], 'verify_none'),
  failIfNoPeerCert: flag(false),
  peerCertAsUsername: peerName,
  tlsVersions: list(oneOf(['tlsv1', 'tlsv1.1', 'tlsv1.2', 'tlsv1.3']), 'tlsv1.3,tlsv1.2'),
  ciphers: optional(text()),
  honorCipherOrder: flag(true),
  reuseSessions: flag(true),
  handshakeTimeout: duration('15s')
})

const webSocket = onConnect({
  path: key(raw => (raw.startsWith('/') ? raw : expected('a path that begins with /', raw)), '/mqtt'),
  proxyAddressHeader: optional(word()),
  proxyPortHeader: optional(word()),
  trustedProxies: list(network(), '127.0.0.1,::1')
})

/** What may be asked of the management API without a login. */
export const openPages = ['status', 'healthz', 'readyz', 'metrics', 'openapi'] as const

const api = {
  bind: now(own(address())),
  maxClients: now(integer(64, { min: 1 })),
  access: onConnect(named(accessRule)),
  certfile: onConnect(optional(text())),
  keyfile: onConnect(optional(text())),
  public: now(list(oneOf(openPages), 'status,healthz,readyz')),
  allowOrigins: now(list(word(), ''))
}

const logFile = (file: string) =>
  now({
    file: text(file),
    size: size('10MB', { min: 1024 }),
    count: integer(5, { min: 1, max: 1000 })
  })

export const brokerSchema = {
  node: {
    name: onRestart(
      'clients and $SYS topics know the node by it',
      key(raw => (/^[\w.-]+@[\w.:-]+$/.test(raw) ? raw : expected('name@host', raw)), 'broker@127.0.0.1')
    )
  },
  log: {
    messagesPerSecond: now(integer(100)),
    console: {
      to: now(own(oneOf(['off', 'file', 'console', 'both'], 'file'))),
      level: now(oneOf(['debug', 'info', 'warning', 'error', 'critical'], 'info')),
      format: now(oneOf(['text', 'json'], 'text')),
      ...logFile('log/broker.log')
    },
    error: logFile('log/error.log'),
    crash: onRestart('what keeps the process writes it', { file: text('log/crash.log') })
  },
  mqtt: {
    allowAnonymous: onConnect(oneOf(['local', 'true', 'false'], 'local')),
    aclNomatch: now(oneOf(['allow', 'deny'], 'allow')),
    aclFile: now(text('etc/acl.conf')),
    aclDenyAction: now(oneOf(['ignore', 'disconnect'], 'ignore')),
    cacheAcl: now(flag(true)),
    aclCache: onConnect({ ttl: duration('1m'), maxSize: integer(64, { min: 1, max: 65536 }) }),
    maxClientidLen: onConnect(integer(1024, { min: 23, max: 65535 })),
    maxPacketSize: onConnect(size('1MB', { min: 64, max: 268_435_460 })),
    keepaliveBackoff: onConnect(decimal(0.75, { min: 0.5, max: 10 })),
    websocketProtocolHeader: onConnect(flag(true)),
    maxTopicLevels: onConnect(integer(128, { min: 1, max: 65535 })),
    maxTopicAlias: onConnect(integer(100, { min: 0, max: 65535 })),
    maxKeepalive: onConnect(duration('0s')),
    checkPayloadFormat: onConnect(flag(false)),
    client: onConnect({ idleTimeout: duration('30s'), maxPublishRate: publishRate }),
    broker: now({ sysInterval: duration('1m') }),
    session: {
      maxSubscriptions: onConnect(integer(0)),
      maxInflight: onConnect(integer(32, { min: 0, max: 65535 })),
      retryInterval: now(duration('20s')),
      maxAwaitingRel: onConnect(integer(1000, { min: 1, max: 65535 })),
      awaitRelTimeout: now(duration('0s')),
      expiryInterval: onConnect(duration('2h')),
      ignoreLoopDeliver: now(flag(false)),
      upgradeQos: now(flag(false))
    },
    mqueue: now({
      type: oneOf(['simple', 'priority'], 'simple'),
      priority: optional(priorities),
      maxLength: integer(1000),
      lowWatermark: percent('20%'),
      highWatermark: percent('60%'),
      storeQos0: flag(true)
    }),
    retain: now({
      maxMessageNum: integer(1_000_000),
      maxPayloadSize: size('1MB'),
      expiryInterval: duration('0s')
    }),
    sharedSubscriptionStrategy: now(
      oneOf(['random', 'round_robin', 'sticky', 'hash_clientid', 'hash_topic'], 'random')
    ),
    plugins: onRestart('the loaded plugins came from there', {
      etcDir: text('etc/plugins/'),
      loadedFile: text('data/loaded_plugins')
    })
  },
  store: onRestart('the store is open', {
    type: oneOf(['lmdb', 'memory'], 'lmdb'),
    dir: text('data/store'),
    required: flag(false),
    sync: oneOf(['commit', 'interval', 'off'], 'commit'),
    syncInterval: duration('1s')
  }),
  listener: {
    tcp: named({ ...common, peerCertAsUsername: onConnect(peerName) }),
    ssl: named({ ...common, ...tls }),
    ws: named({ ...common, ...webSocket }),
    wss: named({ ...common, ...tls, ...webSocket }),
    api: named(api)
  }
}

export type BrokerOptions = OptionsOf<typeof brokerSchema>
export type GivenBrokerOptions = Given<typeof brokerSchema>
export type MqttOptions = BrokerOptions['mqtt']
export type LogOptions = BrokerOptions['log']

/** Of those that speak MQTT. */
export type Transport = Exclude<keyof BrokerOptions['listener'], 'api'>
type Common = OptionsOf<typeof common> & { readonly peerCertAsUsername?: 'cn' | 'dn' | undefined }
export type TlsOptions = OptionsOf<typeof tls>
export type WebSocketOptions = OptionsOf<typeof webSocket>

/** One listener, whatever its transport; `tls` and `webSocket` are there when its transport has them. */
export interface ListenerOptions extends Common {
  readonly transport: Transport
  /** The operator's name: `external`. */
  readonly name: string
  readonly tls: TlsOptions | undefined
  readonly webSocket: WebSocketOptions | undefined
}

export interface ApiOptions extends OptionsOf<typeof api> {
  readonly name: string
}

/** The listeners of the management API. */
export const apisOf = ({ listener }: BrokerOptions): ApiOptions[] =>
  [...listener.api].map(([name, options]) => ({ ...options, name }))

/** Every configured listener of MQTT, in the order tcp, ssl, ws, wss. */
export function listenersOf({ listener }: BrokerOptions): ListenerOptions[] {
  return (['tcp', 'ssl', 'ws', 'wss'] as const).flatMap(transport =>
    [...listener[transport]].map(([name, options]) => ({
      ...options,
      transport,
      name,
      tls: 'certfile' in options ? options : undefined,
      webSocket: 'path' in options ? options : undefined
    }))
  )
}

/** `listener.ws.external.access.1` is `listener.T.N.access.<n>`: as docs/configuration.md has it. */
export const inTable = (key: string): string =>
  key
    .replace(/^listener\.api\.[^.]+/, 'listener.api.N')
    .replace(/^listener\.(?!api\.)\w+\.[^.]+/, 'listener.T.N')
    .replace(/^(listener\.\w+\.N\.access)\..*/, '$1.<n>')

/** Of every key, as inTable() has it. */
export const effects: ReadonlyMap<string, Effect | undefined> = new Map(
  describeKeys(brokerSchema).map(({ key, effect }) => [inTable(key), effect])
)

/** When a change takes effect. @param key as a file has it, or with the stars of keysOf(). */
export const effectOf = (key: string): Effect =>
  effects.get(inTable(key)) ?? { restart: 'it cannot be changed while the broker runs' }
