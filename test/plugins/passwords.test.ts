import assert from 'node:assert/strict'
import test from 'node:test'
import { needsSalt, passwordHash, verifyPassword } from '../../src/plugins/kit/passwords.js'

const parse = passwordHash().parse
const verify = (form: string, given: string | Buffer, stored: string, salt?: string): Promise<boolean> =>
  verifyPassword(parse(form), Buffer.from(given), stored, salt)

/** Of the password `password` and the salt `salt`, made with Python's hashlib; sha1 4096 is RFC 6070's. */
const vectors: readonly [form: string, stored: string][] = [
  ['plain', 'password'],
  ['md5', '5f4dcc3b5aa765d61d8327deb882cf99'],
  ['sha', '5baa61e4c9b93f3f0682250b6cf8331b7ee68fd8'],
  ['sha256', '5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8'],
  [
    'sha512',
    'b109f3bbbc244eb82441917ed06d618b9008dd09b3befd1b5e07394c706a8bb980b1d7785e5976ec049b46df5f1326af5a2ea6d103fd07c95385ffab0cacbc86'
  ],
  ['salt,md5', '67a1e09bb1f83f5007dc119c14d663aa'],
  ['md5,salt', 'b305cadbb3bce54f3aa59c64fec00dea'],
  ['salt,sha', '59b3e8d637cf97edbe2384cf59cb7453dfe30789'],
  ['sha,salt', 'c88e9c67041a74e0357befdff93f87dde0904214'],
  ['salt,sha256', '13601bda4ea78e55a07b98866d2be6be0744e3866f13c00c811cab608a28f322'],
  ['sha256,salt', '7a37b85c8918eac19a9089c0fa5a2ab4dce3f90528dcdeec108b23ddf3607b99'],
  [
    'salt,sha512',
    '2908d2c28dfc047741fc590a026ffade237ab2ba7e1266f010fe49bde548b5987a534a86655a0d17f336588e540cd66f67234b152bbb645b4bb85758a1325d64'
  ],
  [
    'sha512,salt',
    'fa6a2185b3e0a9a85ef41ffb67ef3c1fb6f74980f8ebf970e4e72e353ed9537d593083c201dfd6e43e1c8a7aac2bc8dbb119c7dfb7d4b8f131111395bd70e97f'
  ],
  ['pbkdf2,md5,1000,16', '8d189946a32d883622a16ae18af0632f'],
  ['pbkdf2,sha,4096,20', '4b007901b765489abead49d926f721d065a429c1'],
  ['pbkdf2,sha224,10,28', 'ae79fcd9e9144f7294b020432b6946b9f290bd544b61885ca8093775'],
  ['pbkdf2,sha256,1000,20', '632c2812e46d4604102ba7618e9d6d7d2f8128f6'],
  [
    'pbkdf2,sha384,10,48',
    'e03f8ca570b98475a9bcd7f73442f3990c3ec87f8815478954ceb62ac2f3d709891aadcb5f5c9485c13e79e20a46a146'
  ],
  [
    'pbkdf2,sha512,10,64',
    'ded5fd36ace28019108070acb5acc9db892eb04230f71ecda77c0dbf97e38a8dd7cd384c0b3a5a903fa8137516563d12c6666db019ef7781ef996b4fcd6b62ca'
  ],
  ['pbkdf2,ripemd160,10,20', '90adf6d873975e5c3ae31958e7378ff4bb1b2270']
]

for (const [form, stored] of vectors) {
  test(`verifyPassword() as ${form} takes the right password and no other`, async () => {
    assert.equal(await verify(form, 'password', stored, 'salt'), true)
    assert.equal(await verify(form, 'Password', stored, 'salt'), false)
    assert.equal(await verify(form, 'password1', stored, 'salt'), false)
    assert.equal(await verify(form, '', stored, 'salt'), false)
    assert.equal(await verify(form, 'password', stored.slice(0, -1), 'salt'), false)
    assert.equal(await verify(form, 'password', `${stored}0`, 'salt'), false)
    assert.equal(await verify(form, 'password', '', 'salt'), false)
    // Hexadecimal digits may be capitals; a plain password may not.
    assert.equal(await verify(form, 'password', stored.toUpperCase(), 'salt'), form !== 'plain')
  })
}

test('verifyPassword() lets nobody in whose salt is missing or another, where the form needs one', async () => {
  for (const [form, stored] of vectors) {
    const needed = /salt|pbkdf2/.test(form)
    assert.equal(needsSalt(parse(form)), needed, form)
    assert.equal(await verify(form, 'password', stored, undefined), !needed, form)
    assert.equal(await verify(form, 'password', stored, 'Salt'), !needed, form)
  }
  assert.equal(needsSalt(parse('salt,bcrypt')), false)
})

test('verifyPassword() compares bytes, not what they look like as text', async () => {
  assert.equal(await verify('plain', Buffer.from('pässword'), 'pässword'), true)
  assert.equal(await verify('plain', Buffer.from('pässword', 'latin1'), 'pässword'), false)
  assert.equal(await verify('plain', Buffer.from([0xff]), '\ufffd'), false)
})

/** Made with libxcrypt. */
const bcrypts: readonly [given: string, stored: string][] = [
  ['U*U', '$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW'],
  ['U*U', '$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW'],
  ['U*U', '$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW'],
  ['rasmuslerdorf', '$2y$07$BCryptRequires22Chrcte/VlQH0piJtjXl.0t1XkA8pw9dMXTpOq']
]

test('verifyPassword() as bcrypt takes $2a$, $2b$ and $2y$, with or without "salt," and a salt', async () => {
  for (const [given, stored] of bcrypts) {
    for (const form of ['bcrypt', 'salt,bcrypt', 'salt , bcrypt']) {
      for (const salt of [undefined, 'anything']) {
        assert.equal(await verify(form, given, stored, salt), true, `${form} ${stored}`)
        assert.equal(await verify(form, `${given}x`, stored, salt), false, `${form} ${stored}`)
      }
    }
  }
})

test('verifyPassword() leaves the event loop alone while it counts', async () => {
  const stored = '0'.repeat(40)
  let turns = 0
  const timer = setInterval(() => turns++, 1)
  await Promise.all(Array.from({ length: 8 }, () => verify('pbkdf2,sha256,200000,20', 'x', stored, 'salt')))
  clearInterval(timer)
  assert.ok(turns >= 10, `${turns} turns`)
})

test('passwordHash() tolerates spaces around commas and keeps the text of its default', () => {
  assert.deepEqual(parse('pbkdf2 , sha , 1000,20'), { kind: 'pbkdf2', algorithm: 'sha1', iterations: 1000, length: 20 })
  assert.deepEqual(parse('salt, sha256'), { kind: 'digest', algorithm: 'sha256', salt: 'first' })
  assert.deepEqual(passwordHash('sha256').fallback, {
    value: { kind: 'digest', algorithm: 'sha256', salt: 'none' },
    text: 'sha256'
  })
})

const refused: readonly [text: string, why: RegExp][] = [
  ['', /^expected plain \| md5 /],
  ['sha1', /^expected plain \| md5 .*, got "sha1"$/],
  ['SHA256', /^expected plain \| md5 /],
  ['plain,', /^expected plain \| md5 /],
  ['salt', /^expected plain \| md5 /],
  ['salt,plain', /^expected plain \| md5 /],
  ['bcrypt,salt', /^expected plain \| md5 /],
  ['salt,sha256,salt', /^expected plain \| md5 /],
  ['pbkdf2', /^expected pbkdf2,digest,iterations,dklen such as /],
  ['pbkdf2,sha256,1000', /^expected pbkdf2,digest,iterations,dklen such as /],
  ['pbkdf2,sha256,1000,20,1', /^expected pbkdf2,digest,iterations,dklen such as /],
  ['pbkdf2,sha1,1000,20', /^expected a digest of PBKDF2, md5 \| .*, got "sha1"$/],
  ['pbkdf2,sha256,0,20', /^expected iterations from 1 to 10000000, got "0"$/],
  ['pbkdf2,sha256,10000001,20', /^expected iterations from 1 to 10000000/],
  ['pbkdf2,sha256,1e3,20', /^expected iterations from 1 to 10000000/],
  ['pbkdf2,sha256,1000,0', /^expected dklen from 1 to 1024, got "0"$/],
  ['pbkdf2,sha256,1000,1025', /^expected dklen from 1 to 1024/]
]

test('passwordHash() says which forms there are, and the bounds of PBKDF2', () => {
  for (const [text, message] of refused) assert.throws(() => parse(text), { name: 'SyntaxError', message }, text)
})

test('passwordHash() knows md4 as a digest of PBKDF2, and says so where OpenSSL does not offer it', () => {
  try {
    assert.equal(parse('pbkdf2,md4,1000,16').kind, 'pbkdf2')
  } catch (err) {
    assert.match(String(err), /^SyntaxError: the OpenSSL of this Node.js does not offer md4/)
  }
})
