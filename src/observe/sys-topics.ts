/**
 * What the broker publishes about itself under $SYS/brokers, as emqttd does: uptime and
 * time every second, stats and metrics at each interval, and clients that come and go at once.
 * These messages take the usual way through the data plane, so that acl.conf decides
 * who reads them; they do not count in the metrics that they tell.
 */

import type { ClientInfo } from '../base/client-info.js'
import { description, localTime, uptime } from '../base/uptime.js'
import type { Ingress } from '../delivery/ingress.js'
import { Message } from '../delivery/message.js'
import type { Hooks } from '../plugins/hooks.js'
import type { Alarm } from './alarms.js'
import type { Stats } from './stats.js'

export interface SysOptions {
  readonly node: string
  readonly version: string
  readonly startedAt: Date
  /** Milliseconds; 0 leaves everything out but the clients that come and go. */
  readonly interval: number
}

const owner = '$SYS'
const heartbeatMs = 1000
/** emqttd's module.presence.qos. */
const presenceQos = 1

export class SysTopics {
  readonly #options: SysOptions
  readonly #ingress: Ingress
  readonly #stats: () => Stats
  readonly #hooks: Hooks
  readonly #root: string
  #interval = 0
  readonly #timers: NodeJS.Timeout[] = []

  constructor(options: SysOptions, ingress: Ingress, stats: () => Stats, hooks: Hooks) {
    this.#options = options
    this.#ingress = ingress
    this.#stats = stats
    this.#hooks = hooks
    this.#root = `$SYS/brokers/${options.node}`
  }

  /** Another interval from now on. */
  reconfigure(interval: number): void {
    if (interval === this.#interval) return
    this.#interval = interval
    for (const timer of this.#timers.splice(0)) clearInterval(timer)
    if (interval === 0) return
    this.#timers.push(
      setInterval(() => this.#heartbeat(), heartbeatMs).unref(),
      setInterval(() => this.#tell(), interval).unref()
    )
  }

  start(): void {
    this.reconfigure(this.#options.interval)
    const scope = this.#hooks.scope(owner)
    scope.on('client.connected', client => this.#came(client, 0))
    scope.on('client.refused', (client, code) => this.#came(client, code))
    scope.on('client.disconnected', ({ clientId, username }, reason) => {
      const said = { clientid: clientId, username: username ?? 'undefined', reason, ts: seconds() }
      this.#tellOf(`clients/${inTopic(clientId)}/disconnected`, said)
    })
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer)
    this.#hooks.release(owner)
  }

  /** An alarm has been raised. */
  alert({ id, severity, title, details }: Alarm): void {
    const summary = Object.entries(details)
      .map(([name, value]) => `${name}=${String(value)}`)
      .join(' ')
    const said = { id, severity, title, summary, ts: seconds() }
    this.publish(`alarms/${inTopic(id)}/alert`, JSON.stringify(said))
  }

  /** It is over. */
  clear({ id }: Alarm): void {
    this.publish(`alarms/${inTopic(id)}/clear`, JSON.stringify({ id, ts: seconds() }))
  }

  /** Of a client, in a topic of its own: mostly nobody wants to know, and then it costs next to nothing. */
  #tellOf(topic: string, said: object): void {
    const { dispatcher } = this.#ingress
    const whole = `${this.#root}/${topic}`
    const match = dispatcher.router.matchOnce(whole)
    if (match.routes.length === 0 && match.groups.length === 0) return
    const message = Message.of(whole, Buffer.from(JSON.stringify(said)), { qos: presenceQos })
    message.counts = 0
    this.#ingress.accept(message, match)
  }

  /** @param topic behind `$SYS/brokers/<node>/`. */
  publish(topic: string, payload: string, options: { qos?: 0 | 1; retain?: boolean } = {}): void {
    this.#publish(`${this.#root}/${topic}`, payload, options)
  }

  #publish(topic: string, payload: string, options: { qos?: 0 | 1; retain?: boolean } = {}): void {
    const message = Message.of(topic, Buffer.from(payload), options)
    message.counts = 0
    this.#ingress.accept(message)
  }

  #heartbeat(): void {
    const now = new Date()
    this.publish('uptime', uptime(Math.floor((now.getTime() - this.#options.startedAt.getTime()) / 1000)))
    this.publish('datetime', localTime(now))
  }

  #tell(): void {
    const { node, version } = this.#options
    const retain = true
    this.#publish('$SYS/brokers', node, { retain })
    this.publish('version', version, { retain })
    this.publish('sysdescr', description, { retain })
    const { metrics, retained } = this.#ingress.dispatcher
    for (const [name, n] of Object.entries(this.#stats())) this.publish(`stats/${name}`, String(n))
    for (const [name, n] of Object.entries(metrics.standard(retained.size))) {
      this.publish(`metrics/${name}`, String(n))
    }
  }

  #came({ clientId, username, peer, cleanSession, protocolVersion }: ClientInfo, connack: number): void {
    const said = {
      clientid: clientId,
      username: username ?? 'undefined',
      ipaddress: peer.address,
      clean_sess: cleanSession,
      protocol: protocolVersion,
      connack,
      ts: seconds()
    }
    this.#tellOf(`clients/${inTopic(clientId)}/connected`, said)
  }
}

const seconds = (): number => Math.floor(Date.now() / 1000)

/** A client id may have what a topic must not [MQTT-3.3.2-2]. */
const inTopic = (clientId: string): string =>
  clientId.replace(/[+#\u0000]/g, c => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`)
