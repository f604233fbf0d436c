/**
 * Which plugins there are. One is there for the operator when etc/plugins/<name>.conf is. Its code is
 * shipped with the broker, a file plugins/<name>.js of the home, or the npm package `tsmqttd-plugin-<name>`.
 *
 * What is shipped stands in a table, and is no matter of file names: of the other files in this folder none
 * can be loaded as a plugin, whatever a configuration file is called.
 */
import { existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { BrokerError, messageOf } from '../base/errors.js'
import { nearest } from '../base/suggest.js'
import { readConfig, type Value, type Values } from '../config/schema.js'
import type { Plugin } from './context.js'

/** A plugin in its module, whatever its options are. */
interface PluginModule {
  readonly default?: Plugin<any>
}

const shipped: ReadonlyMap<string, () => Promise<PluginModule>> = new Map<string, () => Promise<PluginModule>>([
  ['auth-pgsql', () => import('./auth-pgsql/plugin.js')],
  ['auth-scram', () => import('./auth-scram/plugin.js')]
])

/** The names of the plugins that come with the broker. */
export const shippedPlugins: readonly string[] = [...shipped.keys()]

/** The code of a shipped plugin; undefined when there is none of that name. */
export async function shippedPlugin(name: string): Promise<Plugin | undefined> {
  const code = shipped.get(name)
  return code === undefined ? undefined : await load(emqttdName(name), code)
}

/** `emq_auth_pgsql`, `emqx_auth_pgsql`, `auth_pgsql` and `auth-pgsql` are one plugin: its file's name. */
export function canonicalName(typed: string): string {
  return typed.replace(/^emqx?[_-]/, '').replaceAll('_', '-')
}

/** As emqttd has it, and as it is printed: `auth_pgsql`. */
export const emqttdName = (name: string): string => name.replaceAll('-', '_')

export interface CatalogueOptions {
  /** etc/plugins. */
  readonly etcDir: string
  /** The home's plugins/ directory, where an operator's own may stand. */
  readonly ownDir: string
  readonly env: NodeJS.ProcessEnv
  /** Where a plugin's code comes from; a test hands in its own. */
  readonly resolve?: (name: string) => Promise<Plugin | undefined>
}

/** What a plugin's file says. */
export interface PluginConf {
  readonly options: any
  /** Undefined for a plugin that has no file. */
  readonly values: Values | undefined
}

/** Its names are canonical ones. */
export class Catalogue {
  readonly #options: CatalogueOptions

  constructor(options: CatalogueOptions) {
    this.#options = options
  }

  /** The plugins that have a file, whether there is code for them or not. */
  names(): string[] {
    const { etcDir } = this.#options
    if (!existsSync(etcDir)) return []
    return readdirSync(etcDir)
      .filter(file => file.endsWith('.conf'))
      .map(file => file.slice(0, -'.conf'.length))
      .sort()
  }

  /** Where a plugin's configuration stands. */
  conf(name: string): string {
    return join(this.#options.etcDir, `${name}.conf`)
  }

  /** A plugin's code; undefined when there is none. */
  async code(name: string): Promise<Plugin | undefined> {
    return await (this.#options.resolve ?? (n => installed(n, this.#options.ownDir)))(name)
  }

  /** The code of a plugin that has a file; what was meant instead, where there is no such plugin. */
  async find(name: string): Promise<Plugin> {
    if (!/^[a-z0-9][a-z0-9-]*$/.test(name)) throw new BrokerError('NOT_FOUND', 'not_found') // it becomes a path
    const found = existsSync(this.conf(name)) ? await this.code(name) : undefined
    if (found !== undefined) return found
    throw new BrokerError('NOT_FOUND', `not_found (${this.#missing(name)})`)
  }

  /** Reads a plugin's file; throws a ConfigError with every problem. */
  read({ name, options, prefix, validate }: Plugin): PluginConf {
    const { env } = this.#options
    const values = new Map<string, Value>()
    const take = (key: string, value: Value): void => void values.set(key, value)
    const given = { prefix, env, take, ...(validate === undefined ? {} : { check: validate }) }
    return { options: readConfig(this.conf(name), options, given), values }
  }

  #missing(name: string): string {
    if (existsSync(this.conf(name))) return `${this.conf(name)} is there, but no code for it`
    const meant = nearest(name, this.names())
    return meant === undefined ? `there is no ${this.conf(name)}` : `did you mean ${emqttdName(meant)}?`
  }
}

/** Shipped, the home's own, or an npm package that the home or the broker can see. */
async function installed(name: string, ownDir: string): Promise<Plugin | undefined> {
  const ours = await shippedPlugin(name)
  if (ours !== undefined) return ours
  for (const extension of ['js', 'mjs']) {
    const own = join(ownDir, `${name}.${extension}`)
    if (existsSync(own)) return await loadFile(own)
  }
  for (const from of [join(ownDir, 'x.js'), import.meta.url]) {
    try {
      return await loadFile(createRequire(from).resolve(`tsmqttd-plugin-${name}`))
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') throw err
    }
  }
  return undefined
}

const loadFile = (path: string): Promise<Plugin> => load(path, () => import(pathToFileURL(path).href))

/** @param what is loaded, for what goes wrong with it. */
async function load(what: string, code: () => Promise<PluginModule>): Promise<Plugin> {
  let found: Plugin | undefined
  try {
    found = (await code()).default
  } catch (cause) {
    throw new BrokerError('PLUGIN_FAILED', `cannot load ${what}: ${messageOf(cause)}`, { cause })
  }
  if (typeof found?.start !== 'function') {
    throw new BrokerError('PLUGIN_FAILED', `${what} has no plugin as its default export`)
  }
  return found
}
