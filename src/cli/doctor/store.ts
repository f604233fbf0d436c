/** The store: what it takes, whether it can grow, be copied and be relied on, and what lies about of others before it. */
import { existsSync, readdirSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { lastBackup } from '../../store/maintenance.js'
import { dataFile, restoredFile } from '../../store/open.js'
import { type Begun, bytes, type DoctorContext, type Finding, needsConfig, sizeOf } from './finding.js'

const why = 'sessions, queues and retained messages that outlive a restart'

export function store(context: DoctorContext): (Finding | Begun)[] {
  const { home, settings, near } = context
  if (settings === undefined) return [needsConfig('store')]
  const { type, dir, sync, syncInterval } = settings.options.store
  if (type === 'memory') {
    const found = 'in memory (store.type): sessions and retained messages end with the broker'
    return [{ check: 'store', verdict: 'ok', found, why }]
  }
  const directory = home.path(dir)
  const check = near(dataFile(directory))
  const lost = `${syncInterval / 1000} s`
  return [
    { check, why, findings: file(check, directory, context) },
    synced(sync, lost),
    ...aside(directory, context),
    ...(existsSync(dataFile(directory)) ? [backup(directory, context)] : [])
  ]
}

async function file(check: string, directory: string, { host }: DoctorContext): Promise<Finding> {
  const size = statSync(dataFile(directory), { throwIfNoEntry: false })?.size
  const restored = existsSync(restoredFile(directory)) ? '; the next start takes a backup in its place' : ''
  if (size === undefined) return { check, verdict: 'ok', found: `nothing is stored yet${restored}`, why }
  const { bavail, bsize } = await host.statfs(directory)
  const free = bavail * bsize
  const found = `${bytes(size)}, ${bytes(free)} free beside it${restored}`
  if (free >= size) return { check, verdict: 'ok', found, why }
  return {
    check,
    verdict: 'warning',
    found,
    why: 'a backup or `store compact` needs as much again as the store has; without room acknowledgements end',
    mend: [`df -h ${directory}`]
  }
}

function synced(sync: 'commit' | 'interval' | 'off', lost: string): Finding {
  const check = 'store.sync'
  const why = 'whether what was acknowledged outlives a failure of power'
  if (sync === 'commit') return { check, verdict: 'ok', found: 'commit: on disk before it is acknowledged', why }
  if (sync === 'interval')
    return { check, verdict: 'ok', found: `interval: the last ${lost} may be lost in a crash`, why }
  return {
    check,
    verdict: 'warning',
    found: 'off: the system writes when it likes',
    why: 'a failure of power may lose what was acknowledged, and damage the whole store',
    mend: ['store.sync = commit in etc/broker.conf', 'then: broker restart']
  }
}

/** Stores that were put aside stay until somebody removes them. */
function aside(directory: string, { near }: DoctorContext): Finding[] {
  const parent = dirname(directory)
  const names = existsSync(parent) ? readdirSync(parent).sort() : []
  const of = (kind: string): { text: string; mend: string[] } | undefined => {
    const found = names
      .filter(name => name.startsWith(`${basename(directory)}.${kind}-`))
      .map(name => join(parent, name))
    if (found.length === 0) return undefined
    const text = found.map(path => `${near(path)} (${bytes(sizeOf(path))})`).join(', ')
    return { text, mend: [`when it is not needed any more: rm -r ${found.join(' ')}`] }
  }
  const findings: Finding[] = []
  const bad = of('bad')
  const before = of('before-restore')
  if (bad !== undefined) {
    findings.push({
      check: 'damaged store',
      verdict: 'warning',
      found: `put aside: ${bad.text}`,
      why: 'what was in it is not in the store that is used now; a disk or a failure of power may be behind it',
      mend: bad.mend
    })
  }
  if (before !== undefined) {
    const why = 'the store that was before a restore'
    findings.push({ check: 'store before restore', verdict: 'ok', found: `put aside: ${before.text}`, why })
  }
  return findings
}

function backup(directory: string, { host }: DoctorContext): Finding {
  const check = 'last backup'
  const why = 'what a lost disk would cost; a copy that was made otherwise is not known here'
  const last = lastBackup(directory)
  if (last === undefined) return { check, verdict: 'unknown', found: 'none was made by `store backup`', why }
  const hours = Math.floor((host.now().getTime() - Date.parse(last.at)) / 3_600_000)
  const age = hours < 48 ? `${hours} hours` : `${Math.floor(hours / 24)} days`
  const is = existsSync(last.file) ? '' : '; it is not there any more'
  return { check, verdict: 'ok', found: `${age} ago, ${last.file}${is}`, why }
}
