import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import { createLog } from '../../src/base/log/log.js'
import { main } from '../../src/cli/ctl.js'
import { Admins } from '../../src/mgmt/admins.js'
import { Login } from '../../src/mgmt/login.js'
import { ask, basic, startWithApi } from '../support/api.js'
import { makeHome, startServer } from '../support/server.js'

function admins(t: TestContext): { file: string; initial: string; open: () => Admins } {
  const home = makeHome(t)
  const [file, initial] = [home.path('data/admins'), home.path('data/initial_admin_password')]
  return { file, initial, open: () => new Admins(file, initial) }
}

const mode = (file: string): number => statSync(file).mode & 0o777

test('Admins keeps users and tokens over a restart, as hashes, for the broker’s user alone', async t => {
  const { file, open } = admins(t)
  const one = open()
  await one.add('op1', 'secret-pw', 'viewer')
  const token = one.addToken('prometheus', 'read')
  const text = readFileSync(file, 'utf8')
  assert.ok(!text.includes('secret-pw') && !text.includes(token))
  assert.match(text, /"hash": "\$2b\$10\$/)
  assert.equal(mode(file), 0o600)

  const other = open()
  assert.deepEqual(other.users(), [{ username: 'op1', tags: 'viewer' }])
  assert.equal(await other.verify('op1', 'secret-pw'), true)
  assert.equal(await other.verify('op1', 'Secret-pw'), false)
  assert.equal(await other.verify('nobody', 'secret-pw'), false)
  assert.equal(other.token(token)?.access, 'read')
  assert.equal(other.token(`${token}x`), undefined)
  other.removeToken('prometheus')
  assert.equal(open().token(token), undefined)
})

test('Admins refuses what would be no user, and what bcrypt would cut off', async t => {
  const one = admins(t).open()
  await one.add('a', 'x'.repeat(72))
  assert.equal(await one.verify('a', 'x'.repeat(72)), true)
  assert.equal(await one.verify('a', 'x'.repeat(73)), false)
  for (const [username, password] of [
    ['', 'x'],
    ['a:b', 'x'],
    ['a\n', 'x'],
    ['b', ''],
    ['b', 'ü'.repeat(37)]
  ] as const)
    await assert.rejects(one.add(username, password), { code: 'BAD_REQUEST' })
  await assert.rejects(one.add('a', 'x'), { code: 'CONFLICT' })
  const both = await Promise.allSettled([one.add('twin', '1'), one.add('twin', '2')])
  assert.deepEqual(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  assert.throws(() => one.addToken('t', 'write'), { code: 'BAD_REQUEST' })
})

test('Admins that cannot be read or written lets nobody in, and changes nothing', async t => {
  const { file, open } = admins(t)
  await open().add('op1', 'pw')
  const broken = open()
  writeFileSync(file, '{"users":')
  assert.throws(() => broken.users(), { code: 'UNAVAILABLE' })
  await assert.rejects(broken.verify('op1', 'pw'), { code: 'UNAVAILABLE' })
})

test('Admins makes a first user with a random password, which goes when it is changed', async t => {
  const { initial, open } = admins(t)
  const one = open()
  assert.equal(await one.makeFirst(), initial)
  assert.equal(mode(initial), 0o600)
  const password = readFileSync(initial, 'utf8').trim()
  assert.ok(password.length >= 24)
  assert.equal(await one.verify('admin', password), true)
  assert.equal(await one.makeFirst(), undefined)
  await one.setPassword('admin', 'mine')
  assert.ok(!existsSync(initial))
  assert.equal(one.isKnown('admin', password), undefined)
  assert.equal(await one.verify('admin', password), false)
  assert.equal(await one.verify('admin', 'mine'), true)
})

test('Login: wrong passwords make the next try wait, longer each time, for that user and address alone', async t => {
  const users = admins(t).open()
  await users.add('ann', 'right')
  await users.add('bob', 'right')
  let now = 0
  const login = new Login(users, createLog(), () => now)
  const tried = (username: string, password: string, address = '10.0.0.1') =>
    login.password(username, password, address)
  for (let i = 0; i < 3; i++) assert.equal(await tried('ann', 'wrong'), 'refused', `${i}`)
  assert.deepEqual(await tried('ann', 'right'), { waitSeconds: 1 }, 'not even looked at')
  assert.equal(await tried('ann', 'right', '10.0.0.2'), true, 'another address')
  assert.equal(await tried('ann', 'right'), true, 'it is known to be right now')
  assert.equal(await tried('bob', 'right'), true, 'another user')
  for (const seconds of [1, 2, 4, 8, 16, 30, 30]) {
    now += seconds * 1000
    assert.equal(await tried('ann', 'wrong', '10.0.0.1'), 'refused', `after ${seconds} s`)
    now += 500
    const wait = await tried('ann', 'wrong')
    assert.ok(typeof wait === 'object' && wait.waitSeconds >= 1)
    now -= 500
  }
})

test('Login: an address that tries many users has to wait as well, and is forgotten in time', async t => {
  const users = admins(t).open()
  await users.add('ann', 'right')
  let now = 0
  const login = new Login(users, createLog(), () => now)
  for (let i = 0; i < 10; i++) assert.equal(await login.password(`user${i}`, 'x', '10.0.0.1'), 'refused')
  assert.deepEqual(await login.password('ann', 'right', '10.0.0.1'), { waitSeconds: 1 })
  now += 16 * 60_000
  assert.equal(await login.password('ann', 'right', '10.0.0.1'), true)
})

test('Login: many tries at once are one after the other, so that none comes before the delay', async t => {
  const users = admins(t).open()
  await users.add('ann', 'right')
  const login = new Login(users, createLog(), () => 0)
  const verdicts = await Promise.all(Array.from({ length: 20 }, () => login.password('ann', 'wrong', '10.0.0.1')))
  assert.equal(verdicts.filter(v => v === 'refused').length, 3)
})

test('broker-ctl admins: emqttd’s words and answers', async t => {
  const { home, server, log } = await startServer(t)
  const ctl = async (words: string, typed?: string) => {
    const lines: string[] = []
    const take = (line: string): void => void lines.push(line)
    const secret = async (): Promise<string> => typed ?? assert.fail('a password is asked for')
    const status = await main(['--home', home.root, ...words.split(' ')], { out: take, err: take, secret })
    return [status, lines.join('\n')]
  }
  assert.deepEqual(await ctl('admins list'), [0, ''])
  assert.deepEqual(await ctl('admins add op1 hush-pw1 viewer'), [0, 'ok'])
  assert.deepEqual(await ctl('admins add op1 hush-pw1 viewer'), [1, 'Error: "username already exist"'])
  assert.deepEqual(await ctl('admins add op2', 'hush-typed'), [0, 'ok'])
  assert.deepEqual(await ctl('admins list'), [0, 'User(op1, tags=viewer)\nUser(op2, tags=)'])
  assert.deepEqual(await ctl('admins passwd op1 hush-pw2'), [0, 'ok'])
  assert.deepEqual(await ctl('admins passwd nosuch hush-pw2'), [1, '{error,"Username Not Found"}'])
  assert.equal(await server.management!.admins.verify('op1', 'hush-pw2'), true)
  assert.equal(await server.management!.admins.verify('op2', 'hush-typed'), true)
  assert.deepEqual(await ctl('admins del op1'), [0, 'ok'])
  assert.deepEqual(await ctl('admins del op1'), [1, '{error,"Username Not Found"}'])

  const [status, token] = await ctl('admins token add prometheus read')
  assert.equal(status, 0)
  assert.match(String(token), /^brk_[\w-]{43}$/)
  assert.match(String((await ctl('admins token list'))[1]), /^Token\(prometheus, access=read, created_at=\d{10}\)$/)
  assert.equal((await ctl('admins token add prometheus'))[0], 1)
  assert.equal((await ctl('admins token add other write'))[0], 2)
  assert.match(
    String((await ctl('admins token'))[1]),
    /^admins token list .*\nadmins token add <Name> \[Access\] .*\nadmins token del <Name> .*$/
  )
  assert.deepEqual(await ctl('admins token del prometheus'), [0, 'ok'])
  assert.deepEqual(await ctl('admins token del prometheus'), [1, 'Not Found.'])
  const said = log.join('')
  assert.match(said, /user added username=op1/)
  for (const secret of ['hush-', String(token)]) assert.ok(!said.includes(secret), secret)
})

test('over HTTP: 401 without a login, a user or a token let in, one that may only read', async t => {
  const { server, api, password, ask: asAdmin, log } = await startWithApi(t)
  const { admins } = server.management!
  const path = '/api/v2/management/nodes'
  for (const as of [
    '',
    'Basic',
    'Basic !!',
    basic('admin', 'hush-wrong'),
    basic('', ''),
    'Bearer brk_hush',
    'Digest x'
  ]) {
    const { status, text, headers } = await ask(api, path, { as })
    assert.deepEqual([status, text], [401, ''], as)
    assert.match(String(headers['www-authenticate']), /^Basic realm="/)
  }
  assert.equal((await ask(api, path, { as: basic('admin', password) })).status, 200)
  const [full, read] = [admins.addToken('full', 'full'), admins.addToken('read', 'read')]
  const publish = { method: 'POST', body: { topic: 't', payload: 'hush-payload' } }
  for (const [token, status] of [
    [full, 200],
    [read, 403]
  ] as const) {
    assert.equal((await ask(api, path, { as: `Bearer ${token}` })).status, 200)
    assert.equal((await ask(api, '/api/v2/mqtt/publish', { as: `Bearer ${token}`, ...publish })).status, status)
  }
  admins.removeToken('full')
  assert.equal((await ask(api, path, { as: `Bearer ${full}` })).status, 401)

  const users = await asAdmin('/api/v2/users', { method: 'POST', body: { username: 'op', password: 'hush-op' } })
  const auth = { method: 'POST', body: { username: 'op', password: 'hush-op' } }
  const answers = [
    users,
    await asAdmin('/api/v2/auth', auth),
    await asAdmin('/api/v2/users'),
    await asAdmin('/api/v2/users/op')
  ]
  for (const { text } of answers) assert.doesNotMatch(text, /hush|\$2b/)
  const said = log.join('')
  assert.match(said, /login refused address=127\.0\.0\.1 username=admin why="wrong/)
  assert.match(said, /management API by=admin address=127\.0\.0\.1 did="POST \/api\/v2\/users"/)
  for (const secret of ['hush', password, full, read, basic('admin', password).slice(6)])
    assert.ok(!said.includes(secret), secret)
})

test('over HTTP: 429 with Retry-After behind wrong passwords, and right ones are let in again', async t => {
  const { api, password, server } = await startWithApi(t)
  await server.management!.admins.add('op', 'right')
  const path = '/api/v2/users'
  // It has its time from here; passwords take much of it to look at.
  const at = performance.now()
  const clock = t.mock.method(performance, 'now', () => at)
  for (let i = 0; i < 3; i++) assert.equal((await ask(api, path, { as: basic('op', 'wrong') })).status, 401)
  const { status, headers, body } = await ask(api, path, { as: basic('op', 'right') })
  assert.deepEqual([status, headers['retry-after'], body.code], [429, '1', 103])
  const auth = await ask(api, '/api/v2/auth', { method: 'POST', body: { username: 'op', password: 'right' } })
  assert.equal(auth.status, 429)
  assert.equal((await ask(api, path, { as: basic('admin', password) })).status, 200, 'another user')
  clock.mock.mockImplementation(() => at + 1001)
  assert.equal((await ask(api, path, { as: basic('op', 'right') })).status, 200)
})

test('data/admins that cannot be written: nothing is changed', async t => {
  const { file, open } = admins(t)
  const one = open()
  await one.add('op1', 'pw')
  mkdirSync(`${file}.new`) // stands in the way of what is to become the file
  await assert.rejects(one.add('op2', 'pw'), { code: 'UNAVAILABLE' })
  await assert.rejects(one.setPassword('op1', 'other'), { code: 'UNAVAILABLE' })
  assert.throws(() => one.addToken('t', 'full'), { code: 'UNAVAILABLE' })
  assert.deepEqual([one.users(), one.tokens()], [[{ username: 'op1', tags: '' }], []])
  assert.equal(await one.verify('op1', 'pw'), true)
})
