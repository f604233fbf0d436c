import assert from 'node:assert/strict'
import test from 'node:test'
import {
  makeVerifier,
  prepared,
  readVerifier,
  ScramError,
  ScramExchange,
  showVerifier,
  type Verifier
} from '../../src/access/scram.js'
import { ScramClient } from '../support/scram.js'

// RFC 7677, section 3.
const rfc = {
  salt: Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64'),
  nonce: '%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0',
  clientFirst: 'n,,n=user,r=rOprNGfwEbeRWgbNEkqO',
  serverFirst: 'r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096',
  clientFinal:
    'c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=',
  serverFinal: 'v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4='
}
const pencil = await makeVerifier('pencil', 4096, rfc.salt)

const exchange = (users: Record<string, Verifier> = { user: pencil }): ScramExchange =>
  new ScramExchange({ find: name => users[name], iterations: 4096, nonce: () => rfc.nonce })
const first = (message: string, of = exchange()): string => of.first(Buffer.from(message))

test('ScramExchange gives the answers of RFC 7677', () => {
  const server = exchange()
  assert.equal(first(rfc.clientFirst, server), rfc.serverFirst)
  assert.equal(server.final(Buffer.from(rfc.clientFinal)), rfc.serverFinal)
  assert.equal(server.username, 'user')
})

test('ScramExchange.final() wants the proof, the nonce and the bindings of this exchange', () => {
  const [, proof] = rfc.clientFinal.split(',p=') as [string, string]
  const nonce = 'rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0'
  const wrong: [string, string][] = [
    ['another proof', `c=biws,r=${nonce},p=${Buffer.alloc(32).toString('base64')}`],
    ['a short proof', `c=biws,r=${nonce},p=${Buffer.alloc(31).toString('base64')}`],
    ['no proof', `c=biws,r=${nonce}`],
    ['base64 with rubbish', `c=biws,r=${nonce},p=${proof.replace('H', ' H')}`],
    ['the client’s nonce alone', `c=biws,r=rOprNGfwEbeRWgbNEkqO,p=${proof}`],
    ['the bindings of y', `c=eSws,r=${nonce},p=${proof}`],
    ['more than was proved', `c=biws,r=${nonce},x=1,p=${proof}`],
    ['nothing', '']
  ]
  for (const [what, message] of wrong) {
    const server = exchange()
    first(rfc.clientFirst, server)
    assert.throws(() => server.final(Buffer.from(message)), ScramError, what)
  }
})

test('ScramExchange.final() refuses another nonce or header, though the proof is right', () => {
  for (const [lie, why] of [
    [(same: string) => same, undefined],
    [(same: string) => `${same}x`, /another nonce/],
    [(same: string) => same.replace('c=biws', 'c=eSws'), /bindings/]
  ] as const) {
    const client = new ScramClient('user', 'pencil', { lie })
    const server = exchange()
    const final = Buffer.from(client.final(first(client.first, server)))
    if (why === undefined) assert.equal(server.final(final), client.expected)
    else assert.throws(() => server.final(final), why)
  }
})

test('ScramExchange.first() takes the headers n and y, and refuses what RFC 5802 has refused', () => {
  assert.match(first('y,,n=user,r=abc'), /^r=abc/)
  assert.match(first('n,a=user,n=user,r=abc'), /^r=abc/)
  assert.match(first('n,,n=user,r=abc,x=an extension'), /^r=abc/)
  const refused = [
    'p=tls-unique,,n=user,r=abc',
    'n,a=admin,n=user,r=abc',
    'n,,m=must,n=user,r=abc',
    'n,,n=us=er,r=abc',
    'n,,n=us=2cer,r=abc',
    'n,,n=,r=abc',
    'n,,n=user,r=',
    'n,,n=user,r=a b',
    'n,,r=abc,n=user',
    'n=user,r=abc',
    ''
  ]
  for (const message of refused) assert.throws(() => first(message), ScramError, message)
  assert.throws(() => exchange().first(Buffer.from([0x6e, 0x2c, 0x2c, 0xff])), ScramError)
})

test('ScramExchange reads a name with =2C and =3D, and prepares it', () => {
  for (const [sent, meant] of [
    ['a=2Cb=3Dc', 'a,b=c'],
    ['\u2168', 'IX'],
    ['a\u00adb\u00a0c', 'ab c']
  ]) {
    const server = exchange({ [meant!]: pencil })
    first(`n,,n=${sent},r=abc`, server)
    assert.equal(server.username, meant)
  }
})

test('ScramExchange answers for a user who is not known as for one who is, always the same, and lets nobody in', () => {
  const [a, b, other] = ['nobody', 'nobody', 'somebody'].map(name => first(`n,,n=${name},r=abc`))
  assert.equal(a, b)
  assert.notEqual(a, other)
  assert.match(a!, /^r=abc[^,]+,s=[A-Za-z0-9+/]{22}==,i=4096$/)
  const server = exchange({})
  first(rfc.clientFirst, server)
  assert.throws(() => server.final(Buffer.from(rfc.clientFinal)), new ScramError('wrong user or password'))
})

test('showVerifier() and readVerifier() are each other’s reverse, and take nothing else', () => {
  const shown = showVerifier(pencil)
  assert.equal(
    shown,
    'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU='
  )
  assert.deepEqual(readVerifier(shown), pencil)
  for (const wrong of [
    shown.replace('256', '1'),
    shown.replace('4096', '0'),
    shown.replace('4096', '99999999'),
    shown.replace('W22Z', 'W2*Z'),
    shown.replace('W22ZaJ0SNY7soEsUEjb6gQ==', ''),
    shown.replace('qY=', 'qQ=='),
    `${shown}x`,
    ''
  ]) {
    assert.equal(readVerifier(wrong), undefined, wrong)
  }
})

test('prepared() makes one of what looks the same, and refuses what cannot be typed', () => {
  // RFC 4013, section 3, as far as it goes
  assert.equal(prepared('I\u00adX'), 'IX')
  assert.equal(prepared('user'), 'user')
  assert.equal(prepared('USER'), 'USER')
  assert.equal(prepared('\u00aa'), 'a')
  assert.equal(prepared('pass\u3000word'), 'pass word')
  for (const wrong of ['\u0007', 'a\nb', 'a\0', '\u0080', '\ue000', '\ufffd', '\u202e', '\ud800', '\u200b', '']) {
    assert.equal(prepared(wrong), undefined, JSON.stringify(wrong))
  }
})
