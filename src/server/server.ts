/**
 * The running broker: every part, in the order in which they depend on each
 * other. start() goes from top to bottom and stop() undoes from bottom to top. The
 * lock and the admin socket come first, since holding them is what makes this the
 * only instance of its home; listeners come last, so that nobody arrives before the
 * plugins that must judge him.
 */
import { hostname } from 'node:os'
import { Access } from '../access/access.js'
import { serveAdmin } from '../admin/server.js'
import { BrokerError } from '../base/errors.js'
import { type Home, version } from '../base/home.js'
import { jsonRecordsIn } from '../base/json-records.js'
import { lock } from '../base/lock.js'
import type { LogRoot, Sink } from '../base/log/log.js'
import { ClientManager, type Kept } from '../client/manager.js'
import { commands } from '../commands/index.js'
import {
  apisOf,
  type BrokerOptions,
  type ListenerOptions,
  type LogOptions,
  listenersOf
} from '../config/broker-keys.js'
import { Management } from '../mgmt/management.js'
import { ensureCertificates } from '../net/certificates.js'
import { Listener, type ListenerContext } from '../net/listener.js'
import { Alarms } from '../observe/alarms.js'
import { Explain } from '../observe/explain/explain.js'
import { type Stats, statsOf } from '../observe/stats.js'
import { SysTopics } from '../observe/sys-topics.js'
import { Top } from '../observe/top.js'
import { Vm } from '../observe/vm.js'
import { Hooks } from '../plugins/hooks.js'
import { PluginHost, type ProvidedPlugin, pluginPaths } from '../plugins/host.js'
import { restoreFrom, StoreMaintenance } from '../store/maintenance.js'
import { openStore } from '../store/open.js'
import { PluginStorage } from '../store/plugin-storage.js'
import { usualTimes } from '../store/write-queue.js'
import { Reload } from './reload.js'
import type { Settings } from './settings.js'

/** `drain`: what was written goes out first; `fast`: it does not. */
export type StopMode = 'drain' | 'fast'

export interface ServerOptions {
  readonly settings: Settings
  /** Undefined for a broker inside another program that keeps no files and no admin socket. */
  readonly home: Home | undefined
  readonly log: LogRoot
  /** What `log.*` asks for, where that may change while the broker runs. */
  readonly sinks?: (options: LogOptions) => Sink[]
  /** Plugins that the embedding program brings itself, with their options. */
  readonly plugins?: readonly ProvidedPlugin[]
  /** In place of the usual one. */
  readonly openStore?: typeof openStore
}

export type Phase = 'starting' | 'running' | 'stopping'

type Undo = () => void | Promise<void>

export class Server {
  readonly version = version
  readonly startedAt = new Date()
  /** In force. */
  options: BrokerOptions
  readonly home: Home | undefined
  readonly log: LogRoot
  readonly hooks: Hooks
  readonly access: Access
  readonly alarms: Alarms
  readonly clients: ClientManager
  readonly explain: Explain
  readonly sys: SysTopics
  readonly vm = new Vm()
  readonly top = new Top(this)
  readonly plugins: PluginHost
  listeners: readonly Listener[]
  /** Undefined without a home. */
  reloads: Reload | undefined
  /** Undefined without a home, which has its users. */
  readonly management: Management | undefined
  #store: StoreMaintenance | undefined
  #phase: Phase = 'starting'
  readonly #undo: Undo[] = []
  #stopping: Promise<void> | undefined
  #isStopped = (): void => {}
  /** Resolves when the broker has stopped, whoever asked it to. */
  readonly stopped = new Promise<void>(resolve => {
    this.#isStopped = resolve
  })

  private constructor(
    parts: Pick<
      Server,
      'options' | 'home' | 'log' | 'hooks' | 'access' | 'alarms' | 'clients' | 'sys' | 'plugins' | 'listeners'
    >
  ) {
    this.options = parts.options
    this.home = parts.home
    this.log = parts.log
    this.hooks = parts.hooks
    this.access = parts.access
    this.alarms = parts.alarms
    this.clients = parts.clients
    const { ingress, sessions } = parts.clients
    this.explain = new Explain({ access: parts.access, ingress, sessions, online: id => this.clients.online(id) })
    this.sys = parts.sys
    this.plugins = parts.plugins
    this.listeners = parts.listeners
    this.management = parts.home === undefined ? undefined : new Management(this, parts.home)
  }

  static async start({
    settings,
    home,
    log,
    sinks,
    plugins: brought = [],
    openStore: open = openStore
  }: ServerOptions): Promise<Server> {
    const { options, loadAcl } = settings
    if (home === undefined && options.listener.api.size > 0) {
      throw new BrokerError('CONFIG_INVALID', 'listener.api: the management API needs a home, where its users are kept')
    }
    const unlock = home === undefined ? () => {} : hold(home, options.node.name)
    let server: Server | undefined
    try {
      const hooks = new Hooks(log)
      const access = new Access(options.mqtt, loadAcl, hooks, log)
      const path = home?.path ?? ((file: string) => file)
      if (home !== undefined) access.banned.open(jsonRecordsIn(home.path('data/banned.json')))
      if (home !== undefined) await makeCertificates(options, home, log)
      const alarms = new Alarms(log)
      const kept = home === undefined ? undefined : await openKept(options.store, home, alarms, open)
      const clients = await ClientManager.create(options.mqtt, access, hooks, log, alarms, kept)
      const spaces = new PluginStorage()
      const plugins = new PluginHost(
        {
          ...pluginPaths(path, options.mqtt.plugins),
          version,
          spaces,
          env: process.env,
          changed: () => access.forgetVerdicts()
        },
        hooks,
        log
      )
      const mqtt = (): BrokerOptions['mqtt'] => (server?.options ?? options).mqtt
      const context: ListenerContext = {
        establish: (transport, origin) => clients.establish(transport, origin),
        banned: address => access.banned.findAddress(address) !== undefined,
        turnedAway: (...whom) => clients.history.turnedAway(...whom),
        path,
        log,
        get needsSubprotocol() {
          return mqtt().websocketProtocolHeader
        },
        get maxPacketSize() {
          return mqtt().maxPacketSize
        }
      }
      const listener = (of: ListenerOptions): Listener => new Listener(of, context)
      const listeners = listenersOf(options).map(listener)
      const about = { node: options.node.name, version, interval: options.mqtt.broker.sysInterval }
      const stats = (): Stats => statsOf(clients.clientCount, clients.sessions.size, clients.dispatcher)
      const sys = new SysTopics({ ...about, startedAt: new Date() }, clients.ingress, stats, hooks)
      server = new Server({ options, home, log, hooks, access, alarms, clients, sys, plugins, listeners })
      if (kept !== undefined) {
        server.#store = new StoreMaintenance(path(options.store.dir), kept.store, clients.dispatcher.persistence!.queue)
      }
      server.#undo.push(
        unlock,
        () => access.banned.close(),
        () => clients.close()
      )
      alarms.on('raised', alarm => sys.alert(alarm)).on('cleared', alarm => sys.clear(alarm))
      const { vm } = server
      vm.start()
      server.#undo.push(() => vm.stop())
      sys.start()
      server.#undo.push(() => sys.stop())
      if (home !== undefined && settings.files !== undefined) {
        const certificates = (next: BrokerOptions): Promise<void> => makeCertificates(next, home, log)
        server.reloads = new Reload(server, { home, settings, listener, certificates, sinks })
      }
      if (home !== undefined) server.#undo.push(await serveAdmin(home, commands, server))
      const { management } = server
      server.#undo.push(async () => await management?.close())
      await management?.open() // before the store is read, to say that it is
      await server.#restore()
      if (kept !== undefined) spaces.load(kept.store, clients.dispatcher.persistence!.queue)
      server.#undo.push(() => plugins.stopAll())
      if (home !== undefined) await plugins.loadRemembered()
      for (const { plugin, options: given } of brought) await plugins.adopt(plugin, given)
      clients.resume()
      const all = server
      server.#undo.push(async () => void (await Promise.all(all.listeners.map(each => each.close()))))
      for (const listener of listeners) {
        if (server.#stopping !== undefined) break // asked to, by the admin socket
        await listener.open()
        log.info('listening', { listener: listener.name, on: listener.info().bind })
      }
    } catch (err) {
      if (server === undefined) unlock()
      else await server.stop('fast')
      throw err
    }
    if (server.#stopping !== undefined) {
      for (const listener of server.listeners) await listener.close() // one may have opened after the others were closed
      await server.#stopping
      return server
    }
    server.#phase = 'running'
    log.info('broker is running', { version, node: options.node.name, pid: process.pid })
    return server
  }

  stats(): Stats {
    return statsOf(this.clients.clientCount, this.clients.sessions.size, this.clients.dispatcher)
  }

  get phase(): Phase {
    return this.#phase
  }

  /** Undefined where nothing outlives the process. */
  get store(): StoreMaintenance | undefined {
    return this.#store
  }

  readonly restoreStore = async (file: string): Promise<{ file: string }> => {
    const { home, options } = this
    if (home === undefined || options.store.type === 'memory') {
      throw new BrokerError('NOT_FOUND', 'There is no store: store.type = memory.')
    }
    return await restoreFrom(home.path(options.store.dir), file)
  }

  /** What a start is at that takes its time, in words. */
  doing: string | undefined

  async #restore(): Promise<void> {
    const from = performance.now()
    const restored = await this.clients.restore(records => {
      this.doing = `reading the store: ${records} records`
      if (records % 500_000 === 0) this.log.info(this.doing)
    })
    this.doing = undefined
    if (restored === undefined) return
    this.log.info('store is read', { ...restored, ms: Math.round(performance.now() - from) })
  }

  /** Stops once; whoever asks again waits for the same end. Never takes longer than `timeoutMs` to let clients go. */
  async stop(mode: StopMode = 'drain', timeoutMs = 10_000): Promise<void> {
    this.#stopping ??= this.#stop(mode, timeoutMs)
    await this.#stopping
  }

  async #stop(mode: StopMode, timeoutMs: number): Promise<void> {
    this.#phase = 'stopping'
    this.log.info('broker is stopping', { mode, connections: this.clients.connectionCount })
    for (const listener of this.listeners) listener.stopAccepting()
    await this.reloads?.idle() // which may be exchanging a plugin
    if (mode === 'drain') await this.clients.drained(timeoutMs)
    this.clients.hangUpAll()
    for (const undo of this.#undo.splice(0).reverse()) await undo()
    this.log.info('broker is stopped')
    this.#isStopped()
  }
}

/** Undefined where nothing outlives the process, because that was asked for or because it cannot be had. */
async function openKept(
  { type, dir, required, sync, syncInterval }: BrokerOptions['store'],
  home: Home,
  alarms: Alarms,
  open: typeof openStore
): Promise<Kept | undefined> {
  if (type === 'memory') return undefined
  try {
    const { store, putAside } = await open(home.path(dir), { sync })
    if (putAside !== undefined) {
      alarms.raise(
        'store_damaged',
        'critical',
        'the store was damaged and put aside; the broker began with an empty one',
        putAside
      )
    }
    const every = { gather: syncInterval, grace: syncInterval, lazy: syncInterval, retry: usualTimes.retry }
    return { store, waits: sync === 'commit', times: sync === 'interval' ? every : usualTimes }
  } catch (err) {
    if (required || !(err instanceof BrokerError) || err.code !== 'UNAVAILABLE') throw err
    alarms.raise('store_missing', 'critical', 'there is no store: what the broker keeps is lost when it ends', {
      why: err.message
    })
    return undefined
  }
}

function hold(home: Home, node: string): () => void {
  const held = lock(home.brokerLock)
  if (typeof held === 'number') throw new BrokerError('CONFLICT', `Node is already running! (${node}, pid ${held})`)
  return held
}

/** At the first start, and anew before they expire; only where a listener uses the usual files. */
async function makeCertificates(options: BrokerOptions, home: Home, log: LogRoot): Promise<void> {
  const files = [...listenersOf(options).map(({ tls }) => tls?.certfile), ...apisOf(options).map(o => o.certfile)]
  const wanted = files.some(file => file !== undefined && home.path(file) === home.path('etc/certs/cert.pem'))
  if (!wanted) return
  try {
    const outcome = await ensureCertificates(home.certs, { hostname: hostname() })
    if (outcome !== 'kept') log.info(`certificates ${outcome}`, { in: home.certs })
  } catch (err) {
    // A renewal that cannot be written leaves certificates that still work; without any, the listener says so.
    if (!(err instanceof BrokerError) || err.code !== 'UNAVAILABLE') throw err
    log.error('certificates were not made or renewed', { in: home.certs, err })
  }
}
