/** Alarms. */
import type { AlarmRow } from '../../ops/operations.js'
import { listOf, object, type Route, text } from '../route.js'
import { api, clock, onlyNode } from './common.js'

const alarmOf = ({ id, severity, title, details, raised_at }: AlarmRow) => ({
  id,
  severity,
  title,
  summary: Object.entries(details)
    .map(([name, value]) => `${name}=${String(value)}`)
    .join(' '),
  occurred_at: clock(raised_at)
})
const alarm = { id: text, severity: text, title: text, summary: text, occurred_at: text }

export const alarms: Route[] = [
  {
    method: 'GET',
    path: `${api}/nodes/:node_name/alarms`,
    summary: 'Alarms that last',
    tag: 'Alarms',
    result: listOf(object(alarm)),
    run: asked => {
      onlyNode(asked)
      return asked.ops.alarms.list().map(alarmOf)
    }
  },
  {
    method: 'GET',
    path: `${api}/nodes/:node_name/alarms/history`,
    summary: 'The last alarms that are over',
    tag: 'Alarms',
    result: listOf(object({ ...alarm, cleared_at: text })),
    run: asked => {
      onlyNode(asked)
      return asked.ops.alarms.history().map(a => ({ ...alarmOf(a), cleared_at: clock(a.cleared_at!) }))
    }
  }
]
