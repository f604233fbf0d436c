import type { BanRow } from '../ops/operations.js'
import { command, visible } from './command.js'

const show = ({ as, who, at, until, reason }: BanRow): string => {
  const why = reason === null ? '' : `, reason=${visible(reason)}`
  return `Banned(${as}=${visible(who)}, at=${at}, until=${until ?? 'infinity'}${why})`
}

export const banned = {
  'banned list': command({
    summary: 'List those who may not connect',
    run: ({ bans }) => bans.list(),
    print: rows => rows.map(show).join('\n')
  }),
  'banned add': command({
    summary: 'Ban a clientid, username, ip or cidr, and kick it out',
    usage: '<as> <who>',
    acts: true,
    options: [
      ['--for <time>', 'how long: 30m, 1h, 7d'],
      ['--until <date>', 'until when: 2027-01-31T18:00:00Z'],
      ['--reason <text>', 'why, for the list and the log']
    ],
    run: ({ bans }, { as, who, ...terms }) => bans.add(as, who, terms),
    print: () => 'ok'
  }),
  'banned del': command({
    summary: 'Let it connect again',
    usage: '<as> <who>',
    acts: true,
    run: ({ bans }, { as, who }) => bans.remove(as, who),
    print: () => 'ok'
  })
}
