/** The end of a process that is not ours, by a signal. */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '../../base/errors.js'
import { isAlive } from '../../base/lock.js'

/** Milliseconds, for what has been sent SIGKILL, or has nothing left to do but end. */
export const endingMs = 5000

/** Sends the signal and waits for the end, but not for ever; returns when it was last seen alive. */
export async function endProcess(pid: number, signal: NodeJS.Signals, patienceMs: number): Promise<number> {
  try {
    process.kill(pid, signal)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'EPERM') throw new BrokerError('UNAVAILABLE', `pid ${pid} belongs to another user`, { cause })
    if (code !== 'ESRCH') throw cause
  }
  return await untilGone(pid, Date.now() + patienceMs)
}

/** Waits until the process is gone or time is up; returns when it was last seen alive. */
export async function untilGone(pid: number, deadline: number): Promise<number> {
  let seen = 0
  while (isAlive(pid)) {
    seen = Date.now()
    if (seen > deadline) break
    await sleep(10)
  }
  return seen
}
