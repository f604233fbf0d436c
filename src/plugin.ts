/**
 * All that a plugin author imports: `import { plugin, text } from 'tsmqttd/plugin'`.
 *
 * A plugin is one object: its keys, and a start() that registers hooks and
 * returns what undoes it. What it registers through its context leaves with it.
 */

export { BrokerError } from './base/errors.js'
export type { Log } from './base/log/log.js'
export { named, type Options, type Schema } from './config/schema.js'
export * from './config/values.js'
export { type Plugin, type PluginContext, plugin, type Running } from './plugins/context.js'
export type * from './plugins/hooks.js'
export type { Space } from './store/plugin-storage.js'
