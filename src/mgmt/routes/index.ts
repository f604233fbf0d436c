/** emqttd's /api/v2 and what is new here, in the order in which the description shows them. */
import type { Route } from '../route.js'
import { alarms } from './alarms.js'
import { bans } from './bans.js'
import { clients } from './clients.js'
import { configs } from './configs.js'
import { messages } from './messages.js'
import { nodes } from './nodes.js'
import { plugins } from './plugins.js'
import { retained } from './retained.js'
import { users } from './users.js'
import { watching } from './watching.js'

export const routes: readonly Route[] = [
  ...nodes,
  ...clients,
  ...messages,
  ...retained,
  ...plugins,
  ...alarms,
  ...bans,
  ...configs,
  ...users,
  ...watching
]
