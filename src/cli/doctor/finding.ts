/** What a check of `broker doctor` is given, and what it answers. */
import { readdirSync, type StatsFs, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Home } from '../../base/home.js'
import type { Settings } from '../../server/settings.js'
import type { Pong } from '../pm2/daemon.js'

/** From harmless to grave; `unknown` is what cannot be told here, and counts for nothing. */
export const verdicts = ['ok', 'unknown', 'warning', 'error'] as const
export type Verdict = (typeof verdicts)[number]

export interface Finding {
  readonly check: string
  readonly verdict: Verdict
  /** What was seen; may have several lines. */
  readonly found: string
  /** Why it matters. */
  readonly why?: string
  /** What mends it, a command or an instruction each. */
  readonly mend?: readonly string[]
}

/** What the host says; a test hands in its own. */
export interface Host {
  readonly platform: NodeJS.Platform
  /** A file's text; undefined when it cannot be read. */
  read(file: string): string | undefined
  /** What a program prints; undefined when it is not there, fails or takes long. */
  run(command: string, ...args: string[]): Promise<string | undefined>
  statfs(path: string): Promise<StatsFs>
  now(): Date
}

export interface DoctorContext {
  readonly home: Home
  readonly host: Host
  /** Undefined when the configuration is not valid. */
  readonly settings: Settings | undefined
  /** Every problem of the files under etc/, those of plugins included. */
  readonly problems: Promise<string | undefined>
  readonly broker: BrokerState
  /** What a check may take; one that would be late for a part of its answer gives the rest before. */
  readonly patienceMs: number
  /** What is shown of a path: its part below the home. */
  near(file: string): string
}

export type BrokerState =
  | { readonly is: 'answering'; readonly pong: Pong }
  | { readonly is: 'silent'; readonly pid: number }
  | { readonly is: 'closed'; readonly why: string }
  | { readonly is: 'stopped' }

/** What was begun and is not done yet. It has its name from the start, so that it is told even when it never ends. */
export interface Begun {
  readonly check: string
  readonly why?: string
  readonly findings: Promise<Finding | readonly Finding[]>
}

/** What it has to wait for is begun, never awaited. */
export type Check = (context: DoctorContext) => readonly (Finding | Begun)[]

/** What a check needs of a configuration that is not valid. */
export const needsConfig = (check: string): Finding => ({
  check,
  verdict: 'unknown',
  found: 'not looked at: the configuration is not valid'
})

/** `409600`, `1.5 GB`: short, and never more exact than the eye. */
export function bytes(n: number): string {
  const units = ['bytes', 'KB', 'MB', 'GB', 'TB']
  const i = n < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(n) / 10))
  const value = n / 1024 ** i
  return `${i === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[i]}`
}

/** On the disk: LMDB's file says it is larger than what it takes. */
export function sizeOf(path: string): number {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) return 0
  if (!stat.isDirectory()) return Math.min(stat.size, stat.blocks * 512)
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0)
}
