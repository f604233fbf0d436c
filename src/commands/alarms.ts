import type { AlarmRow } from '../ops/operations.js'
import { command, visible } from './command.js'

const show = ({ id, severity, title, raised_at, cleared_at }: AlarmRow): string => {
  const end = cleared_at === undefined ? '' : `, cleared_at=${cleared_at}`
  return `Alarm(${visible(id)}, severity=${severity}, title=${title}, raised_at=${raised_at}${end})`
}

const print = (rows: readonly AlarmRow[]): string => rows.map(show).join('\n')

export const alarms = {
  'alarms list': command({
    summary: 'List the alarms that last',
    run: ({ alarms }) => alarms.list(),
    print
  }),
  'alarms history': command({
    summary: 'List the last alarms that are over',
    run: ({ alarms }) => alarms.history(),
    print
  })
}
