import { BrokerError } from '../base/errors.js'
import { command, visible } from './command.js'

function given(password: string | undefined): string {
  if (password === undefined) throw new BrokerError('BAD_REQUEST', 'missing argument "password"')
  return password
}

export const admins = {
  'admins list': command({
    summary: 'List users of the management API',
    run: ({ admins }) => admins.users(),
    print: rows => rows.map(({ username, tags }) => `User(${visible(username)}, tags=${visible(tags)})`).join('\n')
  }),
  'admins add': command({
    summary: 'Add user of the management API',
    usage: '<username> [password] [tags]',
    secret: 'password',
    acts: true,
    async run({ admins }, { username, password, tags }) {
      await admins.add(username, given(password), tags)
      return { username }
    },
    print: () => 'ok'
  }),
  'admins passwd': command({
    summary: 'Reset password of a user',
    usage: '<username> [password]',
    secret: 'password',
    acts: true,
    async run({ admins }, { username, password }) {
      await admins.setPassword(username, given(password))
      return { username }
    },
    print: () => 'ok'
  }),
  'admins del': command({
    summary: 'Delete user',
    usage: '<username>',
    acts: true,
    run({ admins }, { username }) {
      admins.remove(username)
      return { username }
    },
    print: () => 'ok'
  }),
  'admins token list': command({
    summary: 'List tokens of the management API',
    run: ({ admins }) => admins.tokens(),
    print: rows =>
      rows
        .map(({ name, access, created_at }) => `Token(${visible(name)}, access=${access}, created_at=${created_at})`)
        .join('\n')
  }),
  'admins token add': command({
    summary: 'Make a token for a program: full, or read alone',
    usage: '<name> [access]',
    acts: true,
    run: ({ admins }, { name, access = 'full' }) => ({ name, access, token: admins.addToken(name, access) }),
    print: ({ token }) => token
  }),
  'admins token del': command({
    summary: 'Delete a token',
    usage: '<name>',
    acts: true,
    run({ admins }, { name }) {
      admins.removeToken(name)
      return { name }
    },
    print: () => 'ok'
  })
}
