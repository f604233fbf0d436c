/** Where the programs write, and how they end: the exit statuses are part of their promise. */
import { relative } from 'node:path'
import { BrokerError } from '../base/errors.js'

export interface Io {
  out(text: string): void
  err(text: string): void
  /** Asks for what is not to be seen, twice if it is new; absent where nobody can be asked. */
  secret?(what: string, isNew: boolean): Promise<string>
}

export const terminal: Io = {
  out: text => print(process.stdout, text),
  err: text => print(process.stderr, text),
  secret: async (what, isNew) => await (await import('./secret.js')).askSecret(what, isNew)
}

function print(stream: NodeJS.WriteStream, text: string): void {
  if (!stream.listeners('error').includes(readerHasLeft)) stream.on('error', readerHasLeft)
  stream.write(`${text}\n`)
}

/** `broker logs | head` has seen enough; that is no failure. */
function readerHasLeft(err: NodeJS.ErrnoException): void {
  if (err.code !== 'EPIPE') throw err
  process.exit(Exit.ok)
}

export const Exit = {
  ok: 0,
  failed: 1,
  /** Wrong words on the command line. */
  usage: 2,
  /** The broker is not running; LSB's code for `status`. */
  notRunning: 3,
  /** Whether it runs cannot be told; LSB's code for `status`. */
  unknown: 4,
  /** `doctor` found nothing worse than warnings. */
  warnings: 5,
  /** For a supervisor: the port or another thing outside is not to be had now (EX_UNAVAILABLE). */
  unavailable: 69,
  /** For a supervisor: the broker met a bug (EX_SOFTWARE). */
  bug: 70,
  /** For a supervisor: the configuration is wrong, a restart will not help (EX_CONFIG). */
  config: 78,
  /**
   * For pm2: the broker was asked to stop, as a shell says it of SIGTERM. Not 0: pm2 takes an end by any signal
   * for that, and would leave a broker that was killed lying.
   */
  stopped: 143
} as const

/** Prints what an operator can act on; a bug is thrown on, with its stack. */
export async function printError(io: Io, err: unknown): Promise<void> {
  if (!isOperational(err)) throw err
  if (!process.stderr.isTTY) return io.err(err.message)
  const { default: chalk } = await import('chalk') // 15 ms that most commands need not spend
  io.err(chalk.red(err.message))
}

/** Ours, or what the system says of a file: `EACCES: permission denied, open '/etc/x'`. */
export function isOperational(err: unknown): err is Error {
  return err instanceof BrokerError || (err instanceof Error && 'syscall' in err && 'path' in err)
}

/** The shorter name of a file below the current directory. */
export function near(file: string): string {
  const path = relative(process.cwd(), file)
  return path === '' || path.startsWith('..') ? file : path
}
