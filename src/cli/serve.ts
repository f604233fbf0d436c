/**
 * Runs the broker in this process until it is told to stop: `broker console`,
 * `broker foreground`, and the process that pm2 keeps.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { BrokerError, messageOf } from '../errors.js'
import type { Home } from '../home.js'
import { createLog, type Level, type LogRoot, type Sink } from '../log.js'
import { fileSinks, terminalSink } from '../log-files.js'
import { Server } from '../server.js'
import { readSettings } from '../settings.js'
import { complain, Exit, terminal } from './io.js'

/** `console`: readable on the terminal. `foreground`: JSON on stdout. `daemon`: files, for pm2. */
export type Manner = 'console' | 'foreground' | 'daemon'

/** Resolves to the exit status when the broker has stopped. */
export async function serve(home: Home, manner: Manner): Promise<number> {
  let log: LogRoot | undefined
  try {
    const settings = readSettings(home)
    const { log: options } = settings.options
    log = createLog(...sinksFor(manner, options.console.to, options.console.level), ...fileSinks(options, home.path))
    const server = await Server.start({ settings, home, log })
    rmSync(home.failure, { force: true })
    stopOnSignals(server, log)
    dieLoudly(log)
    await server.stopped
    await log.close()
    return Exit.ok
  } catch (err) {
    log?.critical('broker did not start', { err })
    await log?.close()
    if (manner === 'daemon') return leaveWord(home, err)
    await complain(terminal, err)
    return Exit.failed
  }
}

function sinksFor(manner: Manner, to: string, level: Level): Sink[] {
  if (manner === 'console') return [terminalSink(level, 'text')]
  if (manner === 'foreground') return [terminalSink(level, 'json')]
  return to === 'console' || to === 'both' ? [terminalSink(level, 'text')] : []
}

/** The first signal stops in good order, a second one at once. */
function stopOnSignals(server: Server, log: LogRoot): void {
  let asked = false
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (asked) process.exit(Exit.failed)
      asked = true
      log.info(`received ${signal}`)
      void server.stop()
    })
  }
  process.on('SIGHUP', () => {}) // the terminal it was started from may close
}

/** A bug ends the process, so that its supervisor starts a sound one; its words are in the log first. */
function dieLoudly(log: LogRoot): void {
  const die = (err: unknown): void => {
    log.critical('bug', { err })
    process.stderr.write(`${new Date().toISOString()} ${err instanceof Error ? err.stack : String(err)}\n`)
    setTimeout(() => process.exit(Exit.bug), 1000)
    void log.close().finally(() => process.exit(Exit.bug))
  }
  process.on('uncaughtException', die)
  process.on('unhandledRejection', die)
}

/** For `broker start`, which waits for a word from the process it had started. */
function leaveWord(home: Home, err: unknown): number {
  const code = err instanceof BrokerError ? err.code : undefined
  const message = code === undefined && err instanceof Error ? (err.stack ?? err.message) : messageOf(err)
  writeFileSync(home.failure, JSON.stringify({ pid: process.pid, message }))
  if (code === undefined) process.stderr.write(`${message}\n`)
  return code === 'CONFIG_INVALID' ? Exit.config : code === undefined ? Exit.bug : Exit.unavailable
}
