/** Reads everything that a start will read, before anything is started or stopped. */
import { BrokerError, messageOf } from '../base/errors.js'
import { type Home, version } from '../base/home.js'
import { createLog } from '../base/log/log.js'
import { Hooks } from '../plugins/hooks.js'
import { PluginHost, pluginPaths } from '../plugins/host.js'
import { readSettings } from '../server/settings.js'
import { PluginStorage } from '../store/plugin-storage.js'

/** Throws every problem. Returns where a crash is written. */
export async function checkAll(home: Home): Promise<string> {
  const { options } = readSettings(home)
  const paths = pluginPaths(home.path, options.mqtt.plugins)
  const log = createLog()
  const plugins = new PluginHost(
    {
      ...paths,
      storage: new PluginStorage(),
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
