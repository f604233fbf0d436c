/**
 * Failures an operator can act on. Anything else that is thrown is a bug and
 * keeps its stack.
 */
export type ErrorCode =
  | 'CONFIG_INVALID' // a file under etc/ has problems; see ConfigError
  | 'NOT_FOUND' // no such client, plugin or listener
  | 'CONFLICT' // already loaded, already running, address in use
  | 'BAD_REQUEST' // wrong command or argument
  | 'QUOTA_EXCEEDED' // no room: the disk is full
  | 'PLUGIN_FAILED' // a plugin could not start, or its backend is away
  | 'UNAVAILABLE' // something outside the broker refused: a file, a port, a process
  | 'UNREACHABLE' // the admin socket does not answer

export class BrokerError extends Error {
  override readonly name: string = 'BrokerError'

  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions
  ) {
    super(message, options)
  }
}

/** The text of whatever was thrown. */
export function messageOf(err: unknown): string {
  return err instanceof Error ? err.message || ((err as NodeJS.ErrnoException).code ?? err.name) : String(err)
}
