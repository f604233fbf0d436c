import assert from 'node:assert/strict'
import test from 'node:test'
import { crashRound } from '../bench/crash/kill.js'

// `npm run bench:crash` is the longer one. What it catches was tried by breaking the broker, each seen within a
// few of its rounds:
//   PUBACK and PUBREC before the commit · an incoming QoS 2 message written apart from what became of it · fresh
//   packet ids after a restart · QoS 2 sent before its packet id is kept · PUBREL before PUBREC is on disk · CONNACK
//   that does not wait for its session

test('what is acknowledged survives kill -9: QoS 2 exactly once, in order, with what is retained', async () => {
  const rounds = [1, 2].map(seed => crashRound(seed, { messages: 200, mostKills: 3 }))
  for (const { problems, kills } of await Promise.all(rounds)) {
    assert.deepEqual(problems, [])
    assert(kills >= 2)
  }
})
