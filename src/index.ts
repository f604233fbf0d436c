/**
 * What a program that embeds the broker imports.
 *
 *   const broker = await startBroker({ listener: { tcp: { main: { bind: { host: '127.0.0.1', port: 0 } } } } })
 *   await broker.publish({ topic: 'hello', payload: 'world' })
 *   await broker.stop()
 */
import { AclRules } from './access/acl-file.js'
import type { ClientInfo } from './base/client-info.js'
import { BrokerError } from './base/errors.js'
import { Home } from './base/home.js'
import { fileSinks } from './base/log/files.js'
import { createLog, type LogRoot, type Sink } from './base/log/log.js'
import { brokerSchema, type GivenBrokerOptions, type LogOptions } from './config/broker-keys.js'
import { optionsFrom } from './config/schema.js'
import type { ListenerInfo } from './net/listener-info.js'
import type { Report, StopMode } from './ops/operations.js'
import type { Handler, HookName, HookScope, Message } from './plugins/hooks.js'
import type { ProvidedPlugin } from './plugins/host.js'
import { Server } from './server/server.js'
import { readSettings, type Settings } from './server/settings.js'

export interface StartBrokerOptions extends Omit<GivenBrokerOptions, 'log'> {
  /**
   * Run the instance in this directory instead: its etc/, log/, data/ and admin socket, as `broker foreground`
   * does. Options given beside it are refused.
   */
  readonly home?: string
  /** Plugins of the program, loaded before the listeners open. */
  readonly plugins?: readonly ProvidedPlugin[]
  /** Takes the log's lines; without it and without a home nothing is logged. */
  readonly log?: Sink
}

/** A message as a program publishes it. */
export interface PublishOptions {
  readonly topic: string
  readonly payload?: string | Uint8Array
  readonly qos?: 0 | 1 | 2
  readonly retain?: boolean
}

export interface RunningBroker extends AsyncDisposable {
  /** The port a listener is bound to; `tcp:main`. With one listener its name may be left out. */
  port(listener?: string): number
  listeners(): ListenerInfo[]
  /** The connected clients. */
  clients(): ClientInfo[]
  /** Disconnects a client; throws a BrokerError NOT_FOUND when it is not connected. */
  kick(clientId: string): Promise<void>
  /** Publishes without asking the ACL. */
  publish(message: PublishOptions): Promise<void>
  /**
   * Calls the handler with each message under the filter, those that are retained first; returns what ends it. The
   * ACL is not asked, and `retain` and `qos` are as published.
   */
  subscribe(filter: string, handler: (message: Message) => void): () => void
  /** Adds a hook handler of the program's own; returns what removes it. */
  on<N extends HookName>(name: N, handler: Handler<N>, options?: { priority?: number }): () => void
  /** Reads the home's etc/ again, as `broker reload` does; a broker without a home has nothing to read. */
  reload(): Promise<Report>
  /** Stops once, however often it is asked to; resolves when every port is free. */
  stop(mode?: StopMode): Promise<void>
  /** Resolves when the broker has stopped, whoever stopped it. */
  readonly stopped: Promise<void>
}

/**
 * Starts a broker in this process. Without `home` it keeps no files and has no admin socket: the options come
 * from the program, those left out have the defaults of etc/broker.conf, and no acl.conf is read.
 */
export async function startBroker({
  home: dir,
  plugins = [],
  log: sink,
  ...given
}: StartBrokerOptions = {}): Promise<RunningBroker> {
  if (dir !== undefined && Object.keys(given).length > 0) {
    throw new BrokerError(
      'BAD_REQUEST',
      `options beside home: ${Object.keys(given).join(', ')}; they belong in its etc/broker.conf`
    )
  }
  const home = dir === undefined ? undefined : new Home(dir)
  const settings: Settings =
    home === undefined
      ? { options: optionsFrom(brokerSchema, given), loadAcl: () => new AclRules([]) }
      : readSettings(home)
  const sinks = (options: LogOptions): Sink[] => [
    ...(sink === undefined ? [] : [sink]),
    ...(home === undefined ? [] : fileSinks(options, home.path))
  ]
  const log: LogRoot = createLog(...sinks(settings.options.log))
  log.limitRepeats(settings.options.log.messagesPerSecond)
  const server = await Server.start({ settings, home, log, sinks, plugins })
  const scope: HookScope = server.hooks.scope('the embedding program')
  const stop = async (mode?: StopMode): Promise<void> => {
    await server.stop(mode)
    await log.close()
  }
  return {
    port: name => portOf(server, name),
    listeners: () => server.listeners.map(l => l.info()),
    clients: () => server.clients.clients(),
    kick: clientId => server.clients.kick(clientId),
    publish: ({ topic, payload = '', qos = 0, retain = false }) =>
      server.clients.publish({ topic, payload: Buffer.from(payload as Uint8Array), qos, retain }),
    subscribe: (filter, handler) => server.clients.subscribeInline(filter, handler),
    reload: async () => {
      if (home === undefined) throw new BrokerError('BAD_REQUEST', 'a broker without a home has no files to read')
      return await server.ops.config.reload()
    },
    on: (name, handler, options) => scope.on(name, handler, options),
    stop,
    stopped: server.stopped,
    [Symbol.asyncDispose]: () => stop()
  }
}

function portOf({ listeners }: Server, name: string | undefined): number {
  const found =
    name === undefined ? (listeners.length === 1 ? listeners[0] : undefined) : listeners.find(l => l.name === name)
  if (found === undefined) {
    throw new BrokerError(
      'NOT_FOUND',
      `no listener ${name ?? 'without a name'}; there are ${listeners.map(l => l.name).join(', ')}`
    )
  }
  return found.port
}

export type { Action, ClientInfo, EndReason, Peer } from './base/client-info.js'
export { BrokerError, type ErrorCode } from './base/errors.js'
export { findHome } from './base/home.js'
export type { Level, Sink } from './base/log/log.js'
export type { ListenerInfo } from './net/listener-info.js'
export type { Change, Report, StopMode } from './ops/operations.js'
export { type Plugin, type PluginContext, plugin, type Running } from './plugin.js'
export type {
  AuthExchange,
  AuthStep,
  Explained,
  ExplainedRule,
  Facts,
  Handler,
  HookName,
  HookScope,
  Message
} from './plugins/hooks.js'
export type { ProvidedPlugin } from './plugins/host.js'
