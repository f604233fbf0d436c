/** Users of this API. */
import { firstUser } from '../admins.js'
import { type Asked, code, listOf, nothing, object, Refusal, type Route, text } from '../route.js'
import { api, done, isCode } from './common.js'

const userSchema = object({ username: text, tags: text })

/** Gives `done`, or emqttd's codes for what is wrong with a user. */
async function user(work: () => void | Promise<void>): Promise<[]> {
  try {
    await work()
    return done
  } catch (err) {
    if (isCode(err, 'NOT_FOUND')) throw new Refusal(code.noSuchUser, 'no such user')
    if (isCode(err, 'CONFLICT')) throw new Refusal(code.userExists, 'user already exists')
    throw err
  }
}

function notEmpty(...values: string[]): void {
  if (values.includes('')) throw new Refusal(code.emptyPassword, 'empty username or password')
}

/** Tries a password as a login does, with its delays. */
async function prove({ login, address }: Asked, username: string, password: string, wrong: Refusal): Promise<void> {
  const verdict = await login.password(username, password, address)
  if (verdict === 'refused') throw wrong
  if (verdict !== true) throw new Refusal(code.badPassword, 'too many wrong passwords', verdict.waitSeconds)
}

export const users: Route[] = [
  {
    method: 'POST',
    path: `${api}/auth`,
    summary: 'Whether a user name and a password are right',
    tag: 'Users',
    open: true,
    body: object({ username: text, password: text }),
    result: nothing,
    run: async asked => {
      const { username, password } = asked.body
      notEmpty(username, password)
      await prove(asked, username, password, new Refusal(code.badPassword, 'Password error'))
      return done
    }
  },
  {
    method: 'GET',
    path: `${api}/users`,
    summary: 'Users of this API',
    tag: 'Users',
    result: listOf(userSchema),
    run: ({ admins }) => admins.users()
  },
  {
    method: 'POST',
    path: `${api}/users`,
    summary: 'Add a user',
    tag: 'Users',
    body: object({ username: text, password: text, tags: { type: 'string', default: '' } }, ['username', 'password']),
    result: nothing,
    run: async ({ admins, body: { username, password, tags } }) => {
      notEmpty(username, password)
      return await user(() => admins.add(username, password, tags))
    }
  },
  {
    method: 'GET',
    path: `${api}/users/:username`,
    summary: 'A user',
    tag: 'Users',
    result: userSchema,
    run: ({ admins, params }) => {
      const found = admins.user(params['username']!)
      if (found === undefined) throw new Refusal(code.noSuchUser, 'no such user')
      return found
    }
  },
  {
    method: 'PUT',
    path: `${api}/users/:username`,
    summary: 'Change the tags of a user',
    tag: 'Users',
    body: object({ tags: text }),
    result: nothing,
    run: ({ admins, params, body }) => user(() => admins.setTags(params['username']!, body.tags))
  },
  {
    method: 'DELETE',
    path: `${api}/users/:username`,
    summary: 'Delete a user',
    tag: 'Users',
    result: nothing,
    run: ({ admins, params }) => {
      const username = params['username']!
      if (username === firstUser) throw new Refusal(code.adminStays, 'admin can not be deleted')
      return user(() => admins.remove(username))
    }
  },
  {
    method: 'PUT',
    path: `${api}/change_pwd/:username`,
    summary: 'Change the password of a user',
    tag: 'Users',
    body: object({ old_pwd: text, new_pwd: text }),
    result: nothing,
    run: async asked => {
      const { admins, params, body } = asked
      const username = params['username']!
      notEmpty(body.old_pwd, body.new_pwd)
      if (admins.user(username) === undefined) throw new Refusal(code.noSuchUser, 'no such user')
      await prove(asked, username, body.old_pwd, new Refusal(code.wrongOldPassword, 'old password error'))
      return await user(() => admins.setPassword(username, body.new_pwd))
    }
  }
]
