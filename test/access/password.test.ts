import assert from 'node:assert/strict'
import test from 'node:test'
import bcrypt from 'bcrypt'
import { hashPassword, verifyBcrypt } from '../../src/access/password.js'

const verify = (given: string, stored: string): Promise<boolean> => verifyBcrypt(Buffer.from(given), stored)

test('hashPassword() makes what verifyBcrypt() knows again, with another salt each time', async () => {
  const [one, other] = [await hashPassword('secret'), await hashPassword('secret')]
  assert.notEqual(one, other)
  for (const stored of [one, other]) {
    assert.equal(await verify('secret', stored), true)
    assert.equal(await verify('Secret', stored), false)
  }
})

test('verifyBcrypt() says no to a text that is no bcrypt hash', async () => {
  const good = await hashPassword('U*U')
  const bad = ['', 'U*U', '$2b$', good.slice(0, -1), `${good}x`, ` ${good}`, good.replace('$10$', '$99$')]
  bad.push(good.replace('2b', '2x'), good.replace('2b', '3b'), good.replace('$10$', '$5$'), good.replace(/.$/, '!'))
  for (const stored of bad) assert.equal(await verify('U*U', stored), false, stored)
})

test('verifyBcrypt() counts 72 bytes, whatever the length and the version', async () => {
  for (const version of ['a', 'b'] as const) {
    const stored = await bcrypt.hash('x'.repeat(72), await bcrypt.genSalt(4, version))
    for (const length of [72, 73, 255, 256, 300, 100_000]) {
      assert.equal(await verify('x'.repeat(length), stored), true, `${version} ${length}`)
    }
    for (const length of [1, 44, 71]) assert.equal(await verify('x'.repeat(length), stored), false)
  }
})

test('verifyBcrypt() does not stop at U+0000', async () => {
  const stored = await bcrypt.hash('secret', 4)
  assert.equal(await verify('secret\0more', stored), false)
  assert.equal(await verify('secret\0', stored), false)
})

test('verifyBcrypt() refuses rather than let more than 1000 checks wait, and works on afterwards', async () => {
  const stored = await bcrypt.hash('x', 4)
  const results = await Promise.allSettled(Array.from({ length: 1300 }, () => verify('x', stored)))
  const refused = results.filter(({ status }) => status === 'rejected') as PromiseRejectedResult[]
  assert.ok(refused.length >= 1 && refused.length < 1000, `${refused.length} refused`)
  for (const { reason } of refused) assert.equal((reason as Error).message, 'too many logins at once')
  assert.equal(await verify('x', stored), true)
})
