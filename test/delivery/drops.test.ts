// What a session remembers of what it has missed.
import assert from 'node:assert/strict'
import test from 'node:test'
import { Message } from '../../src/delivery/message.js'
import { Drops } from '../../src/delivery/session/drops.js'
import { Session } from '../../src/delivery/session/session.js'
import { encodeProperties } from '../../src/wire/properties.js'
import { Peer } from '../support/packets.js'

test('Losses counts all by cause, and has the last ten, the oldest first', () => {
  const losses = new Drops()
  for (let i = 0; i < 13; i++) losses.note(i % 2 ? 'slow' : 'away', `t${i}`, 0)
  assert.deepEqual([losses.counts.away, losses.counts.slow], [7, 6])
  assert.deepEqual(
    losses.last().map(({ topic }) => topic),
    ['t3', 't4', 't5', 't6', 't7', 't8', 't9', 't10', 't11', 't12']
  )
})

test('Session.losses is there from the first loss on, and each loss has its cause', t => {
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000 })
  const session = new Session('c', { maxInflight: 1, maxQueued: 2, storeQos0: false })
  const deliver = (topic: string, qos: 0 | 1, size = 1, expiry = 0): void => {
    const properties = expiry === 0 ? undefined : encodeProperties({ messageExpiryInterval: expiry })
    const message = Message.of(topic, Buffer.alloc(size), { qos }, properties)
    if (expiry > 0) message.expires(expiry, 1)
    session.deliver(message, qos, false, undefined)
  }
  deliver('kept', 1)
  deliver('short', 1, 1, 1)
  assert.equal(session.drops, undefined)
  deliver('absent', 0)
  t.mock.timers.tick(2000)
  const peer = new Peer({ maximumPacketSize: 50 })
  session.attach(peer)
  session.acknowledged(1)
  deliver('large', 0, 100)
  deliver('window', 1)
  for (const topic of ['q1', 'q2', 'q3']) deliver(topic, 1)
  assert.deepEqual(
    session.drops!.last().map(({ cause, topic, qos }) => [cause, topic, qos]),
    [
      ['away', 'absent', 0],
      ['expired', 'short', 1],
      ['too_large', 'large', 0],
      ['queue_full', 'q1', 1]
    ]
  )
})
