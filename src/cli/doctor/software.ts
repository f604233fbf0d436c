/** Node, the packages that were installed, and the clock. */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { messageOf } from '../../base/errors.js'
import { packageRoot } from '../../base/home.js'
import type { Begun, Check, DoctorContext, Finding, Host } from './finding.js'

interface Manifest {
  readonly version: string
  readonly engines: { readonly node: string }
  readonly dependencies: Readonly<Record<string, string>>
}

/** Compiled for one platform and one Node: what was copied from another host does not load. */
const native = ['bcrypt', 'lmdb']

export const software: Check = () => {
  const { engines, dependencies } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as Manifest
  const isOurs = (name: string): boolean => Object.hasOwn(dependencies, name)
  return [
    node(process.versions.node, engines.node),
    packages(dependencies),
    ...native.filter(isOurs).map(name => ({ check: name, why: whyLoad(name), findings: loads(name) }))
  ]
}

export function node(running: string, wanted: string): Finding {
  const least = wanted.replace(/^>=\s*/, '')
  const verdict = compare(running, least) >= 0 ? 'ok' : 'error'
  return {
    check: 'Node.js',
    verdict,
    found: verdict === 'ok' ? running : `${running}; ${least} or newer is needed`,
    why: 'older ones lack what the broker is built on',
    ...(verdict === 'ok' ? {} : { mend: ['install a newer one from https://nodejs.org, then: npm rebuild'] })
  }
}

function packages(dependencies: Manifest['dependencies']): Finding {
  const why = 'other versions were never tried with this broker; aedes must be exactly the pinned one'
  const wrong = Object.entries(dependencies).flatMap(([name, wanted]) => {
    const version = installedVersion(name)
    if (version === undefined) return [`${name} is missing`]
    return satisfies(version, wanted) ? [] : [`${name} is ${version}, not ${wanted}`]
  })
  if (wrong.length === 0) {
    const pinned = Object.entries(dependencies).filter(([, wanted]) => /^\d/.test(wanted))
    const found = `${Object.keys(dependencies).length} as they must be (${pinned.map(p => p.join(' ')).join(', ')})`
    return { check: 'packages', verdict: 'ok', found, why }
  }
  return {
    check: 'packages',
    verdict: 'error',
    found: wrong.join('\n'),
    why,
    mend: [`npm ci --prefix ${packageRoot}`, 'installed globally: npm install --global tsmqttd']
  }
}

/** Where Node would find it, which is above us when we are installed beside our dependencies. */
function installedVersion(name: string): string | undefined {
  for (const dir of createRequire(import.meta.url).resolve.paths(name) ?? []) {
    const file = join(dir, name, 'package.json')
    if (existsSync(file)) return (JSON.parse(readFileSync(file, 'utf8')) as Manifest).version
  }
  return undefined
}

/** `1.2.0` is that one, `^1.2.0` any from there to the next major one. */
export function satisfies(version: string, wanted: string): boolean {
  if (!wanted.startsWith('^')) return version === wanted
  const least = wanted.slice(1)
  const [major, minor] = numbers(least)
  const [nowMajor, nowMinor] = numbers(version)
  return compare(version, least) >= 0 && nowMajor === major && (major !== 0 || nowMinor === minor)
}

const numbers = (version: string): number[] => version.split(/[.-]/).slice(0, 3).map(Number)

function compare(a: string, b: string): number {
  const [x, y] = [numbers(a), numbers(b)]
  const at = [0, 1, 2].find(i => (x[i] ?? 0) !== (y[i] ?? 0))
  return at === undefined ? 0 : (x[at] ?? 0) - (y[at] ?? 0)
}

const whyLoad = (name: string): string =>
  name === 'bcrypt' ? 'passwords that are stored as bcrypt cannot be checked' : 'nothing can be stored'

export async function loads(name: string): Promise<Finding> {
  const why = whyLoad(name)
  try {
    await import(name)
    return { check: name, verdict: 'ok', found: `loads (${installedVersion(name)})`, why }
  } catch (err) {
    return {
      check: name,
      verdict: 'error',
      found: `does not load: ${messageOf(err).split('\n')[0]}`,
      why,
      mend: [`npm rebuild ${name} --prefix ${packageRoot}`]
    }
  }
}

/** No certificate is valid and no token is in force on a host that thinks it is 1970. */
export const clock: Check = context => [sane(context), synchronised(context)]

function sane({ host, home, near }: DoctorContext): Finding {
  const now = host.now()
  const found = now.toISOString().replace('T', ' ').slice(0, 19)
  const why = 'certificates, expiries of sessions and messages, and the log go by it'
  const mend = host.platform === 'darwin' ? ['sudo sntp -sS time.apple.com'] : ['sudo timedatectl set-ntp true']
  if (now.getUTCFullYear() < 2025 || now.getUTCFullYear() > 2100) {
    return { check: 'clock', verdict: 'error', found: `${found} UTC cannot be right`, why, mend }
  }
  // Two minutes of grace: a file on another host's disk goes by that host's clock.
  const later = [home.conf, home.path('log/broker.log'), home.brokerLock, dirname(home.conf)].find(
    file => (statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0) > now.getTime() + 120_000
  )
  if (later === undefined) return { check: 'clock', verdict: 'ok', found: `${found} UTC`, why }
  return { check: 'clock', verdict: 'warning', found: `${found} UTC, but ${near(later)} is from the future`, why, mend }
}

function synchronised({ host }: DoctorContext): Begun {
  const check = 'time service'
  const why = 'a clock that nobody corrects drifts by seconds a day'
  return { check, why, findings: timeService(check, why, host) }
}

async function timeService(check: string, why: string, host: Host): Promise<Finding> {
  if (host.platform !== 'linux') {
    return { check, verdict: 'unknown', found: `cannot be asked on ${host.platform} without the administrator`, why }
  }
  const answer = (await host.run('timedatectl', 'show', '--property=NTPSynchronized', '--value'))?.trim()
  if (answer === 'yes') return { check, verdict: 'ok', found: 'the clock is synchronised', why }
  if (answer !== 'no') return { check, verdict: 'unknown', found: 'timedatectl does not answer here', why }
  const mend = ['sudo timedatectl set-ntp true']
  return { check, verdict: 'warning', found: 'the clock is not synchronised', why, mend }
}
