/** Operations of the broker of this process, over its parts. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Access } from '../access/access.js'
import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import type { LogRoot } from '../base/log/log.js'
import type { ClientManager } from '../client/manager.js'
import type { BrokerOptions } from '../config/broker-keys.js'
import type { Session } from '../delivery/session/session.js'
import type { ManagedListener } from '../net/listener-info.js'
import type { Alarms } from '../observe/alarms.js'
import { Explain } from '../observe/explain/explain.js'
import { statsOf } from '../observe/stats.js'
import { Top } from '../observe/top.js'
import { TopicSample } from '../observe/topic-sample.js'
import type { Vm, VmFigures } from '../observe/vm.js'
import type { PluginHost } from '../plugins/host.js'
import { restoreFrom, type StoreMaintenance } from '../store/maintenance.js'
import { LocalListeners } from './local-listeners.js'
import type * as ops from './operations.js'
import {
  alarmRow,
  banRow,
  clientRow,
  connectionRow,
  retainedDetail,
  retainedRow,
  sessionLoad,
  sessionRow,
  subscriptionRow,
  traceRow
} from './rows.js'

/** The parts, and what the server says of itself. */
export interface LocalParts {
  /** Undefined for a broker inside another program that keeps no files. */
  readonly home: Home | undefined
  readonly log: LogRoot
  readonly clients: ClientManager
  readonly access: Access
  readonly alarms: Alarms
  readonly plugins: PluginHost
  readonly vm: Vm
  /** In force. */
  options(): BrokerOptions
  state(): Omit<ops.NodeState, 'node' | 'pid'>
  stop(mode: ops.StopMode, timeoutMs: number): Promise<void>
  listeners(): readonly ManagedListener[]
  /** Of the management API. */
  apiListeners(): readonly ManagedListener[]
  admins(): ops.AdminOperations | undefined
  config(): ops.ConfigOperations | undefined
  store(): StoreMaintenance | undefined
}

/** Bounds of the queues' lengths; no queue is as long as the last, unless mqtt.mqueue.max_length is raised. */
const lengths = [0, 1, 10, 100, 500, 1000, 10_000]
/** How many sessions are looked at, or retained messages removed, in one turn of the event loop. */
const aTurn = 500

export class LocalOperations implements ops.Operations {
  readonly #parts: LocalParts
  readonly #explain: Explain
  readonly listeners: LocalListeners
  readonly top: Top

  constructor(parts: LocalParts) {
    const { access, clients, log } = parts
    const { ingress, sessions } = clients
    this.#parts = parts
    this.#explain = new Explain({ access, ingress, sessions, online: id => clients.online(id) })
    this.listeners = new LocalListeners(parts)
    this.top = new Top(this, log)
  }

  readonly broker: ops.BrokerOperations = {
    state: () => ({ node: this.#node, pid: process.pid, ...this.#parts.state() }),
    stop: (mode, timeoutMs) => void this.#parts.stop(mode, timeoutMs),
    stats: () => statsOf(this.#clients.clientCount, this.#clients.sessions.size, this.#clients.dispatcher),
    metrics: () => this.#clients.metrics.standard(this.#clients.dispatcher.retained.size),
    losses: () => this.#clients.metrics.more(),
    counters: () => this.#clients.metrics.totals(),
    latency: () => this.#clients.metrics.latency,
    queues: async () => {
      const counts = new Array<number>(lengths.length + 1).fill(0)
      let sessions = 0
      let messages = 0
      for (const { queueLength } of this.#clients.sessions.each()) {
        const at = lengths.findIndex(most => queueLength <= most)
        counts[at === -1 ? lengths.length : at]!++
        messages += queueLength
        if (++sessions % aTurn === 0) await nextTurn()
      }
      return { sessions, messages, bounds: lengths, counts }
    }
  }

  readonly clients: ops.ClientOperations = {
    count: () => this.#clients.clientCount,
    ids: () => this.#clients.clientIds(),
    list: () => each(this.#clients.eachClient(), clientRow),
    traffic: () => this.#traffic(),
    isOnline: id => this.#clients.online(id) !== undefined,
    show: id => ({ ...clientRow(this.#clients.client(id)), session: sessionLoad(this.#clients.session(id)) }),
    kick: async id => {
      await this.#clients.kick(id)
      this.#log.info('client kicked', { clientId: id })
    },
    why: who => this.#clients.lastConnections(who).map(connectionRow),
    forgetVerdict: (id, topic) => this.#clients.forgetVerdict(id, topic)
  }

  readonly sessions: ops.SessionOperations = {
    count: () => this.#clients.sessions.size,
    list: kind => this.#sessionRows(kind),
    show: id => {
      const session = this.#clients.sessions.get(id)
      return session === undefined ? undefined : sessionRow(session, this.#clients.sessions.transient(id))
    }
  }

  readonly subscriptions: ops.SubscriptionOperations = {
    count: () => this.#clients.dispatcher.router.size,
    list: () => this.#subscriptionRows(this.#clients.sessions.each()),
    of: id => {
      const session = this.#clients.sessions.get(id)
      return session === undefined ? [] : [...this.#subscriptionRows([session])]
    },
    add: (clientId, filter, qos) => {
      this.#clients.subscribe(clientId, filter, qos)
      this.#log.info('subscription added', { clientId, filter, qos })
    },
    remove: (clientId, filter) => {
      this.#clients.unsubscribe(clientId, filter)
      this.#log.info('subscription deleted', { clientId, filter })
    }
  }

  readonly topics: ops.TopicOperations = {
    count: () => this.#clients.dispatcher.router.topics,
    list: () => each(this.#clients.dispatcher.router.filters(), topic => ({ topic, node: this.#node })),
    show: topic => (this.#clients.dispatcher.router.has(topic) ? [{ topic, node: this.#node }] : []),
    receivers: topic => {
      const { routes, groups } = this.#clients.dispatcher.router.match(topic)
      return routes.length + groups.length
    },
    sample: () => {
      const { ingress } = this.#clients
      const sample = new TopicSample()
      ingress.sample = sample
      return {
        get every() {
          return sample.every
        },
        end: most => sample.end(most),
        stop: () => {
          if (ingress.sample === sample) ingress.sample = undefined
        }
      }
    }
  }

  readonly retained: ops.RetainedOperations = {
    count: () => this.#clients.dispatcher.retained.size,
    list: () => each(this.#clients.dispatcher.retained.all(), retainedRow),
    show: topic => {
      const message = this.#clients.dispatcher.retained.get(topic)
      return message === undefined ? undefined : retainedDetail(message)
    },
    forget: topic => {
      const was = this.#clients.dispatcher.retained.get(topic) !== undefined
      if (was) this.#clients.forget(topic)
      return was
    },
    clean: async filter => {
      const { retained } = this.#clients.dispatcher
      let cleaned = 0
      for (const { topic } of filter === undefined ? retained.all() : retained.match(filter)) {
        this.#clients.forget(topic)
        if (++cleaned % aTurn === 0) await nextTurn()
      }
      this.#log.info('retained messages cleaned', { count: cleaned, ...(filter === undefined ? {} : { filter }) })
      return cleaned
    }
  }

  readonly messages: ops.MessageOperations = {
    publish: message => this.#clients.publish(message),
    why: question => this.#explain.whyMessage(question)
  }

  readonly access: ops.AccessOperations = {
    reloadAcl: () => this.#parts.access.reloadAcl(),
    explainAcl: (who, action, topic) => this.#explain.explainAcl(who, action, topic),
    tryLogin: (who, password) => this.#explain.tryLogin(who, password)
  }

  readonly bans: ops.BanOperations = {
    list: () => this.#parts.access.banned.list().map(banRow),
    add: async (as, who, terms) => {
      const ban = this.#parts.access.banned.add(as, who, terms)
      const kicked = await this.#clients.kickBanned(ban)
      const { until, reason } = ban
      const end = until === undefined ? {} : { until: new Date(until).toISOString() }
      this.#log.info('banned', { [ban.kind]: ban.who, ...end, ...(reason === undefined ? {} : { reason }), kicked })
      return { ...banRow(ban), kicked }
    },
    remove: (as, who) => {
      const ban = this.#parts.access.banned.remove(as, who)
      this.#log.info('ban is lifted', { [ban.kind]: ban.who })
      return { as: ban.kind, who: ban.who }
    }
  }

  get admins(): ops.AdminOperations {
    const admins = this.#parts.admins()
    if (admins === undefined) throw new BrokerError('UNAVAILABLE', 'this broker keeps no files, and so no users')
    return admins
  }

  readonly plugins: ops.PluginOperations = {
    list: () => this.#parts.plugins.list(),
    load: name => this.#parts.plugins.load(name),
    unload: name => this.#parts.plugins.unload(name),
    reload: name => this.#parts.plugins.reload(name),
    call: (name, action, args) => this.#parts.plugins.call(name, action, args)
  }

  get config(): ops.ConfigOperations {
    const config = this.#parts.config()
    if (config === undefined) throw new BrokerError('CONFLICT', 'this broker has no files to read')
    return config
  }

  readonly store: ops.StoreOperations = {
    summary: () => {
      const store = this.#parts.store()
      return store === undefined ? { type: 'memory', size: null } : { type: 'lmdb', size: store.size }
    },
    info: async () => await this.#store.info(),
    check: async () => await this.#store.check(),
    compact: async () => await this.#store.compact(),
    backup: async file => await this.#store.backup(file),
    restore: async file => {
      const { home } = this.#parts
      const { store } = this.#parts.options()
      if (home === undefined || store.type === 'memory') {
        throw new BrokerError('NOT_FOUND', 'There is no store: store.type = memory.')
      }
      return await restoreFrom(home.path(store.dir), file)
    }
  }

  readonly alarms: ops.AlarmOperations = {
    list: () => this.#parts.alarms.list().map(alarmRow),
    history: () => this.#parts.alarms.history().map(alarmRow)
  }

  readonly traces: ops.TraceOperations = {
    list: () => this.#clients.tracer.list().map(traceRow),
    start: async (kind, value, terms) => {
      const { home } = this.#parts
      if (home === undefined) throw new BrokerError('UNAVAILABLE', 'this broker keeps no files')
      return traceRow(await this.#clients.trace(kind, value, home.root, terms))
    },
    stop: (kind, value) => traceRow(this.#clients.tracer.stop(kind, value))
  }

  readonly log: ops.LogOperations = {
    targets: () => this.#log.targets(),
    setLevel: (level, target) => {
      const changed = this.#log.setLevel(level, target)
      if (changed.length > 0) {
        this.#log.info('log level set', { level, targets: changed.map(t => t.target).join(',') })
      }
      return changed
    },
    follow: sink => this.#log.add(sink)
  }

  readonly vm: VmFigures = {
    load: () => this.#parts.vm.load(),
    memory: () => this.#parts.vm.memory(),
    process: () => this.#parts.vm.process(),
    io: () => this.#parts.vm.io(),
    eventLoop: () => this.#parts.vm.eventLoop(),
    gc: () => this.#parts.vm.gc(),
    // Sockets, of which each is a file too.
    ports: async () => ({
      'ports/count': this.#clients.connectionCount + this.#parts.listeners().length,
      'ports/limit': (await this.#parts.vm.io())['io/max_fds']
    })
  }

  get #clients(): ClientManager {
    return this.#parts.clients
  }

  get #log(): LogRoot {
    return this.#parts.log
  }

  get #node(): string {
    return this.#parts.options().node.name
  }

  get #store(): StoreMaintenance {
    const store = this.#parts.store()
    if (store !== undefined) return store
    const isMemory = this.#parts.options().store.type === 'memory'
    const why = isMemory ? 'store.type = memory' : 'it could not be opened; see `alarms list`'
    throw new BrokerError('NOT_FOUND', `There is no store: ${why}.`)
  }

  *#traffic(): ops.Rows<ops.ClientTraffic> {
    for (const channel of this.#clients.eachChannel()) {
      const { connection, card } = channel
      const session = channel.session!
      yield {
        key: channel,
        client_id: card.clientId,
        username: card.identity!.client.username ?? null,
        peername: card.peername,
        published: session.published,
        delivered: session.delivered,
        received: connection.received,
        sent: connection.out.sent,
        dropped: session.dropped,
        queue: session.queueLength,
        inflight: session.inflightLength,
        unsent: connection.pendingBytes
      }
    }
  }

  *#sessionRows(kind: 'persistent' | 'transient' | undefined): ops.Rows<ops.SessionRow> {
    const { sessions } = this.#clients
    for (const session of sessions.each()) {
      const isTransient = sessions.transient(session.clientId)
      if (kind === undefined || isTransient === (kind === 'transient')) yield sessionRow(session, isTransient)
    }
  }

  *#subscriptionRows(sessions: Iterable<Session>): ops.Rows<ops.SubscriptionRow> {
    for (const { subscriptions } of sessions) {
      for (const subscription of subscriptions.values()) yield subscriptionRow(subscription)
    }
  }
}

function* each<T, R>(all: Iterable<T>, row: (one: T) => R): ops.Rows<R> {
  for (const one of all) yield row(one)
}
