/**
 * What no single key of etc/broker.conf shows: values that do not go together, and the keys of emqttd's emq.conf that
 * mean nothing here, each with the reason. A file is checked only when each of its keys is right by itself.
 */
import { apisOf, type BrokerOptions, type brokerSchema, listenersOf } from './broker-keys.js'
import type { ReadOptions } from './schema.js'
import { showAddress } from './values.js'

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
