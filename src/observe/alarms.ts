/**
 * What an operator should see to, for as long as it lasts: raised under an id, cleared
 * under the same. Both are logged and emitted; of those that are over the
 * last are remembered.
 */
import { EventEmitter } from 'node:events'
import type { Log } from '../base/log/log.js'

export type Severity = 'warning' | 'error' | 'critical'

export interface Alarm {
  /** emqttd's form: `queue_high_watermark.<clientId>`. */
  readonly id: string
  readonly severity: Severity
  readonly title: string
  /** Plain data. */
  readonly details: Readonly<Record<string, unknown>>
  readonly raisedAt: Date
  readonly clearedAt: Date | undefined
}

const remembered = 1000

export class Alarms extends EventEmitter<{ raised: [Alarm]; cleared: [Alarm] }> {
  readonly #log: Log
  readonly #raised = new Map<string, Alarm>()
  readonly #history: Alarm[] = []

  constructor(log: Log) {
    super()
    this.#log = log
  }

  /** One that is raised already stays as it is. */
  raise(id: string, severity: Severity, title: string, details: Readonly<Record<string, unknown>> = {}): void {
    if (this.#raised.has(id)) return
    const alarm = { id, severity, title, details, raisedAt: new Date(), clearedAt: undefined }
    this.#raised.set(id, alarm)
    const level = severity === 'warning' ? 'warning' : 'error' // critical is for what ends the process
    this.#log[level](`alarm: ${title}`, { alarm: id, ...details })
    this.emit('raised', alarm)
  }

  clear(id: string): void {
    const alarm = this.#raised.get(id)
    if (alarm === undefined) return
    this.#raised.delete(id)
    const over = { ...alarm, clearedAt: new Date() }
    this.#history.push(over)
    if (this.#history.length > remembered) this.#history.shift()
    this.#log.info(`alarm is over: ${alarm.title}`, { alarm: id })
    this.emit('cleared', over)
  }

  /** Those that last, the oldest first. */
  list(): Alarm[] {
    return [...this.#raised.values()]
  }

  /** Those that are over, the first to end first. */
  history(): Alarm[] {
    return [...this.#history]
  }
}
