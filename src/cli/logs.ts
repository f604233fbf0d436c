/** `broker logs`: the end of the log's file, and what is appended to it, over rotations. */
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs'
import { StringDecoder } from 'node:string_decoder'
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import { readSettings } from '../server/settings.js'
import { Exit, type Io } from './io.js'

export async function logs(home: Home, io: Io, { follow, lines }: { follow: boolean; lines: number }): Promise<number> {
  const file = logFile(home)
  if (file === undefined) throw new BrokerError('NOT_FOUND', 'no log is kept: log.console is off')
  if (!existsSync(file) && !follow) throw new BrokerError('NOT_FOUND', `there is no ${file} yet`)
  const reader = new FileReader(file)
  for (const line of lastLines(file, lines, reader.position)) io.out(line)
  if (!follow) return Exit.ok
  for (; ; await sleep(200)) for (const line of reader.read()) io.out(line)
}

/** The file with what the daemon logs; undefined when it logs nowhere. */
export function logFile(home: Home): string | undefined {
  const { console, crash } = readSettings(home).options.log
  if (console.to === 'off') return undefined
  return home.path(console.to === 'console' ? crash.file : console.file)
}

/** Returns what gives the lines that were appended since. */
export function bookmark(file: string): () => string[] {
  const reader = new FileReader(file)
  return () => reader.read()
}

/** The last lines of the file up to `end`, and of the rotated ones before it. */
export function lastLines(file: string, count: number, end?: number): string[] {
  const lines = existsSync(file) ? tail(file, count, end) : []
  for (let i = 1; lines.length < count && existsSync(rotated(file, i)); i++) {
    lines.unshift(...tail(rotated(file, i), count - lines.length))
  }
  return lines
}

const rotated = (file: string, index: number): string => `${file}.${index}`

/** Read from the end, since a log may be larger than what memory is for. */
function tail(file: string, count: number, end = statSync(file).size): string[] {
  if (count <= 0) return []
  const handle = openSync(file, 'r')
  try {
    let bytes = Buffer.alloc(0)
    let lines: string[] = []
    for (let from = end; from > 0 && lines.length <= count; ) {
      const size = Math.min(from, Math.max(64 * 1024, bytes.length)) // doubling, so that a long way is not quadratic
      from -= size
      const part = Buffer.alloc(size)
      bytes = Buffer.concat([part.subarray(0, readSync(handle, part, 0, size, from)), bytes])
      lines = bytes.toString('utf8').split('\n').filter(Boolean) // the first one may be torn, and is one too many
    }
    return lines.slice(-count)
  } finally {
    closeSync(handle)
  }
}

/** Reads what is appended to a file from now on, also to the one that takes its name after a rotation. */
class FileReader {
  readonly #file: string
  #handle: number | undefined
  #inode = 0
  position = 0
  #decoder = new StringDecoder('utf8')
  #rest = ''

  constructor(file: string) {
    this.#file = file
    this.#open(file)
    if (this.#handle !== undefined) this.position = fstatSync(this.#handle).size
  }

  /** The lines since the last call. */
  read(): string[] {
    const lines = this.#appended()
    while (this.#isRotated) {
      lines.push(...this.#appended()) // what came between the last read and the rotation
      this.#openNext()
      lines.push(...this.#appended())
    }
    return lines
  }

  get #isRotated(): boolean {
    const now = statSync(this.#file, { throwIfNoEntry: false })?.ino
    return now !== undefined && now !== this.#inode
  }

  /** Opens the file that was begun after ours, which is not the newest when the log is rotated quickly. */
  #openNext(): void {
    const ours = this.#inode
    const isOurs = (file: string): boolean => statSync(file, { throwIfNoEntry: false })?.ino === ours
    for (;;) {
      let index = 1
      const exists = (i: number): boolean => existsSync(rotated(this.#file, i))
      while (!isOurs(rotated(this.#file, index)) && (exists(index) || exists(index + 1))) index++ // a rename leaves a gap
      const old = rotated(this.#file, index)
      if (!isOurs(old)) return this.#open(this.#file) // ours is gone
      this.#open(index === 1 ? this.#file : rotated(this.#file, index - 1))
      if (isOurs(old)) return // and not renamed meanwhile
    }
  }

  #open(file: string): void {
    if (this.#handle !== undefined) closeSync(this.#handle)
    this.#handle = existsSync(file) ? openSync(file, 'r') : undefined
    this.#inode = this.#handle === undefined ? 0 : fstatSync(this.#handle).ino
    this.position = 0
  }

  #appended(): string[] {
    if (this.#handle === undefined) return []
    const { size } = fstatSync(this.#handle)
    let text = ''
    if (size < this.position) {
      text = this.#leftInCopy() // emptied in its place
      this.position = 0
    }
    const bytes = Buffer.alloc(size - this.position)
    this.position += readSync(this.#handle, bytes, 0, bytes.length, this.position)
    const lines = (this.#rest + text + this.#decoder.write(bytes)).split('\n')
    this.#rest = lines.pop()!
    return lines
  }

  /** What was appended before the file was copied to `.1` and emptied. */
  #leftInCopy(): string {
    const copy = rotated(this.#file, 1)
    if ((statSync(copy, { throwIfNoEntry: false })?.size ?? 0) < this.position) return ''
    return this.#decoder.write(readFileSync(copy).subarray(this.position))
  }
}
