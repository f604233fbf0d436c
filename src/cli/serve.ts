/**
 * Runs the broker in this process until it is told to stop: `broker console`,
 * `broker foreground`, and the process that pm2 keeps.
 */

import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import { fileSinks, terminalSink } from '../base/log/files.js'
import { createLog, type Log, type LogRoot, type Sink } from '../base/log/log.js'
import type { LogOptions } from '../config/broker-keys.js'
import { Server } from '../server/server.js'
import { readSettings } from '../server/settings.js'
import { keepCapped } from './crash-file.js'
import { forgetWord, leaveWord } from './failure.js'
import { Exit, printError, terminal } from './io.js'

/** `console`: readable on the terminal. `foreground`: JSON on stdout. `daemon`: files, for pm2. */
export type Manner = 'console' | 'foreground' | 'daemon'

/** Resolves to the exit status when the broker has stopped. */
export async function serve(home: Home, manner: Manner): Promise<number> {
  // Whoever reads what we print may go, pm2 or a pager; the broker stays.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  let log: LogRoot | undefined
  try {
    const settings = readSettings(home)
    const { log: options } = settings.options
    const files = fileSinks(options, home.path)
    log = createLog(...files, ...sinksFor(manner, options.console))
    log.limitRepeats(options.messagesPerSecond)
    exitOnBug(log, manner === 'daemon' ? home : undefined)
    const stopOnSignal = listenToSignals(log, manner)
    let server: Server
    try {
      const sinks = (of: LogOptions): Sink[] => [...fileSinks(of, home.path), ...sinksFor(manner, of.console)]
      server = await Server.start({ settings, home, log, sinks })
    } catch (err) {
      if (manner === 'console') await log.replaceSinks(files) // printError() tells the same person
      log.critical('broker did not start', { err })
      throw err
    }
    stopOnSignal(server)
    if (manner === 'daemon') {
      const file = home.path(options.crash.file)
      keepCapped(file, err => log?.error('the crash file cannot be kept small', { file, err }))
    }
    forgetWord(home)
    await server.stopped
    await log.close()
    return manner === 'daemon' ? Exit.stopped : Exit.ok
  } catch (err) {
    await log?.close()
    if (manner === 'daemon') return leaveWord(home, err)
    await printError(terminal, err)
    return Exit.failed
  }
}

function sinksFor(manner: Manner, { to, level, format }: LogOptions['console']): Sink[] {
  if (manner === 'console') return [terminalSink(level, 'text')]
  if (manner === 'foreground') return [terminalSink(level, 'json')]
  return to === 'console' || to === 'both' ? [terminalSink(level, format)] : []
}

/**
 * The first signal stops in good order, a second one at once, as does one before there is anything to stop:
 * as process 1 of a container we would not end by ourselves.
 */
function listenToSignals(log: Log, manner: Manner): (server: Server) => void {
  let running: Server | undefined
  const stop = (signal: NodeJS.Signals): void => {
    if (running === undefined) process.exit(Exit.stopped)
    const server = running
    running = undefined
    log.info(`received ${signal}`)
    void server.stop()
  }
  process.on('SIGINT', stop)
  process.on('SIGTERM', stop)
  // A console ends with its terminal; the others read their configuration again, as daemons do.
  process.on('SIGHUP', manner === 'console' ? stop : () => void reread(running, log))
  return server => {
    running = server
  }
}

async function reread(server: Server | undefined, log: Log): Promise<void> {
  try {
    await server?.ops.config.reload()
  } catch (err) {
    if (!(err instanceof BrokerError)) throw err
    log.error('configuration is not read again', { err })
  }
}

/** A bug ends the process, so that its supervisor starts a sound one; its words are in the log first. */
function exitOnBug(log: LogRoot, home: Home | undefined): void {
  const die = (err: unknown): void => {
    log.critical('bug', { err })
    if (home !== undefined) leaveWord(home, err)
    else process.stderr.write(`${new Date().toISOString()} ${err instanceof Error ? err.stack : String(err)}\n`)
    setTimeout(() => process.exit(Exit.bug), 1000)
    void log.close().finally(() => process.exit(Exit.bug))
  }
  process.on('uncaughtException', die)
  process.on('unhandledRejection', die)
}
