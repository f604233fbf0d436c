/** The listeners of the broker of this process, and what an operator does with them. */
import { BrokerError, type ErrorCode } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import type { ManagedListener } from '../net/listener-info.js'
import type { ListenerOperations, ListenerRow, ListenerState, Phase } from './operations.js'
import { listenerRow } from './rows.js'

export interface ListenerParts {
  readonly log: Log
  readonly clients: { hangUpOn(listener: string): void }
  state(): { readonly phase: Phase }
  listeners(): readonly ManagedListener[]
  /** Of the management API. */
  apiListeners(): readonly ManagedListener[]
}

type Act = 'start' | 'stop' | 'restart'

export class LocalListeners implements ListenerOperations {
  readonly #parts: ListenerParts

  constructor(parts: ListenerParts) {
    this.#parts = parts
  }

  get #all(): ManagedListener[] {
    return [...this.#parts.listeners(), ...this.#parts.apiListeners()]
  }

  list(): ListenerRow[] {
    return this.#all.filter(l => l.listening).map(l => listenerRow(l.info()))
  }

  states(): ListenerState[] {
    const ofApi = new Set(this.#parts.apiListeners())
    return this.#all.map(l => ({ ...l.info(), isOpen: l.listening, isApi: ofApi.has(l) }))
  }

  start(proto: string, port: string): Promise<string> {
    return this.#act('start', proto, port, listener => listener.open())
  }

  stop(proto: string, port: string): Promise<string> {
    return this.#act('stop', proto, port, listener => this.#close(listener))
  }

  restart(proto: string, port: string): Promise<string> {
    return this.#act('restart', proto, port, async listener => {
      await this.#close(listener)
      if (this.#isRunning) await listener.open() // it may have been asked to stop meanwhile
    })
  }

  /** Its clients are told so. */
  async #close(listener: ManagedListener): Promise<void> {
    this.#parts.clients.hangUpOn(listener.name)
    await listener.close({ goodbyes: true })
  }

  get #isRunning(): boolean {
    return this.#parts.state().phase === 'running'
  }

  /** emqttd's words for what a listener is told and cannot do. */
  async #act(what: Act, proto: string, port: string, work: (listener: ManagedListener) => Promise<void>) {
    const failed = (code: ErrorCode, why: string): BrokerError =>
      new BrokerError(code, `Failed to ${what} ${proto} listener on ${port}, error:${why}`)
    const found = this.#all.find(l => `mqtt:${l.info().transport}` === proto && l.answersTo(port))
    if (found === undefined || (what !== 'start' && !found.listening)) throw failed('NOT_FOUND', 'not_found')
    if (what === 'start' && found.listening) throw failed('CONFLICT', 'already_started')
    if (!this.#isRunning) throw failed('CONFLICT', `the broker is ${this.#parts.state().phase}`)
    try {
      await work(found)
    } catch (err) {
      if (err instanceof BrokerError) throw failed('UNAVAILABLE', err.message)
      throw err
    }
    this.#parts.log.info(`listener ${what}`, { listener: found.name, on: port })
    return found.name
  }
}
