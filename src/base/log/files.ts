/**
 * The log's files, rotated by size, a counted number of old ones kept; and standard
 * output. Lines are collected for a moment and written together: a write of its own
 * costs each line more than all that made it, and thousands of clients may come in at
 * once. What the process says before it ends is written when the sinks are closed.
 */
import { closeSync, mkdirSync, openSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { createStream, type RotatingFileStream } from 'rotating-file-stream'
import type { Level, Sink } from './log.js'

/** Milliseconds that a line may wait for others. */
const togetherMs = 20

/** Characters that wait at most. */
const togetherMax = 64 * 1024

/** Takes lines and hands them on together, before `most` characters have come. */
class Lines {
  readonly #write: (lines: string) => void
  readonly #most: number
  #lines = ''
  #timer: NodeJS.Timeout | undefined

  constructor(write: (lines: string) => void, most = togetherMax) {
    this.#write = write
    this.#most = most
  }

  add(line: string): void {
    this.#lines += line
    if (this.#lines.length >= this.#most) this.flush()
    else this.#timer ??= setTimeout(() => this.flush(), togetherMs)
  }

  flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#lines === '') return
    const lines = this.#lines
    this.#lines = ''
    this.#write(lines)
  }
}

/** `log.*` of the configuration, as far as files are concerned. */
export interface LogFileOptions {
  readonly console: LogFile & {
    readonly to: 'off' | 'file' | 'console' | 'both'
    readonly level: Level
    readonly format: Sink['format']
  }
  readonly error: LogFile
}

interface LogFile {
  readonly file: string
  /** Bytes after which it is rotated. */
  readonly size: number
  /** How many old ones are kept. */
  readonly count: number
}

/** How long after an error a file is tried again. */
const retryMs = 5000

/** The sinks that `log.*` asks for, apart from the terminal. */
export function fileSinks({ console, error }: LogFileOptions, path: (relative: string) => string): Sink[] {
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
  const together = new Lines(
    lines => {
      if (stream === undefined && Date.now() >= retryAt) stream = open()
      stream?.write(lines)
    },
    Math.min(size / 4, togetherMax)
  )
  return {
    target,
    level,
    format,
    write: line => together.add(line),
    close: async () => {
      together.flush()
      await new Promise<void>(resolve => {
        if (stream === undefined) return resolve()
        stream.once('close', resolve).end() // after an error as well
      })
    }
  }
}

/** Standard output, for `broker console` and `broker foreground`. */
export function terminalSink(level: Level, format: Sink['format']): Sink {
  const together = new Lines(lines => void process.stdout.write(lines))
  return { target: 'console', level, format, write: line => together.add(line), close: async () => together.flush() }
}
