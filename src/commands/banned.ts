import type { Ban } from '../access/banned.js'
import { command, visible } from './command.js'

const seconds = (at: number): number => Math.floor(at / 1000)

/** A ban as scripts see it: times in seconds since 1970. */
const row = ({ kind, who, at, until, reason }: Ban) => ({
  as: kind,
  who,
  at: seconds(at),
  until: until === undefined ? null : seconds(until),
  reason: reason ?? null
})

type Row = ReturnType<typeof row>

const show = ({ as, who, at, until, reason }: Row): string => {
  const why = reason === null ? '' : `, reason=${visible(reason)}`
  return `Banned(${as}=${visible(who)}, at=${at}, until=${until ?? 'infinity'}${why})`
}

export const banned = {
  'banned list': command({
    summary: 'List those who may not connect',
    run: ({ access }) => access.banned.list().map(row),
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
    async run({ access, clients, log }, { as, who, ...terms }) {
      const ban = access.banned.add(as, who, terms)
      const kicked = await clients.kickBanned(ban)
      const { until, reason } = ban
      const end = until === undefined ? {} : { until: new Date(until).toISOString() }
      log.info('banned', { [ban.kind]: ban.who, ...end, ...(reason === undefined ? {} : { reason }), kicked })
      return { ...row(ban), kicked }
    },
    print: () => 'ok'
  }),
  'banned del': command({
    summary: 'Let it connect again',
    usage: '<as> <who>',
    acts: true,
    run({ access, log }, { as, who }) {
      const ban = access.banned.remove(as, who)
      log.info('ban is lifted', { [ban.kind]: ban.who })
      return { as: ban.kind, who: ban.who }
    },
    print: () => 'ok'
  })
}
