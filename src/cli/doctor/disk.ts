/** Room for what the broker writes: the log, what it remembers, and the store. */
import { accessSync, constants, existsSync } from 'node:fs'
import { dirname } from 'node:path'
import { messageOf } from '../../base/errors.js'
import { type Begun, bytes, type Check, type DoctorContext, type Finding, sizeOf } from './finding.js'
import { store } from './store.js'

const little = 100 * 1024 ** 2
const enough = 1024 ** 3

export const disk: Check = context => {
  const { home, settings } = context
  const log = settings?.options.log
  const logDir = dirname(home.path(log?.console.file ?? 'log/broker.log'))
  // What the rotation lets the files grow to, the current one included.
  const logsMax = log === undefined ? 0 : [log.console, log.error].reduce((sum, f) => sum + f.size * (f.count + 1), 0)
  const kept = settings?.options.store
  const elsewhere =
    kept === undefined || kept.type === 'memory' || home.path(kept.dir).startsWith(`${home.data}/`)
      ? undefined
      : home.path(kept.dir)
  return [
    room(home.data, 'the store, and what is remembered over a restart, cannot be written', 0, context),
    room(logDir, 'a log that cannot be written tells nothing', Math.max(0, logsMax - sizeOf(logDir)), context),
    ...(elsewhere === undefined ? [] : [room(elsewhere, 'the store cannot be written', 0, context)]),
    ...store(context)
  ]
}

function room(dir: string, why: string, growth: number, context: DoctorContext): Begun {
  const check = `${context.near(dir)}/`
  return { check, why, findings: free(check, dir, why, growth, context) }
}

async function free(
  check: string,
  dir: string,
  why: string,
  growth: number,
  { host }: DoctorContext
): Promise<Finding> {
  let at = dir
  while (!existsSync(at)) at = dirname(at)
  try {
    accessSync(at, constants.W_OK)
  } catch {
    const mend = [`sudo chown -R "$USER" ${at}`]
    return { check, verdict: 'error', found: `${at} cannot be written by this user`, why, mend }
  }
  try {
    const { bavail, bsize, files, ffree } = await host.statfs(at)
    const free = bavail * bsize
    const found = `${bytes(free)} free${growth > 0 ? `; its files may grow by ${bytes(growth)}` : ''}`
    const mend = [`df -h ${at}`, `du -sh ${at}/*`]
    if (free < little) return { check, verdict: 'error', found, why, mend }
    if (files > 0 && ffree / files < 0.01) {
      return {
        check,
        verdict: 'warning',
        found: `${found}, but hardly a file more (inodes)`,
        why,
        mend: [`df -i ${at}`]
      }
    }
    return free < Math.max(enough, growth)
      ? { check, verdict: 'warning', found, why, mend }
      : { check, verdict: 'ok', found, why }
  } catch (err) {
    return { check, verdict: 'unknown', found: messageOf(err), why }
  }
}
