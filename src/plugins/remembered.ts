/**
 * Which plugins a start loads, and in which order: data/loaded_plugins, emqttd's format, a line `auth_pgsql.` each.
 * The file is read at each question, since an operator may edit it.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { canonicalName, emqttdName } from './catalogue.js'

export class RememberedPlugins {
  readonly #file: string

  constructor(file: string) {
    this.#file = file
  }

  /** Their canonical names, each once. */
  names(): string[] {
    if (!existsSync(this.#file)) return []
    // emqttd closes each line with a full stop
    const lines = readFileSync(this.#file, 'utf8').split('\n')
    return [...new Set(lines.map(line => canonicalName(line.trim().replace(/\.$/, ''))).filter(line => line !== ''))]
  }

  add(name: string): void {
    this.#write([...new Set([...this.names(), name])])
  }

  remove(name: string): void {
    this.#write(this.names().filter(each => each !== name))
  }

  #write(names: readonly string[]): void {
    mkdirSync(dirname(this.#file), { recursive: true })
    writeFileSync(`${this.#file}.new`, names.map(name => `${emqttdName(name)}.\n`).join(''))
    renameSync(`${this.#file}.new`, this.#file)
  }
}
