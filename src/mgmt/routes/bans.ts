/** Who may not connect. */
import { banKinds } from '../../access/banned.js'
import { integer, listOf, nothing, object, type Route, type Schema, text } from '../route.js'
import { api, done } from './common.js'

const untilWhen: Schema = { type: ['integer', 'null'], description: 'seconds since 1970; null: for ever' }
const ban = { as: text, who: text, at: integer, until: untilWhen, reason: { type: ['string', 'null'] } }

export const bans: Route[] = [
  {
    method: 'GET',
    path: `${api}/banned`,
    summary: 'Who may not connect',
    tag: 'Bans',
    result: listOf(object(ban)),
    run: ({ ops }) => ops.bans.list()
  },
  {
    method: 'POST',
    path: `${api}/banned`,
    summary: 'Ban, and kick out',
    tag: 'Bans',
    body: object(
      {
        as: { type: 'string', enum: [...banKinds] },
        who: text,
        for: { type: 'string', description: 'how long: 30m, 1h, 7d' },
        until: { type: 'string', description: 'until when: 2027-01-31T18:00:00Z' },
        reason: text
      },
      ['as', 'who']
    ),
    result: object({ ...ban, kicked: integer }),
    run: ({ ops, body: { as, who, ...terms } }) => ops.bans.add(as, who, terms)
  },
  {
    method: 'DELETE',
    path: `${api}/banned/:as/:who`,
    summary: 'Let it connect again',
    tag: 'Bans',
    result: nothing,
    run: async ({ ops, params }) => {
      await ops.bans.remove(params['as']!, params['who']!)
      return done
    }
  }
]
