/** Every command, in the order in which help shows them. */
import { acl } from './acl.js'
import { alarms } from './alarms.js'
import { auth } from './auth.js'
import { banned } from './banned.js'
import { clients } from './clients.js'
import { listeners } from './listeners.js'
import { node } from './node.js'
import { plugins } from './plugins.js'
import { scram } from './scram.js'
import { status } from './status.js'
import { traces } from './trace.js'

export const commands = {
  ...status,
  ...acl,
  ...auth,
  ...clients,
  ...banned,
  ...plugins,
  ...scram,
  ...listeners,
  ...traces,
  ...alarms,
  ...node
}

export type Commands = typeof commands
