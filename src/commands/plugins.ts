import { BrokerError } from '../base/errors.js'
import { command } from './command.js'

/** emqttd's words around what went wrong; the code, and with it the exit status, stays. */
async function saying<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (err) {
    if (!(err instanceof BrokerError)) throw err
    throw new BrokerError(err.code, `${what} plugin error: ${err.message}`, { cause: err })
  }
}

export const plugins = {
  'plugins list': command({
    summary: 'Show loaded plugins',
    run: ({ plugins }) => plugins.list(),
    print: rows =>
      rows
        .map(({ name, version, description, active, trouble }) => {
          const tail = trouble === undefined ? '' : `, trouble=${trouble}`
          return `Plugin(${name}, version=${version}, description=${description}, active=${active}${tail})`
        })
        .join('\n')
  }),
  'plugins load': command({
    summary: 'Load plugin',
    usage: '<plugin>',
    acts: true,
    async run({ plugins }, { plugin }) {
      await saying('load', () => plugins.load(plugin))
      return { plugin }
    },
    print: ({ plugin }) => `Start apps: [${plugin}]\nPlugin ${plugin} loaded successfully.`
  }),
  'plugins unload': command({
    summary: 'Unload plugin',
    usage: '<plugin>',
    acts: true,
    async run({ plugins }, { plugin }) {
      await saying('unload', () => plugins.unload(plugin))
      return { plugin }
    },
    print: ({ plugin }) => `Plugin ${plugin} unloaded successfully.`
  }),
  'plugins reload': command({
    summary: 'Reload a plugin with its configuration as it is now',
    usage: '<plugin>',
    acts: true,
    async run({ plugins }, { plugin }) {
      await saying('reload', () => plugins.reload(plugin))
      return { plugin }
    },
    print: ({ plugin }) => `Plugin ${plugin} reloaded successfully.`
  })
}
