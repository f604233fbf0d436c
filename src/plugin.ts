/**
 * All that a plugin author imports: `import { plugin, text } from 'tsmqttd/plugin'`.
 *
 * A plugin is one object: its keys, and a start() that registers hooks and
 * returns what undoes it. What it registers through its context leaves with it.
 */

import type { Log } from './base/log/log.js'
import type { Options, Schema } from './config/schema.js'
import type { HookScope } from './plugins/hooks.js'
import type { Space } from './store/plugin-storage.js'

export interface PluginContext<S extends Schema> {
  /** The values of etc/plugins/<name>.conf, already checked. */
  readonly options: Options<S>
  /** Handlers added here are removed when the plugin is unloaded. */
  readonly hooks: HookScope
  readonly log: Log
  /** Resolves a path of the configuration file against the broker's home. */
  path(relative: string): string
  /** Small values that outlive the plugin and, with `store.type = lmdb`, the broker. */
  readonly space: Space
  /** Shown by `plugins list` while it lasts: why the plugin cannot do its work now; undefined when it can. */
  trouble(why: string | undefined): void
}

export interface Running {
  /**
   * Tries the backend: throws an Error in the operator's words when the plugin
   * could not do its work. Asked once when the operator loads the plugin; at boot
   * a failure is only logged, and the plugin stays, refusing what it cannot judge.
   */
  check?(): Promise<void>
  /** For commands of broker-ctl that are this plugin's: plain data in and out, by name. */
  readonly actions?: Readonly<Record<string, (args: any) => unknown>>
  /** Undoes start(); called after the plugin's hooks are gone. */
  stop?(): void | Promise<void>
}

export interface Plugin<S extends Schema = Schema> {
  /** As in etc/plugins/<name>.conf: `auth-pgsql`. */
  readonly name: string
  readonly description: string
  /** What stands before its keys: `auth.pgsql`. */
  readonly prefix: string
  readonly options: S
  /** Reports what no single key shows, at the key it belongs to. */
  check?(options: Options<S>, report: (key: string, message: string) => void): void
  /** Registers the plugin's hooks; must not wait for a backend, which `Running.check` does. */
  start(context: PluginContext<S>): Running | undefined | Promise<Running | undefined>
}

export function plugin<const S extends Schema>(definition: Plugin<S>): Plugin<S> {
  return definition
}

export type * from './base/client-info.js'
export { BrokerError } from './base/errors.js'
export type { Log } from './base/log/log.js'
export { named, type Options, type Schema } from './config/schema.js'
export * from './config/values.js'
export type * from './plugins/hooks.js'
export type { Space } from './store/plugin-storage.js'
