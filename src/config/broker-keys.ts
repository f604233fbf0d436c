/**
 * Every key of etc/broker.conf: emqttd's names wherever emqttd had one. The
 * shipped file documents each; a test keeps the two equal.
 */
import { isTopicName } from '../wire/topic.js'
import { type Given, named, type Options as OptionsOf, type ReadOptions } from './schema.js'
import {
  address,
  decimal,
  duration,
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
  showAddress,
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
  bind: own(address()),
  maxClients: integer(102400, { min: 1 }),
  access: named(accessRule),
  mountpoint: key(raw => (/[+#\0]/.test(raw) ? expected('a part of a topic, without wildcards', raw) : raw), ''),
  rateLimit: optional(rateLimit),
  proxyProtocol: flag(false),
  proxyProtocolTimeout: duration('3s'),
  backlog: integer(1024, { min: 1, max: 65535 }),
  sendTimeout: duration('15s'),
  sendTimeoutClose: flag(true),
  nodelay: flag(true)
}

const tls = {
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
}

const webSocket = {
  path: key(raw => (raw.startsWith('/') ? raw : expected('a path that begins with /', raw)), '/mqtt'),
  proxyAddressHeader: optional(word()),
  proxyPortHeader: optional(word()),
  trustedProxies: list(network(), '127.0.0.1,::1')
}

/** What may be asked of the management API without a login. */
export const openPages = ['status', 'healthz', 'readyz', 'metrics', 'openapi'] as const

const api = {
  bind: own(address()),
  maxClients: integer(64, { min: 1 }),
  access: named(accessRule),
  certfile: optional(text()),
  keyfile: optional(text()),
  public: list(oneOf(openPages), 'status,healthz,readyz'),
  allowOrigins: list(word(), '')
}

const logFile = (file: string) => ({
  file: text(file),
  size: size('10MB', { min: 1024 }),
  count: integer(5, { min: 1, max: 1000 })
})

export const brokerSchema = {
  node: {
    name: key(raw => (/^[\w.-]+@[\w.:-]+$/.test(raw) ? raw : expected('name@host', raw)), 'broker@127.0.0.1')
  },
  log: {
    messagesPerSecond: integer(100),
    console: {
      to: own(oneOf(['off', 'file', 'console', 'both'], 'file')),
      level: oneOf(['debug', 'info', 'warning', 'error', 'critical'], 'info'),
      format: oneOf(['text', 'json'], 'text'),
      ...logFile('log/broker.log')
    },
    error: logFile('log/error.log'),
    crash: { file: text('log/crash.log') }
  },
  mqtt: {
    allowAnonymous: oneOf(['local', 'true', 'false'], 'local'),
    aclNomatch: oneOf(['allow', 'deny'], 'allow'),
    aclFile: text('etc/acl.conf'),
    aclDenyAction: oneOf(['ignore', 'disconnect'], 'ignore'),
    cacheAcl: flag(true),
    aclCache: { ttl: duration('1m'), maxSize: integer(64, { min: 1, max: 65536 }) },
    maxClientidLen: integer(1024, { min: 23, max: 65535 }),
    maxPacketSize: size('1MB', { min: 64, max: 268_435_460 }),
    keepaliveBackoff: decimal(0.75, { min: 0.5, max: 10 }),
    websocketProtocolHeader: flag(true),
    maxTopicLevels: integer(128, { min: 1, max: 65535 }),
    maxTopicAlias: integer(100, { min: 0, max: 65535 }),
    maxKeepalive: duration('0s'),
    checkPayloadFormat: flag(false),
    client: { idleTimeout: duration('30s'), maxPublishRate: publishRate },
    broker: { sysInterval: duration('1m') },
    session: {
      maxSubscriptions: integer(0),
      maxInflight: integer(32, { min: 0, max: 65535 }),
      retryInterval: duration('20s'),
      maxAwaitingRel: integer(1000, { min: 1, max: 65535 }),
      awaitRelTimeout: duration('0s'),
      expiryInterval: duration('2h'),
      ignoreLoopDeliver: flag(false),
      upgradeQos: flag(false)
    },
    mqueue: {
      type: oneOf(['simple', 'priority'], 'simple'),
      priority: optional(priorities),
      maxLength: integer(1000),
      lowWatermark: percent('20%'),
      highWatermark: percent('60%'),
      storeQos0: flag(true)
    },
    retain: {
      maxMessageNum: integer(1_000_000),
      maxPayloadSize: size('1MB'),
      expiryInterval: duration('0s')
    },
    sharedSubscriptionStrategy: oneOf(['random', 'round_robin', 'sticky', 'hash_clientid', 'hash_topic'], 'random'),
    plugins: { etcDir: text('etc/plugins/'), loadedFile: text('data/loaded_plugins') }
  },
  store: {
    type: oneOf(['lmdb', 'memory'], 'lmdb'),
    dir: text('data/store'),
    required: flag(false),
    sync: oneOf(['commit', 'interval', 'off'], 'commit'),
    syncInterval: duration('1s')
  },
  listener: {
    tcp: named({ ...common, peerCertAsUsername: peerName }),
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

/** What no single key shows. */
function check(options: BrokerOptions, report: (key: string, message: string) => void): void {
  const { type, priority, lowWatermark, highWatermark } = options.mqtt.mqueue
  if (priority !== undefined && type !== 'priority') {
    report('mqtt.mqueue.priority', 'has no effect without mqtt.mqueue.type = priority')
  }
  if (lowWatermark > highWatermark) report('mqtt.mqueue.low_watermark', 'is above mqtt.mqueue.high_watermark')
  const { maxKeepalive } = options.mqtt
  if (maxKeepalive > 0 && (maxKeepalive < 1000 || maxKeepalive > 65_535_000)) {
    report('mqtt.max_keepalive', 'expected 0s, or from 1s to 65535s')
  }
  const all = listenersOf(options)
  if (all.length === 0) report('listener', 'no listener is configured; add one, such as listener.tcp.external = 1883')
  const bound = new Map<string, string>()
  for (const { transport, name, bind, tls, proxyProtocol, webSocket, peerCertAsUsername } of all) {
    const at = `listener.${transport}.${name}`
    const where = showAddress(bind)
    const other = bind.port === 0 ? undefined : bound.get(where)
    if (other !== undefined) report(at, `${where} is taken by ${other}`)
    bound.set(where, at)
    if (tls?.verify === 'verify_peer' && tls.cacertfile === undefined) {
      report(`${at}.verify`, `verify_peer needs ${at}.cacertfile: whose certificates are to be trusted?`)
    }
    if (tls?.failIfNoPeerCert === true && tls.verify !== 'verify_peer') {
      report(`${at}.fail_if_no_peer_cert`, `has no effect without ${at}.verify = verify_peer`)
    }
    if (peerCertAsUsername !== undefined && tls?.verify !== 'verify_peer' && !proxyProtocol) {
      report(
        `${at}.peer_cert_as_username`,
        transport === 'tcp'
          ? `needs ${at}.proxy_protocol = on: only a proxy can tell the certificate's name here`
          : `needs ${at}.verify = verify_peer: an unchecked certificate proves no name`
      )
    }
    if (webSocket?.proxyPortHeader !== undefined && webSocket.proxyAddressHeader === undefined) {
      report(`${at}.proxy_port_header`, `has no effect without ${at}.proxy_address_header`)
    }
  }
  for (const { name, bind, certfile, keyfile } of apisOf(options)) {
    const at = `listener.api.${name}`
    const where = showAddress(bind)
    const other = bind.port === 0 ? undefined : bound.get(where)
    if (other !== undefined) report(at, `${where} is taken by ${other}`)
    bound.set(where, at)
    if ((certfile === undefined) !== (keyfile === undefined)) {
      const [is, lacks] = certfile === undefined ? ['keyfile', 'certfile'] : ['certfile', 'keyfile']
      report(`${at}.${is}`, `has no effect without ${at}.${lacks}`)
    }
  }
}

/** Keys that emq.conf has and that mean nothing here, with the reason. */
const foreign: readonly [RegExp, string][] = [
  [/^node\./, "a setting of the Erlang VM or of emqttd's cluster; remove the line"],
  [/^cluster\./, 'this broker is one node; remove the line'],
  [/^(sysmon|vm)\./, 'watches the Erlang VM; remove the line'],
  [/^mqtt\.(pubsub|bridge|conn)\./, "emqttd's inner workings; remove the line"],
  [/^mqtt\.(client|session)\.enable_stats$/, 'statistics are always on; remove the line'],
  [/^log\.dir$/, 'each log.*.file names its own path; remove the line'],
  [/^log\.crash$/, 'always on, in log.crash.file; remove the line'],
  [/^log\.error\.messages_per_second$/, 'log.messages_per_second limits repeated lines; remove this one'],
  [/^log\.(syslog|info|error\.redirect)/, 'not kept here; remove the line'],
  [
    /^listener\.api\.[\w-]+\.(acceptors|backlog|handshake_timeout|cacertfile|verify|fail_if_no_peer_cert)$/,
    'not here for the management API; remove the line'
  ],
  [/^listener\.\w+\.[\w-]+\.acceptors$/, 'one event loop accepts here; remove the line'],
  [
    /^listener\.\w+\.[\w-]+\.(recbuf|sndbuf|buffer|tune_buffer)$/,
    'Node.js leaves the buffers to the system; remove the line'
  ],
  [/^listener\.\w+\.[\w-]+\.reuseaddr$/, 'always on; remove the line'],
  [/^listener\.\w+\.[\w-]+\.secure_renegotiate$/, 'Node.js never lets a client renegotiate; remove the line'],
  [/^listener\.\w+\.[\w-]+\.zone$/, 'had no effect in emqttd either; remove the line']
]

/** How etc/broker.conf is read: with the environment, its cross-checks and words for emqttd's own keys. */
export const brokerConf: ReadOptions<typeof brokerSchema> = {
  env: process.env,
  check,
  explain: name => foreign.find(([pattern]) => pattern.test(name))?.[1]
}
