/**
 * What a plugin is given, and what it gives back.
 *
 * A context is a view of the broker's parts under the plugin's name. It is made in one place, so that whatever
 * can be registered through it is taken back in that place too.
 */
import type { Log } from '../base/log/log.js'
import type { Options, Schema } from '../config/schema.js'
import type { Space } from '../store/plugin-storage.js'
import type { HookScope, Hooks } from './hooks.js'

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
  probe?(): Promise<void>
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
  validate?(options: Options<S>, report: (key: string, message: string) => void): void
  /** Registers the plugin's hooks; must not wait for a backend, which `Running.probe` does. */
  start(context: PluginContext<S>): Running | undefined | Promise<Running | undefined>
}

/** Gives the plugin that is written in it its types. */
export function plugin<const S extends Schema>(definition: Plugin<S>): Plugin<S> {
  return definition
}

/** The parts of the broker that plugins see something of. */
export interface ContextParts {
  readonly hooks: Hooks
  readonly path: (relative: string) => string
  /** What a plugin keeps over a restart. */
  readonly storage: { of(owner: string): Space }
}

/** What a context needs beside the parts: what belongs to the one plugin. */
export interface ContextOwner {
  readonly name: string
  readonly options: any
  readonly log: Log
  trouble(why: string | undefined): void
}

/** A plugin's context, and what takes back all that was registered through it. */
export interface OpenContext {
  readonly context: PluginContext<any>
  release(): void
}

export function openContext(
  { name, options, log, trouble }: ContextOwner,
  { hooks, path, storage }: ContextParts
): OpenContext {
  return {
    context: { options, hooks: hooks.scope(name), log, path, space: storage.of(name), trouble },
    release: () => hooks.release(name)
  }
}
