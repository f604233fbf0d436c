import { BrokerError } from '../base/errors.js'
import type { ScramUser } from '../plugins/auth-scram/users.js'
import { command, visible } from './command.js'

const plugin = 'auth_scram'

export const scram = {
  'scram list': command({
    summary: 'List users of auth_scram',
    run: async ({ plugins }) => (await plugins.call(plugin, 'list', {})) as ScramUser[],
    print: rows => rows.map(({ username }) => visible(username)).join('\n')
  }),
  'scram add': command({
    summary: 'Add user, or change the password',
    usage: '<username> [password]',
    secret: 'password',
    acts: true,
    async run({ plugins }, { username, password }) {
      if (password === undefined) throw new BrokerError('BAD_REQUEST', 'missing argument "password"')
      await plugins.call(plugin, 'add', { username, password })
      return { username }
    },
    print: () => 'ok'
  }),
  'scram del': command({
    summary: 'Delete user',
    acts: true,
    usage: '<username>',
    async run({ plugins }, { username }) {
      await plugins.call(plugin, 'remove', { username })
      return { username }
    },
    print: () => 'ok'
  })
}
