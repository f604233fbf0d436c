/** Every command, in the order in which help shows them. */

import { scram } from '../plugins/auth-scram/commands.js'
import { acl } from './acl.js'
import { admins } from './admins.js'
import { alarms } from './alarms.js'
import { auth } from './auth.js'
import { banned } from './banned.js'
import { broker } from './broker.js'
import { clients } from './clients.js'
import { bridges, cluster } from './cluster.js'
import { complete } from './complete.js'
import { config } from './config.js'
import { listeners } from './listeners.js'
import { log } from './log.js'
import { messages } from './messages.js'
import { node } from './node.js'
import { plugins } from './plugins.js'
import { retainer } from './retainer.js'
import { sessions } from './sessions.js'
import { status } from './status.js'
import { store } from './store.js'
import { subscriptions } from './subscriptions.js'
import { topics } from './topics.js'
import { traces } from './trace.js'
import { vm } from './vm.js'

export const commands = {
  ...status,
  ...config,
  ...broker,
  ...cluster,
  ...acl,
  ...auth,
  ...clients,
  ...banned,
  ...sessions,
  ...topics,
  ...subscriptions,
  ...plugins,
  ...scram,
  ...bridges,
  ...vm,
  ...listeners,
  ...retainer,
  ...store,
  ...traces,
  ...messages,
  ...alarms,
  ...admins,
  ...node,
  ...log,
  ...complete
}

export type Commands = typeof commands
