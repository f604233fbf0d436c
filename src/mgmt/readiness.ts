/** What keeps the broker from serving clients, in words; nothing when it can. */
import type { Server } from '../server/server.js'

export function readiness({ phase, doing, listeners, alarms }: Server): string[] {
  if (phase !== 'running') return [doing === undefined ? `the broker is ${phase}` : `the broker is ${phase}: ${doing}`]
  const closed = listeners.filter(l => !l.listening).map(l => `${l.name} is not open`)
  return [...closed, ...alarms.list().flatMap(({ id, title }) => (id === 'store_unwritable' ? [title] : []))]
}
