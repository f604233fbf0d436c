/**
 * A back end's health, in words: is there trouble with it, and who has been told?
 *
 * A trouble and its end are one line of the log each, however many clients run into it; `plugins list` shows it
 * while it lasts. While the connection is what is wrong, the back end is tried now and then, so that `plugins list`
 * tells the truth on a quiet broker. It keeps no connections and asks no questions: who does reports each outcome
 * with failed() or works().
 */
import { messageOf } from '../../base/errors.js'
import type { Log } from '../../base/log/log.js'

export interface BackendOptions {
  /** As the log has it: `PostgreSQL at db:5432`. */
  readonly name: string
  readonly log: Pick<Log, 'info' | 'warning'>
  /** The context's. */
  trouble(why: string | undefined): void
  /**
   * The smallest question there is. Resolves when it was answered; to false when that cannot be told now, such as
   * when every connection is in use; rejects, with an Error in the operator's words, when the back end is away.
   */
  probe(): Promise<unknown>
  /** Milliseconds; a test hands in its own. */
  readonly now?: () => number
}

/** Where some connections work and others fail, the trouble goes on: it is over after this long without failure. */
const calmMs = 1000
const probeMs = 2000

/** What fails when it is no single question: the way to the back end, or the back end itself. */
export const connection = 'connection'

export class Backend {
  readonly #options: BackendOptions
  readonly #now: () => number
  readonly #troubles = new Map<string, { why: string; last: number }>()
  #timer: NodeJS.Timeout | undefined
  #isProbing = false
  #isStopped = false

  constructor(options: BackendOptions) {
    this.#options = options
    this.#now = options.now ?? (() => performance.now())
  }

  /** Whether the last that was heard of the connection was trouble. */
  get isAway(): boolean {
    return this.#troubles.has(connection)
  }

  /** After stop(): what fails now fails because of that, and is nobody's trouble. */
  get isStopped(): boolean {
    return this.#isStopped
  }

  /**
   * A question could not be answered.
   * @param what `connection`, or the key of the question: `auth.pgsql.auth_query`.
   * @param why in the operator's words, with the keys to look at.
   * @param quiet when who asked tells the operator itself.
   */
  failed(what: string, why: string, { quiet = false } = {}): void {
    if (this.#isStopped) return
    const known = this.#troubles.has(what)
    this.#troubles.set(what, { why, last: this.#now() })
    if (!known && !quiet) this.#options.log.warning(why)
    if (what === connection) this.#probeLater()
    this.#tell()
  }

  /** A question was answered; after an answer to any, the connection works too, and is to be reported so. */
  works(what: string): void {
    const trouble = this.#troubles.get(what)
    if (this.#isStopped || trouble === undefined || this.#now() - trouble.last < calmMs) return
    this.#troubles.delete(what)
    this.#options.log.info(what === connection ? `${this.#options.name} is back` : `${what} works again`)
    this.#tell()
  }

  /** Tries the back end now: where something hints that it has gone, such as an idle connection that broke. */
  async probe(): Promise<void> {
    if (this.#isStopped || this.#isProbing) return
    this.#isProbing = true
    clearTimeout(this.#timer)
    this.#timer = undefined
    try {
      if ((await this.#options.probe()) !== false) this.works(connection)
    } catch (err) {
      this.failed(connection, messageOf(err))
    }
    this.#isProbing = false
    if (this.isAway) this.#probeLater()
  }

  /** Probes no more, and says nothing more. */
  stop(): void {
    this.#isStopped = true
    clearTimeout(this.#timer)
  }

  #probeLater(): void {
    if (this.#isStopped) return
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined // even when a probe is under way, which sets the next one
      void this.probe()
    }, probeMs).unref()
  }

  #tell(): void {
    this.#options.trouble(this.#troubles.values().next().value?.why)
  }
}
