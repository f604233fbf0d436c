/** Problems of an operator's settings, gathered so that one run shows all of them. */
import { BrokerError, messageOf } from '../base/errors.js'

/** What the work gives; undefined, and one problem more, when an operator must do something about it. */
export function trying<T>(problems: string[], work: () => T): T | undefined {
  try {
    return work()
  } catch (err) {
    noted(problems, err)
    return undefined
  }
}

/** The same of work that takes time. */
export async function tryingLater<T>(problems: string[], work: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (err) {
    noted(problems, err)
    return undefined
  }
}

export function noted(problems: string[], err: unknown): void {
  const isOperational = err instanceof BrokerError || (err instanceof Error && 'syscall' in err)
  if (!isOperational) throw err
  problems.push(messageOf(err))
}
