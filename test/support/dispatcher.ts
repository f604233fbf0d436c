import { Hub, type HubOptions } from '../../src/delivery/dispatcher.js'
import type { Keeper } from '../../src/persistence/persistence.js'

/** A hub without limits. */
export const hubOf = (options: Partial<HubOptions> = {}, keeper?: Keeper): Hub =>
  new Hub(
    {
      shareStrategy: 'round_robin',
      maxRetained: 0,
      maxRetainedPayload: 0,
      ignoreLoopDeliver: false,
      upgradeQos: false,
      retainExpiry: 0,
      ...options
    },
    keeper
  )
