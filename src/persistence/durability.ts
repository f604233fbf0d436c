/** Whether what a publisher or a subscriber waits for has outlived a crash by now: is it all on disk, or needed no longer? */

export interface DurabilityObserver {
  durabilitySettled(): void
}

function both(first: DurabilityObserver, second: DurabilityObserver): void {
  first.durabilitySettled()
  second.durabilitySettled()
}

/** What one acknowledgement waits for: a number of changes, each of which is written, revoked or lost. */
export class Durability {
  #open = 0
  /** A change could not be written. */
  failed = false
  #observer: DurabilityObserver | undefined

  /** Calls the observer when nothing is open any more, after those that came before. */
  whenSettled(observer: DurabilityObserver): void {
    const before = this.#observer
    this.#observer = before === undefined ? observer : { durabilitySettled: () => both(before, observer) }
  }

  get isOpen(): boolean {
    return this.#open > 0
  }

  /** One change more is waited for. */
  expect(): void {
    this.#open++
  }

  /** A change is on disk, or no longer needed. */
  settle(): void {
    if (--this.#open === 0) this.#observer?.durabilitySettled()
  }

  /** A change could not be written. */
  fail(): void {
    this.failed = true
    this.settle()
  }
}

/** Resolves when nothing of it is open any more. */
export function settled(durability: Durability): Promise<void> {
  return new Promise(resolve => {
    if (durability.isOpen) durability.whenSettled({ durabilitySettled: resolve })
    else resolve()
  })
}
