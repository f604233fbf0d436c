/** The words of broker-ctl that auth_scram brings: broker-ctl loads them, so nothing else of the plugin is loaded here. */
import { BrokerError } from '../../base/errors.js'
import { command, visible } from '../../commands/command.js'
import type { ScramUser } from './users.js'

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
