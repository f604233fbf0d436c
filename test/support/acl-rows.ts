/** The ACL table of emqttd's manual, and what it means. */
import type { ClientInfo } from '../../src/base/client-info.js'
import type { AclRow } from '../../src/plugins/kit/acl-rows.js'

export const clientOf = (username: string | undefined, clientId = 'c1', address = '127.0.0.1'): ClientInfo => ({
  clientId,
  username,
  peer: { address, port: 50000 },
  local: true,
  listener: 'tcp:external',
  cleanSession: true,
  keepAlive: 60,
  protocolVersion: 4,
  connectedAt: new Date(0)
})

/** Of emqttd's manual. */
export const sample: AclRow[] = [
  ['1', null, '$all', null, '2', '#'],
  ['0', null, '$all', null, '1', '$SYS/#'],
  ['0', null, '$all', null, '1', 'eq #'],
  ['1', '127.0.0.1', null, null, '2', '$SYS/#'],
  ['1', '127.0.0.1', null, null, '2', '#'],
  ['1', null, 'dashboard', null, '1', '$SYS/#']
]

export type Verdict = 'allow' | 'deny' | 'ignore'
type Question = [user: string | undefined, address: string, action: 'publish' | 'subscribe', topic: string, Verdict]

export const sampleVerdicts: readonly Question[] = [
  ['dashboard', '10.0.0.1', 'subscribe', '$SYS/#', 'allow'],
  ['dashboard', '10.0.0.1', 'subscribe', '$SYS/broker/+', 'allow'],
  ['sensor', '10.0.0.1', 'subscribe', '$SYS/#', 'deny'],
  ['sensor', '10.0.0.1', 'subscribe', '$SYS/broker', 'deny'],
  [undefined, '10.0.0.1', 'subscribe', '$SYS/+/x', 'deny'],
  ['sensor', '10.0.0.1', 'subscribe', '#', 'deny'],
  ['sensor', '10.0.0.1', 'subscribe', 'a/#', 'ignore'],
  ['sensor', '10.0.0.1', 'publish', 'a/b', 'allow'],
  ['sensor', '10.0.0.1', 'publish', '$SYS/x', 'ignore'],
  ['sensor', '127.0.0.1', 'publish', '$SYS/x', 'allow'],
  [undefined, '127.0.0.1', 'publish', 'a', 'allow']
]
