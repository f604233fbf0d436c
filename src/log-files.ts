/** The log's files: rotated by size, a counted number of old ones kept. */
import { mkdirSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { createStream } from 'rotating-file-stream'
import type { LogOptions } from './config/broker-options.js'
import type { Level, Sink } from './log.js'

/** The sinks that `log.*` asks for, apart from the terminal. */
export function fileSinks({ console, error }: LogOptions, path: (relative: string) => string): Sink[] {
  const { to, level, format } = console
  if (to === 'off') return []
  const errors = rotatingFile(path(error.file), error, { level: 'error', format })
  if (to === 'console') return [errors]
  return [rotatingFile(path(console.file), console, { level, format }), errors]
}

function rotatingFile(
  file: string,
  { size, count }: { size: number; count: number },
  { level, format }: { level: Level; format: Sink['format'] }
): Sink {
  mkdirSync(dirname(file), { recursive: true })
  const name = basename(file)
  const stream = createStream((index: number | Date | null) => (index === null ? name : `${name}.${String(index)}`), {
    path: dirname(file),
    size: `${size}B`,
    rotate: count
  })
  stream.on('error', err => process.stderr.write(`cannot write ${file}: ${err.message}\n`))
  return {
    level,
    format,
    write: line => void stream.write(line),
    close: async () => await new Promise(resolve => stream.end(() => resolve()))
  }
}

/** Standard output, for `broker console` and `broker foreground`. */
export const terminalSink = (level: Level, format: Sink['format']): Sink => ({
  level,
  format,
  write: line => void process.stdout.write(line)
})
