import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nearest } from '../../src/base/suggest.js'

const words = ['start', 'stop', 'restart', 'status', 'clients list', 'clients kick', 'listener.tcp.external']

test('nearest() finds what was meant, and nothing where nothing is near', () => {
  for (const [typed, meant] of [
    ['start', 'start'],
    ['strat', 'start'], // two neighbours swapped are one slip
    ['sart', 'start'],
    ['stopp', 'stop'],
    ['tsop', 'stop'],
    ['statsu', 'status'],
    ['client list', 'clients list'],
    ['clients lst', 'clients list'],
    ['clinets kick', 'clients kick'],
    ['listner.tcp.externl', 'listener.tcp.external'],
    ['listenr.tcp.extrnal.x', 'listener.tcp.external'],
    ['publish', undefined],
    ['xyz', undefined],
    ['', undefined]
  ] as const) {
    assert.equal(nearest(typed, words), meant, typed)
  }
})

test('nearest() prefers the nearer word, and of two the first', () => {
  assert.equal(nearest('clients lick', words), 'clients kick')
  assert.equal(nearest('ab', ['abcd', 'abc', 'abd']), 'abc')
  assert.equal(nearest('ab', []), undefined)
  assert.equal(nearest('ab', new Set(['ba'])), 'ba')
})

test('nearest() takes long words', () => {
  const long = 'x'.repeat(2000)
  assert.equal(nearest(long, ['y'.repeat(2000), 'z'.repeat(1900)]), undefined)
  assert.equal(nearest(long, ['y'.repeat(2000), `${long}y`]), `${long}y`)
})
