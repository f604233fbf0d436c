/** The configuration, the broker that runs or does not, and the pm2 that keeps it. */
import { statSync } from 'node:fs'
import { AdminClient } from '../../admin/client.js'
import { version } from '../../base/home.js'
import { holderOf } from '../../base/lock.js'
import { wordOf } from '../failure.js'
import { lastLines } from '../logs.js'
import type { Begun, Check, DoctorContext, Finding } from './finding.js'

export const configuration: Check = ({ problems, home }) => [
  { check: 'configuration', why: refused, findings: problems.then(all => judged(all, home.conf)) }
]

const judged = (problems: string | undefined, conf: string): Finding =>
  problems === undefined
    ? { check: 'configuration', verdict: 'ok', found: `${conf} and what it names are valid`, why: refused }
    : { check: 'configuration', verdict: 'error', found: problems, why: refused, mend: ['broker check'] }

const refused = 'a broker with a wrong configuration does not start'

export const running: Check = context => [broker(context), ...alarms(context), pm2(context), ...crash(context)]

function broker({ broker, home, host }: DoctorContext): Finding {
  const check = 'broker'
  const why = 'whether it runs and answers'
  switch (broker.is) {
    case 'answering': {
      const { pong } = broker
      const found = `${pong.node} is ${pong.phase}, pid ${pong.pid}, for ${since(pong.startedAt, host.now())}`
      if (pong.version !== version) {
        const old = `${found}; it is ${pong.version}, and ${version} is installed`
        return { check, verdict: 'warning', found: old, why, mend: ['broker restart'] }
      }
      return { check, verdict: pong.phase === 'running' ? 'ok' : 'warning', found, why }
    }
    case 'silent':
      return {
        check,
        verdict: 'error',
        found: `pid ${broker.pid} has this home and does not answer`,
        why: 'its event loop is held up, or it is still starting',
        mend: ['broker logs', 'broker restart --mode immediate']
      }
    case 'closed':
      return { check, verdict: 'unknown', found: broker.why, why }
    case 'stopped': {
      const word = wordOf(home)
      if (word === undefined) return { check, verdict: 'ok', found: 'not running', why }
      return { check, verdict: 'error', found: `did not start: ${word}`, why, mend: ['broker start'] }
    }
  }
}

function alarms({ broker, home }: DoctorContext): Begun[] {
  if (broker.is !== 'answering') return []
  const check = 'alarms'
  const why = 'what the broker says that somebody should see to'
  return [{ check, why, findings: raised(check, why, new AdminClient(home.adminSocket)) }]
}

async function raised(check: string, why: string, admin: AdminClient): Promise<Finding> {
  const all = await admin.call('alarms list', {})
  if (all.length === 0) return { check, verdict: 'ok', found: 'none', why }
  const worst = all.every(({ severity }) => severity === 'warning') ? 'warning' : 'error'
  const titles = [...new Set(all.map(({ title }) => title))]
  const found = `${all.length}: ${titles.join('; ')}`
  return { check, verdict: worst, found, why, mend: ['broker-ctl alarms list'] }
}

function pm2({ broker, home, host }: DoctorContext): Finding {
  const check = 'pm2'
  const why = 'it starts a broker again that has died'
  const pid = holderOf(home.pm2Lock)
  if (pid === undefined) {
    if (broker.is !== 'answering') return { check, verdict: 'ok', found: 'not running, nor is the broker', why }
    // `broker foreground` and `console` need none: whoever started them looks after them.
    const found = 'none: the broker runs under `broker foreground`, `console` or a program'
    return { check, verdict: 'ok', found, why }
  }
  const times = restarts(host.read(`${home.pm2}/pm2.log`) ?? '')
  const last = times.at(-1)
  const counted =
    last === undefined
      ? 'no restart'
      : `${times.length} ${times.length === 1 ? 'restart' : 'restarts'}, the last ${last}`
  const found = `pid ${pid}; ${counted}`
  if (broker.is === 'stopped') {
    const mend = ['broker logs', 'broker restart']
    return { check, verdict: 'error', found: `${found}; the broker it keeps does not run`, why, mend }
  }
  if (times.length === 0) return { check, verdict: 'ok', found, why }
  return {
    check,
    verdict: 'warning',
    found,
    why: 'the broker has died since it was started: clients were thrown off',
    mend: ['broker logs']
  }
}

/** When pm2 started a broker that had died, as its own log has it. */
function restarts(log: string): string[] {
  return [...log.matchAll(/^(\S+): PM2 log: App \[broker:\d+\] will restart/gm)].map(([, at]) => at!.replace('T', ' '))
}

function crash({ home, settings, near, host }: DoctorContext): Finding[] {
  if (settings === undefined) return []
  const file = home.path(settings.options.log.crash.file)
  const check = near(file)
  const why = 'what the process said outside its log: the stack of a bug'
  const stat = statSync(file, { throwIfNoEntry: false })
  if (stat === undefined || stat.size === 0) return [{ check, verdict: 'ok', found: 'no crash', why }]
  if (/console|both/.test(settings.options.log.console.to)) {
    return [{ check, verdict: 'ok', found: 'holds the log (log.console), look there', why }]
  }
  const lines = lastLines(file, 200)
  const at = lines.findLastIndex(line => /^\d{4}-\d\d-\d\dT/.test(line))
  const line = lines[at] ?? lines.at(-1)!
  const recent = host.now().getTime() - stat.mtimeMs < 7 * 86_400_000
  const found = `the last entry: ${line.slice(0, 200)}`
  return [{ check, verdict: recent ? 'warning' : 'ok', found, why, mend: [`tail -50 ${file}`] }]
}

function since(startedAt: string, now: Date): string {
  const seconds = Math.max(0, Math.floor((now.getTime() - Date.parse(startedAt)) / 1000))
  if (seconds < 120) return `${seconds} s`
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} days`
}
