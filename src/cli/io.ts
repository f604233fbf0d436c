/** Where the programs write, and how they end: the exit statuses are part of their promise. */
import { BrokerError } from '../errors.js'

export interface Io {
  out(text: string): void
  err(text: string): void
}

export const terminal: Io = {
  out: text => void process.stdout.write(`${text}\n`),
  err: text => void process.stderr.write(`${text}\n`)
}

export const Exit = {
  ok: 0,
  failed: 1,
  /** Wrong words on the command line. */
  usage: 2,
  /** The broker is not running; LSB's code for `status`. */
  notRunning: 3,
  /** For a supervisor: the port or another thing outside is not to be had now (EX_UNAVAILABLE). */
  unavailable: 69,
  /** For a supervisor: the broker met a bug (EX_SOFTWARE). */
  bug: 70,
  /** For a supervisor: the configuration is wrong, a restart will not help (EX_CONFIG). */
  config: 78
} as const

/** Prints what an operator can act on; a bug is thrown on, with its stack. */
export async function complain(io: Io, err: unknown): Promise<void> {
  if (!(err instanceof BrokerError)) throw err
  if (!process.stderr.isTTY) return io.err(err.message)
  const { default: chalk } = await import('chalk') // 15 ms that most commands need not spend
  io.err(chalk.red(err.message))
}
