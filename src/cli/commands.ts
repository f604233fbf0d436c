/** What the words of `broker` do, apart from those that run the broker in this process. */

import { BrokerError, messageOf } from '../errors.js'
import { type Home, version } from '../home.js'
import { Hooks } from '../hooks.js'
import { createLog } from '../log.js'
import { PluginHost } from '../plugins.js'
import { nodeNameOf, readSettings } from '../settings.js'
import { ping, type StartOptions, type StopOptions, startDaemon, stopDaemon } from './daemon.js'
import { Exit, type Io } from './io.js'
import { lastLines } from './logs.js'

export async function start(home: Home, io: Io, options: Omit<StartOptions, 'crashFile'>): Promise<number> {
  const crashFile = await checked(home) // a bad file is reported here, not in the log
  let answer: Awaited<ReturnType<typeof startDaemon>>
  try {
    answer = await startDaemon(home, { ...options, crashFile })
  } catch (err) {
    if (!(err instanceof BrokerError)) throw err
    if (err.code === 'CONFLICT') {
      io.out(err.message) // emqttd says it on standard output
      return Exit.failed
    }
    const tail = await lastLines(home, 10)
    if (tail.length > 0) io.err(`the last lines of its log:\n${tail.map(l => `  ${l}`).join('\n')}`)
    throw err
  }
  if (answer === undefined) {
    io.out(`broker ${version} is being started`)
    return Exit.ok
  }
  for (const { name, bind } of answer.listeners) io.out(`listening on ${name.padEnd(14)} ${bind}`)
  io.out(`broker ${answer.version} is started successfully!`)
  return Exit.ok
}

export async function stop(home: Home, io: Io, options: StopOptions): Promise<number> {
  if (!(await stopDaemon(home, options))) return notResponding(home, io)
  io.out('ok')
  return Exit.ok
}

export async function restart(home: Home, io: Io, options: StopOptions): Promise<number> {
  const crashFile = await checked(home) // before the running one is stopped
  if (!(await stopDaemon(home, options))) return notResponding(home, io)
  await startDaemon(home, { wait: true, timeoutMs: options.timeoutMs, crashFile })
  io.out('ok')
  return Exit.ok
}

export async function pong(home: Home, io: Io): Promise<number> {
  if ((await ping(home)) === undefined) return notResponding(home, io)
  io.out('pong')
  return Exit.ok
}

export async function pid(home: Home, io: Io): Promise<number> {
  const answer = await ping(home)
  if (answer === undefined) return notResponding(home, io)
  io.out(String(answer.pid))
  return Exit.ok
}

export async function status(home: Home, io: Io, json: boolean): Promise<number> {
  const answer = await ping(home)
  const node = nodeNameOf(home)
  if (json) {
    io.out(JSON.stringify(answer ?? { node, phase: 'stopped' }))
  } else if (answer === undefined) {
    io.out(`Node '${node}' is not running`)
  } else {
    io.out(`Node '${answer.node}' is started`)
    io.out(answer.phase === 'running' ? `broker ${answer.version} is running` : `broker is ${answer.phase}`)
  }
  return answer === undefined ? Exit.notRunning : Exit.ok
}

export async function check(home: Home, io: Io): Promise<number> {
  await checked(home)
  io.out(`${home.conf} is valid`)
  return Exit.ok
}

/** Reads everything that a start will read; throws every problem. Returns where a crash is written. */
async function checked(home: Home): Promise<string> {
  const { options } = readSettings(home)
  const { etcDir, loadedFile } = options.mqtt.plugins
  const log = createLog()
  const plugins = new PluginHost(
    {
      etcDir: home.path(etcDir),
      loadedFile: home.path(loadedFile),
      ownDir: home.path('plugins'),
      path: home.path,
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
    throw new BrokerError(
      'CONFIG_INVALID',
      `${home.path(loadedFile)} names a plugin that is not there: ${messageOf(err)}`,
      { cause: err }
    )
  }
  return home.path(options.log.crash.file)
}

function notResponding(home: Home, io: Io): number {
  io.err(`Node '${nodeNameOf(home)}' not responding to pings.`)
  return Exit.failed
}
