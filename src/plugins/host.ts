/**
 * Loads, unloads and exchanges plugins while the broker runs.
 *
 * What was loaded is remembered and loads again at start; there, a plugin whose backend is away stays loaded
 * and refuses what it would have judged, since leaving it out would open the door that it guards.
 */
import { isDeepStrictEqual } from 'node:util'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import type { MqttOptions } from '../config/broker-keys.js'
import { allOrProblems } from '../config/problem.js'
import { type Given, optionsFrom, type Schema, type Value } from '../config/schema.js'
import { Catalogue, type CatalogueOptions, canonicalName, emqttdName, type PluginConf } from './catalogue.js'
import { type ContextParts, openContext, type Plugin, type Running } from './context.js'
import type { Hooks } from './hooks.js'
import { RememberedPlugins } from './remembered.js'

export interface PluginInfo {
  /** As emqttd has it: `auth_pgsql`. */
  readonly name: string
  readonly version: string
  readonly description: string
  readonly active: boolean
  /** Why an active plugin cannot do its work now. */
  readonly trouble?: string
}

export interface PluginHostOptions extends CatalogueOptions, Omit<ContextParts, 'hooks'> {
  /** data/loaded_plugins. */
  readonly loadedFile: string
  readonly version: string
  /** After what plugins say may have changed. */
  readonly changed: () => void
}

/** A plugin that an embedding program brings, with its options in place of a file. */
export interface ProvidedPlugin<S extends Schema = any> {
  readonly plugin: Plugin<S>
  readonly options?: Given<S>
}

/** Where a home has its plugins. */
export function pluginPaths(
  path: (relative: string) => string,
  { etcDir, loadedFile }: MqttOptions['plugins']
): Pick<PluginHostOptions, 'etcDir' | 'loadedFile' | 'ownDir' | 'path'> {
  return { etcDir: path(etcDir), loadedFile: path(loadedFile), ownDir: path('plugins'), path }
}

/** A loaded plugin whose file says something else by now. */
export interface PluginChange {
  readonly name: string
  readonly was: PluginConf
  readonly next: PluginConf
}

interface Active extends PluginConf {
  readonly plugin: Plugin
  readonly running: Running | undefined
  trouble: string | undefined
  /** Takes back all that the plugin has registered. */
  release(): void
}

export class PluginHost {
  readonly #options: PluginHostOptions
  readonly #hooks: Hooks
  readonly #log: Log
  readonly #catalogue: Catalogue
  readonly #remembered: RememberedPlugins
  readonly #active = new Map<string, Active>()
  #turn: Promise<unknown> = Promise.resolve()

  constructor(options: PluginHostOptions, hooks: Hooks, log: Log) {
    this.#options = options
    this.#hooks = hooks
    this.#log = log
    this.#catalogue = new Catalogue(options)
    this.#remembered = new RememberedPlugins(options.loadedFile)
  }

  async list(): Promise<PluginInfo[]> {
    const infos = await Promise.all(
      this.#catalogue.names().map(async (name): Promise<PluginInfo | undefined> => {
        const active = this.#active.get(name)
        let found: Plugin | undefined
        try {
          found = active?.plugin ?? (await this.#catalogue.code(name))
        } catch (err) {
          const trouble = messageOf(err)
          return { name: emqttdName(name), version: this.#options.version, description: '', active: false, trouble }
        }
        if (found === undefined) return undefined
        return {
          name: emqttdName(name),
          version: this.#options.version,
          description: found.description,
          active: active !== undefined,
          ...(active?.trouble === undefined ? {} : { trouble: active.trouble })
        }
      })
    )
    return infos.filter(info => info !== undefined)
  }

  /** Checks the configuration of every remembered plugin; throws a ConfigError with all problems. */
  async checkRemembered(): Promise<void> {
    const plugins = await Promise.all(this.#remembered.names().map(name => this.#catalogue.find(name)))
    allOrProblems(...plugins.map(found => () => this.#catalogue.read(found)))
  }

  /** What a start loads. */
  remembered(): string[] {
    return this.#remembered.names()
  }

  /** Starts a plugin, tries its backend for at most `patienceMs` and stops it again; returns what is wrong with it. */
  async try(name: string, patienceMs: number): Promise<string | undefined> {
    try {
      const active = await this.#startNamed(name)
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<never>((_, reject) => {
        const why = `no answer within ${patienceMs} ms`
        timer = setTimeout(() => reject(new BrokerError('PLUGIN_FAILED', why)), patienceMs)
      })
      try {
        await Promise.race([this.#probe(active), late])
      } finally {
        clearTimeout(timer)
        void this.#stop(name).catch(() => {}) // it may wait for the backend that does not answer
      }
      return undefined
    } catch (err) {
      return messageOf(err)
    }
  }

  /** Where a plugin's configuration stands. */
  conf(name: string): string {
    return this.#catalogue.conf(name)
  }

  /** Loads what was loaded when the broker last ran. Only a wrong configuration stops the start. */
  async loadRemembered(): Promise<void> {
    for (const name of this.#remembered.names()) {
      this.#checkLater(await this.#startNamed(name))
    }
  }

  #checkLater(active: Active): void {
    void this.#probe(active).catch((err: unknown) => {
      active.trouble ??= messageOf(err)
      this.#log.error('plugin loaded, but cannot work yet', { plugin: emqttdName(active.plugin.name), err })
    })
  }

  /** Loads a plugin under any of its names, now and at every later start. */
  async load(typed: string): Promise<void> {
    const name = canonicalName(typed)
    await this.#inTurn(async () => {
      if (this.#active.has(name)) throw new BrokerError('CONFLICT', 'already_started')
      const active = await this.#startNamed(name)
      try {
        await this.#probe(active)
      } catch (cause) {
        await this.#stop(name)
        throw new BrokerError('PLUGIN_FAILED', messageOf(cause), { cause })
      }
      this.#remembered.add(name)
    })
  }

  /** Loads a plugin that has no file; it is not remembered. */
  async adopt<S extends Schema>(brought: Plugin<S>, given?: Given<S>): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#active.has(brought.name)) throw new BrokerError('CONFLICT', `plugin ${brought.name} is loaded already`)
      await this.#probe(
        await this.#start(brought as unknown as Plugin, {
          options: optionsFrom(brought.options, given),
          values: undefined
        })
      )
    })
  }

  async unload(typed: string): Promise<void> {
    const name = canonicalName(typed)
    await this.#inTurn(async () => {
      if (!this.#active.has(name)) throw new BrokerError('NOT_FOUND', 'not_started')
      await this.#stop(name)
      this.#remembered.remove(name)
    })
  }

  /**
   * Unloads and loads with the configuration as it is now. The new configuration is read first, so that a
   * mistake in it leaves the plugin running as it was.
   */
  async reload(typed: string): Promise<void> {
    const name = canonicalName(typed)
    await this.#inTurn(async () => {
      if (!this.#active.has(name)) throw new BrokerError('NOT_FOUND', 'not_started')
      const active = await this.#exchanged(name, this.#catalogue.read(await this.#catalogue.find(name)))
      try {
        await this.#probe(active)
      } catch (cause) {
        // It stays loaded: without it, those whom it would refuse could come in.
        active.trouble ??= messageOf(cause)
        throw new BrokerError(
          'PLUGIN_FAILED',
          `${messageOf(cause)}\nthe plugin is loaded and refuses until that is mended`,
          { cause }
        )
      }
    })
  }

  /**
   * In between, clients that it would judge must not pass for anonymous ones. A plugin that cannot start anew goes
   * on as it was; where it cannot do that either, nobody is let in unjudged until a restart.
   */
  async #exchanged(name: string, next: PluginConf): Promise<Active> {
    const was = this.#active.get(name)!
    const open = this.#hooks.refuseUnjudged()
    let isAway = false
    try {
      await this.#stop(name)
      try {
        return await this.#start(was.plugin, next)
      } catch (err) {
        isAway = true
        await this.#start(was.plugin, was)
        isAway = false
        throw err
      }
    } finally {
      if (!isAway) open()
    }
  }

  /** Reads the files of the loaded plugins again; throws a ConfigError with every problem. */
  changes(): PluginChange[] {
    const named = [...this.#active.values()].filter(({ values }) => values !== undefined)
    const read = allOrProblems(
      ...named.map(
        ({ plugin }) =>
          () =>
            this.#catalogue.read(plugin)
      )
    )
    return named
      .map((was, i) => ({ name: was.plugin.name, was, next: read[i]! }))
      .filter(({ was, next }) => !isDeepStrictEqual(was.options, next.options))
  }

  /** Exchanges plugins for themselves with other options; when one cannot work with them, all go on as they were. */
  async exchange(changes: readonly PluginChange[]): Promise<void> {
    await this.#inTurn(async () => {
      const done: PluginChange[] = []
      for (const change of changes) {
        if (!this.#active.has(change.name)) continue // unloaded meanwhile
        try {
          const active = await this.#exchanged(change.name, change.next)
          done.push(change)
          await this.#probe(active)
        } catch (cause) {
          for (const { name, was } of done.reverse()) this.#checkLater(await this.#exchanged(name, was))
          throw new BrokerError('PLUGIN_FAILED', `${emqttdName(change.name)}: ${messageOf(cause)}`, { cause })
        }
      }
    })
  }

  /** What the files of the loaded plugins said when they were loaded. */
  values(): ReadonlyMap<string, Value> {
    return new Map([...this.#active.values()].flatMap(({ values = new Map() }) => [...values]))
  }

  /** Calls an action that a loaded plugin has for its commands. */
  async call(typed: string, action: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    const found = this.#active.get(canonicalName(typed))
    if (found === undefined) throw new BrokerError('NOT_FOUND', `Please 'broker-ctl plugins load ${typed}' first.`)
    const run = found.running?.actions?.[action]
    if (run === undefined) throw new BrokerError('BAD_REQUEST', `${typed} has no action ${action}`)
    return await run(args)
  }

  /** In the reverse of the order in which they were loaded. */
  async stopAll(): Promise<void> {
    for (const name of [...this.#active.keys()].reverse()) await this.#stop(name)
  }

  /** One at a time: a start takes long enough for a second load of the same plugin to arrive. */
  async #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(work)
    this.#turn = done.catch(() => {})
    await done
  }

  async #startNamed(name: string): Promise<Active> {
    const found = await this.#catalogue.find(name)
    return await this.#start(found, this.#catalogue.read(found))
  }

  async #start(found: Plugin, { options, values }: PluginConf): Promise<Active> {
    const { name } = found
    const log = this.#log.child(emqttdName(name))
    const trouble = (why: string | undefined): void => {
      active.trouble = why
    }
    const { context, release } = openContext({ name, options, log, trouble }, { ...this.#options, hooks: this.#hooks })
    const active: { -readonly [K in keyof Active]: Active[K] } = {
      plugin: found,
      options,
      values,
      running: undefined,
      trouble: undefined,
      release
    }
    try {
      active.running = await found.start(context)
    } catch (cause) {
      release() // start may have failed half way
      throw new BrokerError('PLUGIN_FAILED', messageOf(cause), { cause })
    }
    this.#active.set(name, active)
    this.#options.changed()
    this.#log.info('plugin loaded', { plugin: emqttdName(name) })
    return active
  }

  async #probe({ running }: Active): Promise<void> {
    await running?.probe?.()
  }

  async #stop(name: string): Promise<void> {
    const { running, release } = this.#active.get(name)!
    this.#active.delete(name)
    release() // before stop(), so that no handler meets a closed pool
    this.#options.changed()
    await running?.stop?.()
    this.#log.info('plugin unloaded', { plugin: emqttdName(name) })
  }
}
