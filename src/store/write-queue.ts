/**
 * Gathers what is to be written and commits it together, so that a thousand
 * publishers wait for one disk. One batch is on its way at a time; what comes
 * meanwhile makes the next.
 *
 * What a client is about to acknowledge is held back for a moment: most of it is
 * needed no longer before it would have been written, and then it never is.
 */
import type { Batch, Store } from './store.js'

/** One change, or a few that belong together. */
export interface Change {
  /** Puts it in the batch, as it is now; nothing when it is not needed any more. */
  write(batch: Batch): void
  /** It is on disk. */
  committed(): void
  /** It is not, and nothing of its batch is. True: it is to be tried again. */
  failed(): boolean
}

/** A change that may turn out not to be needed. */
export interface Revocable extends Change {
  readonly needed: boolean
}

/**
 * How soon a change is written: `awaited`, somebody waits for it; `lazy`, nobody does; `held`, a client is about to
 * acknowledge it, and it is written if it is still needed a moment later.
 */
export type Urgency = 'awaited' | 'lazy' | 'held'

/** What the operator is told. */
export interface WriteQueueEvents {
  failed(err: unknown): void
  recovered(): void
}

/** Milliseconds. */
export interface WriteQueueTimes {
  /** How long what somebody waits for is gathered. */
  readonly gather: number
  /** How long what a client is about to acknowledge is held back. */
  readonly grace: number
  /** How long what nobody waits for may take. */
  readonly lazy: number
  /** Between attempts while the store cannot be written. */
  readonly retry: number
}

export const usualTimes: WriteQueueTimes = { gather: 1, grace: 20, lazy: 200, retry: 1000 }

/** Changes in a batch: they are encoded in one turn of the event loop, which others wait for. */
const maxChanges = 2048

export class WriteQueue {
  readonly #store: Store
  readonly #events: WriteQueueEvents
  readonly #times: WriteQueueTimes
  #changes: Change[] = []
  /** Where in them a batch may end, once they are too many for one. */
  #cuts: number[] = []
  /** Those held back, oldest first, with the time at which they are written. */
  #held: { due: number; changes: Revocable[] }[] = []
  #timer: NodeJS.Timeout | undefined
  #dueAt = Number.POSITIVE_INFINITY
  #isWriting = false
  #isFailing = false
  /** Who waits for the batch that is on its way. */
  #watching: (() => void)[] = []
  #isClosed = false
  /** Somebody has the store for himself. */
  #isPaused = false
  /** Counted for `store info`. */
  commits = 0
  written = 0
  spared = 0

  constructor(store: Store, events: WriteQueueEvents, times: WriteQueueTimes = usualTimes) {
    this.#store = store
    this.#events = events
    this.#times = times
  }

  /** The last attempt to write failed: what needs the disk is better refused. */
  get isFailing(): boolean {
    return this.#isFailing
  }

  get length(): number {
    return this.#held.reduce((sum, { changes }) => sum + changes.length, this.#changes.length)
  }

  /** Ends what must be in one batch: only here does a large batch end. */
  boundary(): void {
    const { length } = this.#changes
    if (length - (this.#cuts.at(-1) ?? 0) >= maxChanges) this.#cuts.push(length)
  }

  /** Takes a change; a batch has changes in the order in which they came. */
  write(change: Change, urgency: 'awaited' | 'lazy'): void
  write(change: Revocable, urgency: 'held'): void
  write(change: Change | Revocable, urgency: Urgency): void {
    if (urgency === 'held') return this.#hold(change as Revocable)
    this.#changes.push(change)
    this.#flushIn(urgency === 'awaited' ? this.#times.gather : this.#times.lazy)
  }

  /** Somebody waits from now on for what was written as `lazy`. */
  expedite(): void {
    this.#flushIn(this.#times.gather)
  }

  #hold(change: Revocable): void {
    const now = performance.now()
    const last = this.#held.at(-1)
    // Those of a few milliseconds share one entry.
    if (last !== undefined && last.due - now > this.#times.grace * 0.8) last.changes.push(change)
    else {
      this.#held.push({ due: now + this.#times.grace, changes: [change] })
      this.#flushIn(this.#times.grace)
    }
  }

  /** Writes everything, what is held back too; resolves when it is on disk, or cannot be written. */
  async flushed(): Promise<void> {
    do {
      this.#changes = [...this.#held.splice(0).flatMap(({ changes }) => changes), ...this.#changes]
      this.#cuts = []
      this.#flush()
      if (this.#isWriting || this.#isPaused) await new Promise<void>(resolve => this.#watching.push(resolve))
    } while (this.length > 0 && !this.#isFailing)
  }

  /** Commits nothing while the work lasts; what comes meanwhile waits. */
  async pause<T>(work: () => Promise<T>): Promise<T> {
    while (this.#isPaused) await new Promise<void>(resolve => this.#watching.push(resolve))
    this.#isPaused = true
    while (this.#isWriting) await new Promise<void>(resolve => this.#watching.push(resolve))
    try {
      return await work()
    } finally {
      this.#isPaused = false
      this.#next()
      this.#tell()
    }
  }

  /** Writes what is left. */
  async close(): Promise<void> {
    await this.flushed()
    this.#isClosed = true
    clearTimeout(this.#timer)
    await this.#store.close()
  }

  #flushIn(ms: number): void {
    if (this.#isWriting || this.#isPaused || this.#isClosed) return // it looks again when that is through
    const wait = this.#isFailing ? this.#times.retry : ms
    const at = performance.now() + wait
    if (at >= this.#dueAt) return
    clearTimeout(this.#timer)
    this.#dueAt = at
    this.#timer = setTimeout(() => this.#flush(), wait)
  }

  #flush(): void {
    clearTimeout(this.#timer)
    this.#dueAt = Number.POSITIVE_INFINITY
    if (this.#isWriting || this.#isPaused) return
    const changes = this.#take()
    if (changes.length === 0) return this.#next()
    this.#isWriting = true
    this.#store
      .commit(batch => {
        for (const change of changes) change.write(batch)
      })
      .then(
        () => this.#committed(changes),
        (err: unknown) => this.#failed(changes, err)
      )
  }

  /** The next batch: those held back long enough, then the others in the order in which they came, as far as a cut. */
  #take(): Change[] {
    const batch: Change[] = []
    const now = performance.now()
    while (this.#held.length > 0 && this.#held[0]!.due <= now && batch.length < maxChanges) {
      for (const change of this.#held.shift()!.changes) {
        if (change.needed) batch.push(change)
        else this.spared++
      }
    }
    const end = this.#cuts.shift() ?? this.#changes.length
    for (let i = 0; i < end; i++) batch.push(this.#changes[i]!)
    this.#changes = end === this.#changes.length ? [] : this.#changes.slice(end)
    for (let i = 0; i < this.#cuts.length; i++) this.#cuts[i]! -= end
    return batch
  }

  #committed(changes: readonly Change[]): void {
    this.#isWriting = false
    this.commits++
    this.written += changes.length
    if (this.#isFailing) {
      this.#isFailing = false
      this.#events.recovered()
    }
    for (const change of changes) change.committed()
    this.#next()
    this.#tell()
  }

  #failed(changes: readonly Change[], err: unknown): void {
    this.#isWriting = false
    if (!this.#isFailing) {
      this.#isFailing = true
      this.#events.failed(err)
    }
    // Those that came meanwhile were promised nothing either. The last one first: what it undoes is what was before it.
    const all = [...changes, ...this.#held.splice(0).flatMap(held => held.changes), ...this.#changes]
    this.#changes = []
    this.#cuts = []
    const left = all
      .reverse()
      .filter(change => change.failed())
      .reverse()
    this.#changes = [...left, ...this.#changes, probe] // who heard of it has gone on
    this.#flushIn(this.#times.retry)
    this.#tell()
  }

  #tell(): void {
    for (const resolve of this.#watching.splice(0)) resolve()
  }

  #next(): void {
    const held = this.#held[0]
    if (this.#changes.length > 0) this.#flushIn(0)
    else if (held !== undefined) this.#flushIn(Math.max(0, held.due - performance.now()))
  }
}

/** Something to write, to learn whether it can be. */
const probe: Change = {
  write: batch => batch.put('meta', Buffer.from('probe'), Buffer.alloc(0)),
  committed: () => {},
  failed: () => false
}
