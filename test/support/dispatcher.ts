import { Dispatcher, type DispatcherOptions } from '../../src/delivery/dispatcher.js'
import { Ingress, type IngressOptions } from '../../src/delivery/ingress.js'
import type { Persistence } from '../../src/persistence/persistence.js'

/** A dispatcher without limits. */
export const dispatcherOf = (options: Partial<DispatcherOptions> = {}, persistence?: Persistence): Dispatcher =>
  new Dispatcher({ shareStrategy: 'round_robin', ignoreLoopDeliver: false, upgradeQos: false, ...options }, persistence)

/** The way into it, without limits. */
export const ingressTo = (dispatcher: Dispatcher, options: Partial<IngressOptions> = {}): Ingress =>
  new Ingress(dispatcher, { maxTopicLevels: 128, maxRetained: 0, maxRetainedPayload: 0, retainExpiry: 0, ...options })
