import { Dispatcher, type DispatcherOptions } from '../../src/delivery/dispatcher.js'
import type { Persistence } from '../../src/persistence/persistence.js'

/** A dispatcher without limits. */
export const dispatcherOf = (options: Partial<DispatcherOptions> = {}, persistence?: Persistence): Dispatcher =>
  new Dispatcher(
    {
      shareStrategy: 'round_robin',
      maxRetained: 0,
      maxRetainedPayload: 0,
      ignoreLoopDeliver: false,
      upgradeQos: false,
      retainExpiry: 0,
      ...options
    },
    persistence
  )
