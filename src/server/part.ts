/**
 * What a part of the broker is to the server: it starts after the parts that it needs and stops before them, and other
 * settings are put in force for all parts or for none.
 */
import type { Report } from '../ops/operations.js'
import type { Settings } from './settings.js'

/** Other settings for one part, ready to be put in force. Nothing is changed before apply(). */
export interface Prepared {
  /** What may still fail once everything is prepared: a port is opened, a plugin is exchanged. */
  open?(): Promise<void>
  /** Puts the settings in force at once; cannot fail. Resolves when what they bring to an end is over. */
  apply(): void | Promise<void>
  /** Undoes what prepare() and open() did. */
  abandon(): void | Promise<void>
  /** What the operator is told when it is in force. */
  readonly report?: Partial<Report>
}

export interface Reconfiguration {
  readonly next: Settings
  readonly was: Settings
  /** Whether files beside broker.conf are read again too: acl.conf, certificates, those of plugins. */
  readonly rereads: boolean
}

export interface Part {
  readonly name: string
  start?(): void | Promise<void>
  stop?(): void | Promise<void>
  /** Undefined: nothing of it changes. Throws a BrokerError with every problem; then nothing has changed. */
  prepare?(change: Reconfiguration): Prepared | undefined | Promise<Prepared | undefined>
}

/** The parts in the order in which they were started. */
export class Parts {
  readonly #started: Part[] = []

  /** Starts a part; one that fails is not stopped. */
  async start(part: Part): Promise<void> {
    await part.start?.()
    this.#started.push(part)
  }

  /** Stops all, the last one first. */
  async stop(): Promise<void> {
    for (const part of this.#started.splice(0).reverse()) await part.stop?.()
  }

  [Symbol.iterator](): Iterator<Part> {
    return [...this.#started].values()
  }
}
