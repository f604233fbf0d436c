/** A store on a disk that fails as it is told to. */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '../../src/base/errors.js'
import { type Opened, openStore } from '../../src/store/open.js'
import type { Batch, Store } from '../../src/store/store.js'

/**
 * `write`: nothing is written. `fsync`: it is, and the disk says it is not. `full`: there is no room. `slow`: 200 ms
 * for each commit, unless the test decides.
 */
export type Fault = 'write' | 'fsync' | 'full' | 'slow'

export class FaultyDisk {
  fault: Fault | undefined
  /** What a slow one waits for. */
  delay: () => Promise<unknown> = () => sleep(200)
  /** Commits that failed. */
  failures = 0

  readonly open = async (directory: string, options?: Parameters<typeof openStore>[1]): Promise<Opened> => {
    const opened = await openStore(directory, options)
    return { ...opened, store: this.#over(opened.store) }
  }

  #over(store: Store): Store {
    return {
      commit: fill => this.#commit(store, fill),
      records: table => store.records(table),
      info: () => store.info(),
      backup: file => store.backup(file),
      compact: (...how) => store.compact(...how),
      close: () => store.close()
    }
  }

  async #commit(store: Store, fill: (batch: Batch) => void): Promise<void> {
    const { fault } = this
    if (fault === 'slow') {
      await Promise.all([this.delay(), store.commit(fill)])
    } else if (fault === 'fsync') {
      await store.commit(fill)
      this.#fail('UNAVAILABLE', 'fsync: input/output error')
    } else if (fault !== undefined) {
      fill({ put: () => {}, delete: () => {} })
      await sleep(1)
      this.#fail(fault === 'full' ? 'QUOTA_EXCEEDED' : 'UNAVAILABLE', fault)
    } else await store.commit(fill)
  }

  #fail(code: 'UNAVAILABLE' | 'QUOTA_EXCEEDED', why: string): never {
    this.failures++
    throw new BrokerError(code, why)
  }
}
