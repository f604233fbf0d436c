import type { Alarm } from '../observe/alarms.js'
import { command, visible } from './command.js'

const seconds = (at: Date): number => Math.floor(at.getTime() / 1000)

/** An alarm as scripts see it: times in seconds since 1970. */
const row = ({ id, severity, title, details, raisedAt, clearedAt }: Alarm) => ({
  id,
  severity,
  title,
  details,
  raised_at: seconds(raisedAt),
  ...(clearedAt === undefined ? {} : { cleared_at: seconds(clearedAt) })
})

type Row = ReturnType<typeof row>

const show = ({ id, severity, title, raised_at, cleared_at }: Row): string => {
  const end = cleared_at === undefined ? '' : `, cleared_at=${cleared_at}`
  return `Alarm(${visible(id)}, severity=${severity}, title=${title}, raised_at=${raised_at}${end})`
}

const print = (rows: readonly Row[]): string => rows.map(show).join('\n')

export const alarms = {
  'alarms list': command({
    summary: 'List the alarms that last',
    run: ({ alarms }) => alarms.list().map(row),
    print
  }),
  'alarms history': command({
    summary: 'List the last alarms that are over',
    run: ({ alarms }) => alarms.history().map(row),
    print
  })
}
