/** The log's files: rotated by size, a counted number of old ones kept. */
import { closeSync, mkdirSync, openSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { createStream, type RotatingFileStream } from 'rotating-file-stream'
import type { LogOptions } from './config/broker-options.js'
import type { Level, Sink } from './log.js'

/** How long after an error a file is tried again. */
const retryMs = 5000

/** The sinks that `log.*` asks for, apart from the terminal. */
export function fileSinks({ console, error }: LogOptions, path: (relative: string) => string): Sink[] {
  const { to, level, format } = console
  if (to === 'off') return []
  const errors = rotatingFile(path(error.file), error, { target: 'error', level: 'error', format })
  if (to === 'console') return [errors]
  return [rotatingFile(path(console.file), console, { target: 'console', level, format }), errors]
}

function rotatingFile(
  file: string,
  { size, count }: { size: number; count: number },
  { target, level, format }: { target: string; level: Level; format: Sink['format'] }
): Sink {
  mkdirSync(dirname(file), { recursive: true })
  closeSync(openSync(file, 'a')) // throws where it may not: a broker must not begin without its log
  const name = basename(file)
  let stream: RotatingFileStream | undefined // from the first line on
  let retryAt = 0
  // A stream is done for after its first error; when the disk has room again, there is a log again.
  const open = (): RotatingFileStream => {
    const opened = createStream((index: number | Date | null) => (index === null ? name : `${name}.${String(index)}`), {
      path: dirname(file),
      size: `${size}B`,
      rotate: count
    })
    opened.on('error', err => {
      stream = undefined
      retryAt = Date.now() + retryMs
      process.stderr.write(`cannot write ${file}: ${err.message}\n`)
    })
    return opened
  }
  return {
    target,
    level,
    format,
    write(line) {
      if (stream === undefined && Date.now() >= retryAt) stream = open()
      stream?.write(line)
    },
    close: async () =>
      await new Promise(resolve => {
        if (stream === undefined) return resolve()
        stream.once('close', resolve).end() // after an error as well
      })
  }
}

/** Standard output, for `broker console` and `broker foreground`. */
export const terminalSink = (level: Level, format: Sink['format']): Sink => ({
  target: 'console',
  level,
  format,
  write: line => void process.stdout.write(line)
})
