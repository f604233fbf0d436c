/** Room for what the broker writes: the log, the store, and what it remembers. */
import { accessSync, constants, existsSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { messageOf } from '../../errors.js'
import { bytes, type Check, type Finding, type Scene } from './finding.js'

const little = 100 * 1024 ** 2
const enough = 1024 ** 3

export const disk: Check = async scene => {
  const { home, settings } = scene
  const log = settings?.options.log
  const logDir = dirname(home.path(log?.console.file ?? 'log/broker.log'))
  // What the rotation lets the files grow to, the current one included.
  const logsMax = log === undefined ? 0 : [log.console, log.error].reduce((sum, f) => sum + f.size * (f.count + 1), 0)
  return [
    await room(home.data, 'the store, and what is remembered over a restart, cannot be written', 0, scene),
    await room(logDir, 'a log that cannot be written tells nothing', Math.max(0, logsMax - sizeOf(logDir)), scene),
    store(scene)
  ]
}

async function room(dir: string, why: string, growth: number, { host, near }: Scene): Promise<Finding> {
  const check = `${near(dir)}/`
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

function store({ home, near }: Scene): Finding {
  const dir = join(home.data, 'store')
  const check = `${near(dir)}/`
  const why = 'sessions, queues and retained messages that outlive a restart'
  if (!existsSync(dir)) return { check, verdict: 'ok', found: 'nothing is stored', why }
  const aside = [...namesIn(home.data), ...namesIn(dir)].filter(name => /\.bad/.test(name))
  const found = `${bytes(sizeOf(dir))}`
  if (aside.length === 0) return { check, verdict: 'ok', found, why }
  return {
    check,
    verdict: 'warning',
    found: `${found}; a damaged one was put aside: ${aside.join(', ')}`,
    why: 'what was in it is not in the store that is used now; a disk or a power failure may be behind it',
    mend: [`remove it when it is not needed any more: ls -d ${home.data}/*.bad* ${dir}/*.bad*`]
  }
}

const namesIn = (dir: string): string[] => (existsSync(dir) ? readdirSync(dir) : [])

/** On the disk: LMDB's file says it is larger than what it takes. */
function sizeOf(path: string): number {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) return 0
  if (!stat.isDirectory()) return Math.min(stat.size, stat.blocks * 512)
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0)
}
