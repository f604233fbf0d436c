/** The configuration in force, and keys set until a restart. */
import type { ConfigOperations } from '../../ops/operations.js'
import { type Asked, code, flag, listOf, nothing, object, Refusal, type Route, text } from '../route.js'
import { api, done, isCode, onlyNode } from './common.js'

/** emqttd's name of the application that the broker's own keys belong to. */
const app = 'emqttd'

/** As emqttd names a value's kind, by how it is written. */
function kindOf(value: string): string {
  if (/^(true|false|on|off)$/.test(value)) return 'flag'
  if (/^\d+$/.test(value)) return 'integer'
  if (/^\d+\.\d+$/.test(value)) return 'float'
  if (/^\d+(\.\d+)?%$/.test(value)) return 'percent'
  if (/^\d+\s*[KMG]B$/i.test(value)) return 'bytesize'
  return /^(\d+(ms|s|m|h|d))+$/.test(value) ? 'duration' : 'string'
}

const configOf = ({ ops }: Asked): ConfigOperations => {
  try {
    return ops.config
  } catch (err) {
    if (isCode(err, 'CONFLICT')) throw new Refusal(code.unknown, err.message)
    throw err
  }
}

/** Keys in force, passwords masked. `datatpye` is emqttd's spelling. */
const configsOf = (asked: Asked) =>
  configOf(asked)
    .show()
    .filter(({ key }) => /^(node|log|mqtt|store|listener)\./.test(key))
    .map(({ key, value }) => ({ key, value: value ?? 'undefined', datatpye: kindOf(value ?? ''), app }))
const configSchema = listOf(object({ key: text, value: text, datatpye: text, app: text }))

const setConfig = async (asked: Asked): Promise<[]> => {
  const { params, body } = asked
  if (params['app'] !== app) throw new Refusal(code.unknown, `no such app: ${params['app']}; there is ${app}`)
  await configOf(asked).set(body.key, body.value)
  return done
}
const setting = {
  method: 'PUT',
  tag: 'Configuration',
  body: object({ key: text, value: text }),
  result: nothing
} as const

export const configs: Route[] = [
  {
    method: 'GET',
    path: `${api}/configs`,
    summary: 'Keys in force, by node',
    tag: 'Configuration',
    result: { type: 'object', additionalProperties: configSchema },
    run: asked => ({ [asked.ops.broker.state().node]: configsOf(asked) })
  },
  {
    method: 'GET',
    path: `${api}/nodes/:node_name/configs`,
    summary: 'Keys in force, of a node',
    tag: 'Configuration',
    result: configSchema,
    run: asked => {
      onlyNode(asked)
      return configsOf(asked)
    }
  },
  {
    ...setting,
    path: `${api}/configs/:app`,
    summary: 'Set a key until a restart or a reload',
    run: setConfig
  },
  {
    ...setting,
    path: `${api}/nodes/:node_name/configs/:app`,
    summary: 'Set a key until a restart or a reload, on a node',
    run: asked => {
      onlyNode(asked)
      return setConfig(asked)
    }
  },
  {
    method: 'GET',
    path: `${api}/nodes/:node_name/plugin_configs/:plugin_name`,
    summary: 'Keys of a plugin that is loaded',
    tag: 'Configuration',
    result: listOf(object({ key: text, value: text, desc: text, required: flag })),
    run: asked => {
      onlyNode(asked)
      const prefix = asked.params['plugin_name']!.replace(/^emqx?_/, '').replaceAll('_', '.')
      const keys = configOf(asked).show(prefix)
      return keys.map(({ key, value }) => ({ key, value: value ?? 'undefined', desc: '', required: true }))
    }
  }
]
