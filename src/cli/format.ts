/** Makes a table or a list of pairs of any command's result, for `--table`. */
import chalk from 'chalk'
import { visible } from '../commands/command.js'

export function format(result: unknown): string {
  if (Array.isArray(result)) return result.length === 0 ? chalk.dim('(none)') : table(result as object[])
  if (typeof result === 'object' && result !== null) return pairs(result)
  return String(result ?? '')
}

function table(rows: object[]): string {
  const head = [...new Set(rows.flatMap(row => Object.keys(row)))]
  const cells = rows.map(row => head.map(k => cell((row as Record<string, unknown>)[k])))
  const widths = head.map((h, i) => Math.max(h.length, ...cells.map(c => c[i]!.length)))
  const line = (c: string[]): string =>
    c
      .map((s, i) => s.padEnd(widths[i]!))
      .join('  ')
      .trimEnd()
  return [chalk.bold(line(head)), ...cells.map(line)].join('\n')
}

function pairs(value: object): string {
  const width = Math.max(...Object.keys(value).map(k => k.length))
  return Object.entries(value)
    .map(([k, v]) => `${chalk.bold(k.padEnd(width))}  ${cell(v)}`)
    .join('\n')
}

const cell = (v: unknown): string =>
  v === null || v === undefined ? '-' : visible(typeof v === 'object' ? JSON.stringify(v) : String(v))
