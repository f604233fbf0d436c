/** Reads everything that a start will read, before anything is started or stopped. */
import { BrokerError, messageOf } from '../errors.js'
import { type Home, version } from '../home.js'
import { Hooks } from '../hooks.js'
import { createLog } from '../log.js'
import { PluginHost, pluginPaths } from '../plugins.js'
import { readSettings } from '../settings.js'
import { Spaces } from '../store/spaces.js'

/** Throws every problem. Returns where a crash is written. */
export async function checkAll(home: Home): Promise<string> {
  const { options } = readSettings(home)
  const paths = pluginPaths(home.path, options.mqtt.plugins)
  const log = createLog()
  const plugins = new PluginHost(
    {
      ...paths,
      spaces: new Spaces(),
      version,
      env: process.env,
      changed: () => {}
    },
    new Hooks(log),
    log
  )
  try {
    await plugins.checkRemembered()
  } catch (err) {
    if (!(err instanceof BrokerError) || err.code !== 'NOT_FOUND') throw err
    throw new BrokerError('CONFIG_INVALID', `${paths.loadedFile} names a plugin that is not there: ${messageOf(err)}`, {
      cause: err
    })
  }
  return home.path(options.log.crash.file)
}
