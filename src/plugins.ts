/**
 * Loads and unloads plugins while the broker runs.
 *
 * A plugin is there for the operator when etc/plugins/<name>.conf is. Its code is
 * ours (src/plugins/), a file plugins/<name>.js of the home, or the npm package
 * `tsmqttd-plugin-<name>`. What was loaded is remembered and loads again at start;
 * there, a plugin whose backend is away stays loaded and refuses what it would have
 * judged, since leaving it out would open the door that it guards.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import type { MqttOptions } from './config/broker-options.js'
import { type Given, optionsFrom, readConfig, type Schema, type Value, type Values } from './config/config.js'
import { allOrProblems } from './config/problem.js'
import { BrokerError, messageOf } from './errors.js'
import type { Hooks } from './hooks.js'
import type { Log } from './log.js'
import type { Plugin, Running } from './plugin.js'
import type { Space } from './store/spaces.js'
import { nearest } from './words.js'

export interface PluginInfo {
  /** As emqttd has it: `auth_pgsql`. */
  readonly name: string
  readonly version: string
  readonly description: string
  readonly active: boolean
  /** Why an active plugin cannot do its work now. */
  readonly trouble?: string
}

export interface PluginHostOptions {
  /** etc/plugins. */
  readonly etcDir: string
  /** data/loaded_plugins. */
  readonly loadedFile: string
  /** The home's plugins/ directory, where an operator's own may stand. */
  readonly ownDir: string
  readonly path: (relative: string) => string
  readonly version: string
  /** What a plugin keeps over a restart. */
  readonly spaces: { of(owner: string): Space }
  readonly env: NodeJS.ProcessEnv
  /** Where a plugin's code comes from; a test hands in its own. */
  readonly resolve?: (name: string) => Promise<Plugin | undefined>
  /** After what plugins say may have changed. */
  readonly changed: () => void
}

/** A plugin that an embedding program brings, with its options in place of a file. */
export interface Brought<S extends Schema = any> {
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

/** What a plugin's file says. */
interface Read {
  readonly options: any
  /** Undefined for a plugin that has no file. */
  readonly values: Values | undefined
}

/** A loaded plugin whose file says something else by now. */
export interface PluginChange {
  readonly name: string
  readonly was: Read
  readonly next: Read
}

interface Active extends Read {
  readonly plugin: Plugin
  readonly running: Running | undefined
  trouble: string | undefined
}

/** `emq_auth_pgsql`, `emqx_auth_pgsql`, `auth_pgsql` and `auth-pgsql` are one plugin: its file's name. */
export function canonicalName(typed: string): string {
  return typed.replace(/^emqx?[_-]/, '').replaceAll('_', '-')
}

const emqttdName = (name: string): string => name.replaceAll('-', '_')

export class PluginHost {
  readonly #options: PluginHostOptions
  readonly #hooks: Hooks
  readonly #log: Log
  readonly #active = new Map<string, Active>()
  #turn: Promise<unknown> = Promise.resolve()

  constructor(options: PluginHostOptions, hooks: Hooks, log: Log) {
    this.#options = options
    this.#hooks = hooks
    this.#log = log
  }

  async list(): Promise<PluginInfo[]> {
    const infos = await Promise.all(
      this.#names().map(async (name): Promise<PluginInfo | undefined> => {
        const active = this.#active.get(name)
        let found: Plugin | undefined
        try {
          found = active?.plugin ?? (await this.#resolve(name))
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
    const plugins = await Promise.all(this.#remembered().map(name => this.#find(name)))
    allOrProblems(...plugins.map(found => () => this.#read(found)))
  }

  /** What a start loads. */
  remembered(): string[] {
    return this.#remembered()
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
        await Promise.race([this.#check(active), late])
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
    return this.#conf(name)
  }

  /** Loads what was loaded when the broker last ran. Only a wrong configuration stops the start. */
  async loadRemembered(): Promise<void> {
    for (const name of this.#remembered()) {
      this.#checkLater(await this.#startNamed(name))
    }
  }

  #checkLater(active: Active): void {
    void this.#check(active).catch((err: unknown) => {
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
        await this.#check(active)
      } catch (cause) {
        await this.#stop(name)
        throw new BrokerError('PLUGIN_FAILED', messageOf(cause), { cause })
      }
      this.#remember([...new Set([...this.#remembered(), name])])
    })
  }

  /** Loads a plugin that has no file; it is not remembered. */
  async adopt<S extends Schema>(brought: Plugin<S>, given?: Given<S>): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#active.has(brought.name)) throw new BrokerError('CONFLICT', `plugin ${brought.name} is loaded already`)
      await this.#check(
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
      this.#remember(this.#remembered().filter(n => n !== name))
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
      const active = await this.#exchanged(name, this.#read(await this.#find(name)))
      try {
        await this.#check(active)
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
  async #exchanged(name: string, next: Read): Promise<Active> {
    const was = this.#active.get(name)!
    const open = this.#hooks.keepShut()
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
            this.#read(plugin)
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
          await this.#check(active)
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

  /** What a loaded plugin has for its commands. */
  service(typed: string): unknown {
    const found = this.#active.get(canonicalName(typed))
    if (found === undefined) throw new BrokerError('NOT_FOUND', `Please 'broker-ctl plugins load ${typed}' first.`)
    return found.running?.service
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
    const found = await this.#find(name)
    return await this.#start(found, this.#read(found))
  }

  async #start(found: Plugin, { options, values }: Read): Promise<Active> {
    const { name } = found
    const log = this.#log.child(emqttdName(name))
    const active: { -readonly [K in keyof Active]: Active[K] } = {
      plugin: found,
      options,
      values,
      running: undefined,
      trouble: undefined
    }
    try {
      active.running = await found.start({
        options,
        hooks: this.#hooks.scope(name),
        log,
        path: this.#options.path,
        space: this.#options.spaces.of(name),
        trouble: why => {
          active.trouble = why
        }
      })
    } catch (cause) {
      this.#hooks.release(name) // start may have failed half way
      throw new BrokerError('PLUGIN_FAILED', messageOf(cause), { cause })
    }
    this.#active.set(name, active)
    this.#options.changed()
    this.#log.info('plugin loaded', { plugin: emqttdName(name) })
    return active
  }

  async #check({ running }: Active): Promise<void> {
    await running?.check?.()
  }

  async #stop(name: string): Promise<void> {
    const { running } = this.#active.get(name)!
    this.#active.delete(name)
    this.#hooks.release(name) // before stop(), so that no handler meets a closed pool
    this.#options.changed()
    await running?.stop?.()
    this.#log.info('plugin unloaded', { plugin: emqttdName(name) })
  }

  #conf(name: string): string {
    return join(this.#options.etcDir, `${name}.conf`)
  }

  #read({ name, options, prefix, check }: Plugin): Read {
    const { env } = this.#options
    const values = new Map<string, Value>()
    const take = (key: string, value: Value): void => void values.set(key, value)
    const given = { prefix, env, take, ...(check === undefined ? {} : { check }) }
    return { options: readConfig(this.#conf(name), options, given), values }
  }

  async #find(name: string): Promise<Plugin> {
    if (!/^[a-z0-9][a-z0-9-]*$/.test(name)) throw new BrokerError('NOT_FOUND', 'not_found') // it becomes a path
    const found = existsSync(this.#conf(name)) ? await this.#resolve(name) : undefined
    if (found !== undefined) return found
    throw new BrokerError('NOT_FOUND', `not_found (${this.#missing(name)})`)
  }

  #missing(name: string): string {
    if (existsSync(this.#conf(name))) return `${this.#conf(name)} is there, but no code for it`
    const meant = nearest(name, this.#names())
    return meant === undefined ? `there is no ${this.#conf(name)}` : `did you mean ${emqttdName(meant)}?`
  }

  #names(): string[] {
    const { etcDir } = this.#options
    if (!existsSync(etcDir)) return []
    return readdirSync(etcDir)
      .filter(file => file.endsWith('.conf'))
      .map(file => file.slice(0, -'.conf'.length))
      .sort()
  }

  async #resolve(name: string): Promise<Plugin | undefined> {
    return await (this.#options.resolve ?? (n => installed(n, this.#options.ownDir)))(name)
  }

  #remembered(): string[] {
    const { loadedFile } = this.#options
    if (!existsSync(loadedFile)) return []
    // emqttd closes each line with a full stop
    const lines = readFileSync(loadedFile, 'utf8').split('\n')
    return [...new Set(lines.map(line => canonicalName(line.trim().replace(/\.$/, ''))).filter(line => line !== ''))]
  }

  #remember(names: string[]): void {
    const { loadedFile } = this.#options
    mkdirSync(dirname(loadedFile), { recursive: true })
    writeFileSync(`${loadedFile}.new`, names.map(name => `${emqttdName(name)}.\n`).join(''))
    renameSync(`${loadedFile}.new`, loadedFile)
  }
}

/** Ours, the home's own, or an npm package that the home or the broker can see. */
async function installed(name: string, ownDir: string): Promise<Plugin | undefined> {
  const ours = new URL(`./plugins/${name}.js`, import.meta.url)
  if (existsSync(ours)) return await load(ours.href)
  for (const extension of ['js', 'mjs']) {
    const own = join(ownDir, `${name}.${extension}`)
    if (existsSync(own)) return await load(pathToFileURL(own).href)
  }
  for (const from of [join(ownDir, 'x.js'), import.meta.url]) {
    try {
      return await load(pathToFileURL(createRequire(from).resolve(`tsmqttd-plugin-${name}`)).href)
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') throw err
    }
  }
  return undefined
}

async function load(url: string): Promise<Plugin> {
  let found: Plugin | undefined
  try {
    found = ((await import(url)) as { default?: Plugin }).default
  } catch (cause) {
    throw new BrokerError('PLUGIN_FAILED', `cannot load ${fileURLToPath(url)}: ${messageOf(cause)}`, { cause })
  }
  if (typeof found?.start !== 'function') {
    throw new BrokerError('PLUGIN_FAILED', `${fileURLToPath(url)} has no plugin as its default export`)
  }
  return found
}
