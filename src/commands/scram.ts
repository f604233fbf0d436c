import { BrokerError } from '../base/errors.js'
import type { ScramUsers } from '../plugins/auth-scram/users.js'
import type { Server } from '../server/server.js'
import { command, visible } from './command.js'

const users = ({ plugins }: Server): ScramUsers => plugins.service('auth_scram') as ScramUsers

export const scram = {
  'scram list': command({
    summary: 'List users of auth_scram',
    run: server => users(server).list(),
    print: rows => rows.map(({ username }) => visible(username)).join('\n')
  }),
  'scram add': command({
    summary: 'Add user, or change the password',
    usage: '<username> [password]',
    secret: 'password',
    acts: true,
    async run(server, { username, password }) {
      if (password === undefined) throw new BrokerError('BAD_REQUEST', 'missing argument "password"')
      await users(server).add(username, password)
      server.log.info('scram user set', { username })
      return { username }
    },
    print: () => 'ok'
  }),
  'scram del': command({
    summary: 'Delete user',
    acts: true,
    usage: '<username>',
    run(server, { username }) {
      users(server).remove(username)
      server.log.info('scram user deleted', { username })
      return { username }
    },
    print: () => 'ok'
  })
}
