import { BrokerError } from '../base/errors.js'
import type { Admins } from '../mgmt/admins.js'
import type { Server } from '../server/server.js'
import { command, visible } from './command.js'

const of = ({ management }: Server): Admins => management!.admins // whoever has an admin socket has a home

function given(password: string | undefined): string {
  if (password === undefined) throw new BrokerError('BAD_REQUEST', 'missing argument "password"')
  return password
}

export const admins = {
  'admins list': command({
    summary: 'List users of the management API',
    run: server => of(server).users(),
    print: rows => rows.map(({ username, tags }) => `User(${visible(username)}, tags=${visible(tags)})`).join('\n')
  }),
  'admins add': command({
    summary: 'Add user of the management API',
    usage: '<username> [password] [tags]',
    secret: 'password',
    acts: true,
    async run(server, { username, password, tags }) {
      await of(server).add(username, given(password), tags)
      server.log.info('management API: user added', { username })
      return { username }
    },
    print: () => 'ok'
  }),
  'admins passwd': command({
    summary: 'Reset password of a user',
    usage: '<username> [password]',
    secret: 'password',
    acts: true,
    async run(server, { username, password }) {
      await of(server).setPassword(username, given(password))
      server.log.info('management API: password changed', { username })
      return { username }
    },
    print: () => 'ok'
  }),
  'admins del': command({
    summary: 'Delete user',
    usage: '<username>',
    acts: true,
    run(server, { username }) {
      of(server).remove(username)
      server.log.info('management API: user deleted', { username })
      return { username }
    },
    print: () => 'ok'
  }),
  'admins token list': command({
    summary: 'List tokens of the management API',
    run: server => of(server).tokens(),
    print: rows =>
      rows
        .map(({ name, access, created_at }) => `Token(${visible(name)}, access=${access}, created_at=${created_at})`)
        .join('\n')
  }),
  'admins token add': command({
    summary: 'Make a token for a program: full, or read alone',
    usage: '<name> [access]',
    acts: true,
    run(server, { name, access = 'full' }) {
      const token = of(server).addToken(name, access)
      server.log.info('management API: token added', { token: name, access })
      return { name, access, token }
    },
    print: ({ token }) => token
  }),
  'admins token del': command({
    summary: 'Delete a token',
    usage: '<name>',
    acts: true,
    run(server, { name }) {
      of(server).removeToken(name)
      server.log.info('management API: token deleted', { token: name })
      return { name }
    },
    print: () => 'ok'
  })
}
