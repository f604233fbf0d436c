import assert from 'node:assert/strict'
import test from 'node:test'
import { now, onConnect, onRestart } from '../../src/config/effect.js'
import { describeKeys, named, parseConfig } from '../../src/config/schema.js'
import { flag, integer, own, text } from '../../src/config/values.js'

test('now(), onConnect() and onRestart() mark a key, or every key of a section, and change nothing else of them', () => {
  const schema = {
    a: now(flag(false)),
    b: onConnect({ c: named({ at: own(integer()), d: { e: text('x') } }) }),
    f: onRestart('it is so', named(integer())),
    g: text('y')
  }
  assert.deepEqual(describeKeys(schema), [
    { key: 'a', fallback: 'false', effect: 'now' },
    { key: 'b.c.*', fallback: undefined, effect: 'connect' },
    { key: 'b.c.*.d.e', fallback: 'x', effect: 'connect' },
    { key: 'f.*', fallback: undefined, effect: { restart: 'it is so' } },
    { key: 'g', fallback: 'y', effect: undefined }
  ])
  assert.deepEqual(parseConfig('a = on\nb.c.n = 1\nf.1 = 2', schema), {
    a: true,
    b: { c: new Map([['n', { at: 1, d: { e: 'x' } }]]) },
    f: new Map([['1', 2]]),
    g: 'y'
  })
})
