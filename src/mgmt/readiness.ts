/** What keeps the broker from serving clients, in words; nothing when it can. */
import type { Operations } from '../ops/operations.js'

export function readiness({ broker, listeners, alarms }: Operations): string[] {
  const { phase, doing } = broker.state()
  if (phase !== 'running') return [doing === undefined ? `the broker is ${phase}` : `the broker is ${phase}: ${doing}`]
  const closed = listeners.states().filter(({ isApi, isOpen }) => !isApi && !isOpen)
  return [
    ...closed.map(({ name }) => `${name} is not open`),
    ...alarms.list().flatMap(({ id, title }) => (id === 'store_unwritable' ? [title] : []))
  ]
}
