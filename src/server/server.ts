/**
 * The running broker: every part, in the order in which they depend on each
 * other. start() goes from the first to the last and stop() back; a reload prepares all of them
 * and puts other settings in force for all or none. The
 * lock and the admin socket come first, since holding them is what makes this the
 * only instance of its home; listeners come last, so that no client arrives before the
 * plugins that must judge it.
 */
import type { Access } from '../access/access.js'
import { AdminSocket } from '../admin/server.js'
import { BrokerError } from '../base/errors.js'
import { type Home, version } from '../base/home.js'
import type { LogRoot, Sink } from '../base/log/log.js'
import type { ClientManager } from '../client/manager.js'
import { commands } from '../commands/index.js'
import type { BrokerOptions, LogOptions } from '../config/broker-keys.js'
import type { Values } from '../config/schema.js'
import { Management } from '../mgmt/management.js'
import { Listener, type ListenerContext } from '../net/listener.js'
import type { Alarms } from '../observe/alarms.js'
import type { Stats } from '../observe/stats.js'
import { SysTopics } from '../observe/sys-topics.js'
import { Vm } from '../observe/vm.js'
import { LocalOperations } from '../ops/local.js'
import type { Operations, Phase, StopMode } from '../ops/operations.js'
import type { Hooks } from '../plugins/hooks.js'
import type { PluginHost, ProvidedPlugin } from '../plugins/host.js'
import { type Foundation, type FoundationOptions, layFoundation } from './foundation.js'
import { Listeners } from './listeners.js'
import { Parts } from './part.js'
import { accessPart, logPart, pluginsPart, settingsPart, sysTopicsPart } from './parts.js'
import { Reload } from './reload.js'
import type { Settings } from './settings.js'

export interface ServerOptions extends FoundationOptions {
  /** What `log.*` asks for, where that may change while the broker runs. */
  readonly sinks?: (options: LogOptions) => Sink[]
  /** Plugins that the embedding program brings itself, with their options. */
  readonly plugins?: readonly ProvidedPlugin[]
}

export class Server {
  readonly startedAt = new Date()
  readonly home: Home | undefined
  readonly log: LogRoot
  readonly hooks: Hooks
  readonly access: Access
  readonly alarms: Alarms
  readonly clients: ClientManager
  readonly plugins: PluginHost
  /** All that can be asked of the broker or done to it. */
  readonly ops: Operations
  /** Undefined without a home, which has its users. */
  readonly management: Management | undefined
  readonly #parts: Parts
  readonly #vm = new Vm()
  readonly #listeners: Listeners
  #settings: Settings
  #reload: Reload | undefined
  #phase: Phase = 'starting'
  /** What a start is at that takes its time, in words. */
  #doing: string | undefined
  #stopping: Promise<void> | undefined
  #isStopped = (): void => {}
  /** Resolves when the broker has stopped, whoever asked it to. */
  readonly stopped = new Promise<void>(resolve => {
    this.#isStopped = resolve
  })

  private constructor({ home, log, settings, parts, hooks, access, alarms, clients, store, plugins }: Foundation) {
    this.home = home
    this.log = log
    this.hooks = hooks
    this.access = access
    this.alarms = alarms
    this.clients = clients
    this.plugins = plugins
    this.#parts = parts
    this.#settings = settings
    const phase = (): Phase => this.#phase
    this.#listeners = new Listeners(settings, {
      log,
      make: options => new Listener(options, this.#listenerContext()),
      hangUpOn: listener => clients.hangUpOn(listener),
      isStopping: () => this.#stopping !== undefined
    })
    if (home !== undefined && settings.files !== undefined) {
      const pluginValues = (): Values => plugins.values()
      this.#reload = new Reload({ home, settings, log, parts, phase, pluginValues })
    }
    this.ops = new LocalOperations({
      home,
      log,
      clients,
      access,
      alarms,
      plugins,
      vm: this.#vm,
      options: () => this.options,
      state: () => ({
        version,
        phase: this.#phase,
        doing: this.#doing,
        startedAt: this.startedAt,
        notices: this.management?.notices ?? []
      }),
      stop: (mode, timeoutMs) => this.stop(mode, timeoutMs),
      listeners: () => this.listeners,
      apiListeners: () => this.management?.listeners ?? [],
      admins: () => this.management?.operations,
      config: () => this.#reload,
      store: () => store
    })
    if (home !== undefined)
      this.management = new Management(settings.options, { ops: this.ops, home, log, alarms, phase })
  }

  static async start(given: ServerOptions): Promise<Server> {
    const { settings, home, log, sinks, plugins: provided = [] } = given
    if (home === undefined && settings.options.listener.api.size > 0) {
      throw new BrokerError('CONFIG_INVALID', 'listener.api: the management API needs a home, where its users are kept')
    }
    const parts = new Parts()
    let server: Server | undefined
    try {
      const foundation = await layFoundation(parts, given)
      server = new Server(foundation)
      await server.#start(foundation, sinks, provided)
    } catch (err) {
      if (server === undefined) await parts.stop()
      else await server.stop('fast')
      throw err
    }
    if (server.#stopping !== undefined) {
      await server.#listeners.stop() // one may have opened after the others were closed
      await server.#stopping
      return server
    }
    server.#phase = 'running'
    log.info('broker is running', { version, node: settings.options.node.name, pid: process.pid })
    return server
  }

  /** The parts that stand on the foundation, in the order in which they need each other. */
  async #start(
    { kept, storage }: Foundation,
    sinks: ServerOptions['sinks'],
    provided: readonly ProvidedPlugin[]
  ): Promise<void> {
    const { home, log, clients, plugins, alarms, ops, management } = this
    const parts = this.#parts
    const { options } = this.#settings
    await parts.start(
      settingsPart(next => {
        this.#settings = next
      })
    )
    await parts.start(logPart(log, sinks))
    await parts.start(accessPart(this.access))
    await parts.start(this.#vm)
    const about = { node: options.node.name, version, interval: options.mqtt.broker.sysInterval }
    const stats = (): Stats => ops.broker.stats()
    const sys = new SysTopics({ ...about, startedAt: this.startedAt }, clients.ingress, stats, this.hooks)
    alarms.on('raised', alarm => sys.alert(alarm)).on('cleared', alarm => sys.clear(alarm))
    await parts.start(sysTopicsPart(sys))
    if (home !== undefined) await parts.start(new AdminSocket(home, commands, ops, log))
    if (management !== undefined) await parts.start(management) // before the store is read, to say that it is
    await this.#restore()
    if (kept !== undefined) storage.load(kept.store, clients.dispatcher.persistence!.queue)
    await parts.start(pluginsPart(plugins, home !== undefined, provided))
    clients.resume()
    await parts.start(this.#listeners)
  }

  get phase(): Phase {
    return this.#phase
  }

  /** In force. */
  get options(): BrokerOptions {
    return this.#settings.options
  }

  get listeners(): readonly Listener[] {
    return this.#listeners.all
  }

  #listenerContext(): ListenerContext {
    const { clients, access, home, log } = this
    const mqtt = (): BrokerOptions['mqtt'] => this.options.mqtt
    return {
      establish: (transport, origin) => clients.establish(transport, origin),
      banned: address => access.banned.findAddress(address) !== undefined,
      turnedAway: (...whom) => clients.history.turnedAway(...whom),
      path: home?.path ?? (file => file),
      log,
      get needsSubprotocol() {
        return mqtt().websocketProtocolHeader
      },
      get maxPacketSize() {
        return mqtt().maxPacketSize
      }
    }
  }

  async #restore(): Promise<void> {
    const from = performance.now()
    const restored = await this.clients.restore(records => {
      this.#doing = `reading the store: ${records} records`
      if (records % 500_000 === 0) this.log.info(this.#doing)
    })
    this.#doing = undefined
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
    this.#listeners.stopAccepting()
    await this.#reload?.idle() // which may be exchanging a plugin
    if (mode === 'drain') await this.clients.drained(timeoutMs)
    this.clients.hangUpAll()
    await this.#parts.stop()
    this.log.info('broker is stopped')
    this.#isStopped()
  }
}
