/**
 * All that a plugin author imports: `import { plugin, text } from 'tsmqttd/plugin'`.
 *
 * A plugin is one object: its keys, and a start() that registers hooks and
 * returns what undoes it. What it registers through its context leaves with it.
 */

export type * from './base/client-info.js'
export { BrokerError } from './base/errors.js'
export type { Log } from './base/log/log.js'
export { named, type Options, type Schema } from './config/schema.js'
export * from './config/values.js'
export { type Plugin, type PluginContext, plugin, type Running } from './plugins/context.js'
export type * from './plugins/hooks.js'
export { type AclRow, decideRows, explainRows } from './plugins/kit/acl-rows.js'
export { Backend, type BackendOptions, connection } from './plugins/kit/backend.js'
export { hashPassword, needsSalt, type PasswordHash, passwordHash, verifyPassword } from './plugins/kit/passwords.js'
export { type BoundQuery, postgresql, type SqlDialect, sqlQuery } from './plugins/kit/sql.js'
export { nobody, type Variable, type VariableClient, variables, variableValue } from './plugins/kit/variables.js'
export type { Space } from './store/plugin-storage.js'
