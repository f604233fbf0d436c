/** Every command, in the order in which help shows them. */
import { acl } from './acl.js'
import { alarms } from './alarms.js'
import { clients } from './clients.js'
import { complete } from './complete.js'
import { listeners } from './listeners.js'
import { log } from './log.js'
import { node } from './node.js'
import { plugins } from './plugins.js'
import { scram } from './scram.js'
import { status } from './status.js'
import { store } from './store.js'

export const commands = {
  ...status,
  ...acl,
  ...clients,
  ...plugins,
  ...scram,
  ...listeners,
  ...store,
  ...alarms,
  ...node,
  ...log,
  ...complete
}

export type Commands = typeof commands
