/** What is wrong in a file under etc/, and where. */
import { relative } from 'node:path'
import { BrokerError } from '../base/errors.js'

export interface Problem {
  /** Path of the file, or the name of an environment variable. */
  readonly file: string
  /** From 1; 0 when the problem has no line of its own, as in an environment variable. */
  readonly line: number
  /** From 1. */
  readonly column: number
  readonly message: string
  /** The line itself, shown with a caret under the column. */
  readonly source?: string
}

export class ConfigError extends BrokerError {
  override readonly name = 'ConfigError'

  constructor(readonly problems: readonly Problem[]) {
    super('CONFIG_INVALID', problems.map(show).join('\n'))
  }
}

/** Runs every step, so that one start shows the problems of all files; throws what they found together. */
export function allOrProblems<T extends readonly (() => unknown)[]>(
  ...steps: T
): { -readonly [K in keyof T]: ReturnType<T[K]> } {
  const problems: Problem[] = []
  const values: unknown[] = []
  for (const step of steps) {
    try {
      values.push(step())
    } catch (err) {
      if (!(err instanceof ConfigError)) throw err
      problems.push(...err.problems)
    }
  }
  if (problems.length > 0) throw new ConfigError(problems)
  return values as { -readonly [K in keyof T]: ReturnType<T[K]> }
}

const widest = 160

function show({ file, line, column, message, source }: Problem): string {
  if (line === 0) return `${file}: ${message}`
  const head = `${displayed(file)}:${line}:${column}: ${message}`
  if (source === undefined || source.trim() === '') return head
  const from = column > widest ? column - 40 : 0
  const text = printable(source).slice(from, from + widest)
  return `${head}\n  ${text}\n  ${' '.repeat(Math.max(0, column - 1 - from))}^`
}

/** Relative where that is shorter to read and still works from here. */
function displayed(file: string): string {
  const near = relative(process.cwd(), file)
  return near === '' || near.startsWith('..') ? file : near
}

/** A line of a binary file must not ring the terminal's bell. */
export function printable(text: string): string {
  return text.replace(/\t/g, ' ').replace(/[\u0000-\u001f\u007f-\u009f\ufeff]/g, '·')
}
