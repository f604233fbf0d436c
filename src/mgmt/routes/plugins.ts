/** Plugins: listed, loaded and unloaded. */
import { code, flag, listOf, nothing, object, Refusal, type Route, text } from '../route.js'
import { api, done, isCode, onlyNode } from './common.js'

export const plugins: Route[] = [
  {
    method: 'GET',
    path: `${api}/nodes/:node_name/plugins`,
    summary: 'Plugins',
    tag: 'Plugins',
    result: listOf(
      object({ name: text, version: text, description: text, active: flag, trouble: text }, [
        'name',
        'version',
        'description',
        'active'
      ])
    ),
    run: async asked => {
      onlyNode(asked)
      return await asked.ops.plugins.list()
    }
  },
  {
    method: 'PUT',
    path: `${api}/nodes/:node_name/plugins/:plugin_name`,
    summary: 'Load or unload a plugin',
    tag: 'Plugins',
    body: object({ active: flag }),
    result: nothing,
    run: async asked => {
      onlyNode(asked)
      const { ops, params, body } = asked
      const name = params['plugin_name']!
      const { plugins } = ops
      try {
        await (body.active ? plugins.load(name) : plugins.unload(name))
      } catch (err) {
        if (isCode(err, 'CONFLICT')) throw new Refusal(code.loaded, 'plugin has been loaded')
        if (isCode(err, 'NOT_FOUND') && err.message === 'not_started')
          throw new Refusal(code.unloaded, 'plugin has been unloaded')
        throw err
      }
      return done
    }
  }
]
