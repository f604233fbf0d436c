/** What the routes share: their path, emqttd's empty result, and that there is one node. */
import { BrokerError } from '../../base/errors.js'
import { type Asked, code, Refusal } from '../route.js'

export const api = '/api/v2'
/** emqttd's empty result. */
export const done: [] = []

/** There is one node; any other cannot be reached. */
export function onlyNode({ ops, params }: Asked): string {
  const { node } = ops.broker.state()
  if (params['node_name'] !== undefined && params['node_name'] !== node) {
    throw new Refusal(code.badRpc, `no such node: ${params['node_name']}`)
  }
  return node
}

export const isCode = (err: unknown, is: BrokerError['code']): err is BrokerError =>
  err instanceof BrokerError && err.code === is

export function* mapped<T>(all: Iterable<T>, row: (each: T) => unknown): Generator<unknown> {
  for (const each of all) yield row(each)
}

/** emqttd's time, of seconds since 1970. */
export { clock } from '../../base/uptime.js'
