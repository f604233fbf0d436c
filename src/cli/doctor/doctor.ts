/**
 * `broker doctor`: what is wrong, or will be, with this home and this host, why that
 * matters, and the command that mends it. It changes nothing, whether the broker
 * runs or not, and every check that was begun is in the report: one that does not end
 * in time is told as late.
 */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { AdminClient } from '../../admin/client.js'
import { BrokerError, messageOf } from '../../base/errors.js'
import type { Home } from '../../base/home.js'
import { holderOf } from '../../base/lock.js'
import { readSettings } from '../../server/settings.js'
import { Exit, type Io } from '../io.js'
import { access, plugins } from './access.js'
import { certificates, secrets } from './certificates.js'
import { disk } from './disk.js'
import {
  type Begun,
  type BrokerState,
  type Check,
  type DoctorContext,
  type Finding,
  type Host,
  type Verdict,
  verdicts
} from './finding.js'
import { limits } from './limits.js'
import { ports } from './ports.js'
import { configuration, running } from './running.js'
import { clock, software } from './software.js'

type Group = readonly [title: string, ...checks: Check[]]

const groups: readonly Group[] = [
  ['Configuration', configuration],
  ['Broker', running],
  ['Ports', ports],
  ['Access', access, plugins],
  ['Certificates and secrets', certificates, secrets],
  ['Limits', limits],
  ['Disk', disk],
  ['Software and clock', software, clock]
]

export interface Patience {
  /** Until a broker that says nothing is told as silent. */
  readonly pingMs: number
  /** Until a check is told as late. */
  readonly checkMs: number
}

/** Together with Node's own start below the three seconds that are promised. */
const patience: Patience = { pingMs: 700, checkMs: 1500 }

export const thisHost: Host = {
  platform: process.platform,
  read: file => {
    try {
      return readFileSync(file, 'utf8')
    } catch {
      return undefined
    }
  },
  run: async (command, ...args) =>
    await new Promise(resolve => {
      execFile(command, args, { timeout: 1000 }, (err, stdout) => resolve(err === null ? stdout : undefined))
    }),
  statfs: async path => await statfs(path),
  now: () => new Date()
}

export interface Report {
  readonly worst: Verdict
  readonly checks: readonly (Finding & { readonly group: string })[]
}

export async function doctor(
  home: Home,
  io: Io,
  { json, host = thisHost, ...more }: { json: boolean; host?: Host } & Partial<Patience>
): Promise<number> {
  const report = await examine(home, host, more)
  if (json) io.out(JSON.stringify(report))
  else io.out(await shown(report))
  if (report.worst === 'error') return Exit.failed
  return report.worst === 'warning' ? Exit.warnings : Exit.ok
}

export async function examine(
  home: Home,
  host: Host,
  {
    pingMs = patience.pingMs,
    checkMs = patience.checkMs,
    of = groups
  }: Partial<Patience> & { of?: readonly Group[] } = {}
): Promise<Report> {
  const broker = await stateOf(home, pingMs)
  const inHome = (file: string): string => (file.startsWith(`${home.root}/`) ? file.slice(home.root.length + 1) : file)
  const context: DoctorContext = { home, host, broker, patienceMs: checkMs, ...readAll(home), near: inHome }
  const found = await Promise.all(
    of.map(async ([group, ...checks]) => {
      const begun = checks.flatMap(check => begin(group, check, context))
      const findings = await Promise.all(begun.map(each => ('findings' in each ? inTime(each, checkMs) : [each])))
      return findings.flat().map(f => ({ group, ...f }))
    })
  )
  const checks = found.flat()
  const worst = verdicts.findLast(v => v !== 'unknown' && checks.some(f => f.verdict === v)) ?? 'ok'
  return { worst, checks }
}

/** One check that throws must not hide what the others saw. */
function begin(group: string, check: Check, context: DoctorContext): readonly (Finding | Begun)[] {
  try {
    return check(context)
  } catch (err) {
    return [{ check: group.toLowerCase(), verdict: 'unknown', found: messageOf(err) }]
  }
}

/** Nor must one that hangs; and it is told itself. */
async function inTime({ check, why, findings }: Begun, checkMs: number): Promise<readonly Finding[]> {
  const about = { check, ...(why === undefined ? {} : { why }) }
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<Finding>(resolve => {
    const found = `late: no answer within ${checkMs / 1000} s`
    const mend = ['broker doctor   (again: a host that is busy may have been all)']
    timer = setTimeout(
      () => resolve({ why: 'it hangs, or the host is very busy', ...about, verdict: 'warning', found, mend }),
      checkMs
    )
  })
  try {
    return [await Promise.race([findings, late])].flat()
  } catch (err) {
    return [{ ...about, verdict: 'unknown', found: messageOf(err) }]
  } finally {
    clearTimeout(timer)
  }
}

async function stateOf(home: Home, pingMs: number): Promise<BrokerState> {
  try {
    return { is: 'answering', pong: await new AdminClient(home.adminSocket, pingMs).call('node ping', {}) }
  } catch (err) {
    if (!(err instanceof BrokerError)) throw err
    if (err.code !== 'UNREACHABLE') return { is: 'closed', why: err.message }
    const pid = holderOf(home.brokerLock)
    return pid === undefined ? { is: 'stopped' } : { is: 'silent', pid }
  }
}

function readAll(home: Home): Pick<DoctorContext, 'settings' | 'problems'> {
  try {
    return { settings: readSettings(home), problems: problemsOf(home) }
  } catch (err) {
    return { settings: undefined, problems: Promise.resolve(messageOf(err)) }
  }
}

async function problemsOf(home: Home): Promise<string | undefined> {
  try {
    const { checkAll } = await import('../check.js')
    await checkAll(home)
    return undefined
  } catch (err) {
    return messageOf(err)
  }
}

// ── what people read ─────────────────────────────────────────────────────────

const width = 80
const verdictWidth = 9
const checkWidth = 22

async function shown({ checks }: Report): Promise<string> {
  const { default: chalk } = await import('chalk')
  const paint = { ok: chalk.green, unknown: chalk.dim, warning: chalk.yellow, error: chalk.red }
  const lines: string[] = []
  for (const [title] of groups) {
    lines.push(...(lines.length > 0 ? [''] : []), chalk.bold(title))
    for (const { group, check, verdict, found, why, mend = [] } of checks) {
      if (group !== title) continue
      const head = paint[verdict](verdict.padEnd(verdictWidth))
      const indent = ' '.repeat(2 + verdictWidth)
      const [first, ...more] = columns(check, found)
      lines.push(`  ${head}${first}`, ...more.map(line => indent + line))
      if (verdict === 'ok' || verdict === 'unknown') continue
      if (why !== undefined)
        lines.push(...wrapped(why, width - indent.length - 2).map(l => chalk.dim(`${indent}  ${l}`)))
      // A command is never broken: it is there to be copied.
      for (const each of mend) lines.push(`${indent}  ${chalk.cyan('→')} ${each}`)
    }
  }
  const count = (v: Verdict): number => checks.filter(f => f.verdict === v).length
  const several = (n: number, one: string): string => `${n} ${one}${n === 1 ? '' : 's'}`
  const summary = `${several(count('error'), 'error')}, ${several(count('warning'), 'warning')}, ${count('ok')} ok`
  const unknown = count('unknown')
  lines.push('', `${summary}${unknown > 0 ? `, ${unknown} that cannot be told here` : ''}`)
  return lines.join('\n')
}

/** The check's name and what was found beside it, or below where the name is long. */
function columns(check: string, found: string): string[] {
  const room = width - 2 - verdictWidth
  const [first = '', ...rest] = found.split('\n') // rest: lines of a file with a caret under them, which stay as they are
  if (check.length < checkWidth) {
    const beside = wrapped(first, room - checkWidth)
    return [...beside.map((line, i) => (i === 0 ? check : '').padEnd(checkWidth) + line), ...rest]
  }
  if (rest.length === 0 && check.length + 2 + first.length <= room) return [`${check}  ${first}`]
  return [check, ...[...wrapped(first, room - 2), ...rest].map(line => `  ${line}`)]
}

/** Broken at spaces; a word that is longer than a line keeps its own. */
function wrapped(text: string, room: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= room) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}
