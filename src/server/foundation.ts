/**
 * What everything else of the broker stands on: the home's lock, bans and certificates, the store, what judges clients, the
 * clients themselves and the host of the plugins. Its parts are started as they are made, since each needs the one before.
 */
import { Access } from '../access/access.js'
import { BrokerError } from '../base/errors.js'
import { type Home, version } from '../base/home.js'
import type { LogRoot } from '../base/log/log.js'
import { ClientManager, type Kept } from '../client/manager.js'
import type { BrokerOptions } from '../config/broker-keys.js'
import { Alarms } from '../observe/alarms.js'
import { Hooks } from '../plugins/hooks.js'
import { PluginHost, pluginPaths } from '../plugins/host.js'
import { StoreMaintenance } from '../store/maintenance.js'
import { openStore } from '../store/open.js'
import { PluginStorage } from '../store/plugin-storage.js'
import { usualTimes } from '../store/write-queue.js'
import type { Parts } from './part.js'
import { bansPart, certificatesPart, clientsPart, lockPart } from './parts.js'
import type { Settings } from './settings.js'

export interface FoundationOptions {
  readonly settings: Settings
  /** Undefined for a broker inside another program that keeps no files and no admin socket. */
  readonly home: Home | undefined
  readonly log: LogRoot
  /** In place of the usual one. */
  readonly openStore?: typeof openStore
}

export interface Foundation {
  readonly settings: Settings
  readonly home: Home | undefined
  readonly log: LogRoot
  readonly parts: Parts
  readonly hooks: Hooks
  readonly access: Access
  readonly alarms: Alarms
  readonly clients: ClientManager
  readonly plugins: PluginHost
  /** What plugins keep over a restart. */
  readonly storage: PluginStorage
  /** Undefined where nothing outlives the process. */
  readonly kept: Kept | undefined
  readonly store: StoreMaintenance | undefined
}

export async function layFoundation(parts: Parts, given: FoundationOptions): Promise<Foundation> {
  const { settings, home, log, openStore: open = openStore } = given
  const { options, loadAcl } = settings
  if (home !== undefined) await parts.start(lockPart(home, options.node.name))
  const hooks = new Hooks(log)
  const access = new Access(options.mqtt, loadAcl, hooks, log)
  const path = home?.path ?? ((file: string) => file)
  if (home !== undefined) {
    await parts.start(bansPart(access, home))
    await parts.start(certificatesPart(settings, home, log))
  }
  const alarms = new Alarms(log)
  const kept = home === undefined ? undefined : await openKept(options.store, home, alarms, open)
  const clients = await ClientManager.create(options.mqtt, access, hooks, log, alarms, kept)
  await parts.start(clientsPart(clients))
  const storage = new PluginStorage()
  const paths = pluginPaths(path, options.mqtt.plugins)
  const changed = (): void => access.forgetVerdicts()
  const plugins = new PluginHost({ ...paths, version, storage, env: process.env, changed }, hooks, log)
  const { persistence } = clients.dispatcher
  const store =
    kept === undefined || persistence === undefined
      ? undefined
      : new StoreMaintenance(path(options.store.dir), kept.store, persistence.queue)
  return { settings, home, log, parts, hooks, access, alarms, clients, plugins, storage, kept, store }
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
