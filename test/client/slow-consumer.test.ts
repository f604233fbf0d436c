// One subscriber stops reading: what that costs it, and that it costs nobody else anything.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Connection } from '../../src/net/connection.js'
import { Speaker, startServer, until } from '../support/server.js'

const count = 20_000
const filler = 'x'.repeat(1000)

/** With a machine so busy that the default would pass, the slow one would be thrown out. */
const conf = `
listener.tcp.test = 127.0.0.1:0
listener.tcp.test.send_timeout = 5m
`

for (const qos of [0, 1]) {
  test(`QoS ${qos}: a subscriber that stops reading holds up nobody, costs bounded memory, and goes on when it reads again`, async t => {
    const server = await startServer(t, { conf: `${conf}mqtt.session.max_inflight = 100` })
    const { clients } = server.server
    const connections: Connection[] = []
    const establish = clients.establish.bind(clients)
    clients.establish = (transport, origin) => {
      const connection = establish(transport, origin)
      connections.push(connection)
      return connection
    }
    /** Bytes that the broker holds for the first to connect, which is the slow one. */
    const pending = (): number => connections[0]!.pendingBytes
    const slow = await Speaker.connect(t, server, { id: 'slow' })
    const fast = await Speaker.connect(t, server, { id: 'fast' })
    const from = await Speaker.connect(t, server, { id: 'from' })
    for (const one of [slow, fast]) await one.subscribe([['t', qos]])
    const session = clients.sessions.all().find(({ clientId }) => clientId === 'slow')!
    slow.raw.socket.pause()

    // Kept in step with the fast one, which then has nothing to lose: 200 messages ahead of it at most.
    const seen: number[] = []
    let mostPending = 0
    for (let sent = 0; seen.length < count; ) {
      const batch: Buffer[] = []
      for (; sent < count && sent < seen.length + 200; sent++) {
        batch.push(from.publication('t', `${sent} ${filler}`, { qos, id: (sent % 60_000) + 1 }))
      }
      if (batch.length > 0) from.raw.socket.write(Buffer.concat(batch))
      for (const upTo = sent; seen.length < upTo; ) {
        const got = await fast.nextOf(3)
        seen.push(Number.parseInt(got.payload, 10))
        if (qos === 1) fast.send(fast.ack(4, got.id))
      }
      mostPending = Math.max(mostPending, pending())
    }
    assert.deepEqual(seen, [...seen.keys()], 'the fast one has all of them, in order')

    // mqueue.max_length messages and a mebibyte of bytes, beside what is under way.
    assert.ok(mostPending < 4 * 1024 * 1024, `${mostPending} bytes pending`)
    assert.ok(session.queueLength <= 1000, `${session.queueLength} queued`)
    assert.ok(session.inflightLength <= 100, `${session.inflightLength} under way`)
    assert.ok(session.dropped > 0, 'something was lost, and counted')
    if (qos === 0) assert.equal(session.queueLength, 0, 'QoS 0 is dropped and does not wait')

    const shown = await server.admin.call('clients show', { clientId: 'slow' })
    assert.equal(shown.session.mqueue_dropped, session.dropped)

    slow.raw.socket.resume()
    const drain = async (last: string): Promise<string[]> => {
      const got: string[] = []
      while (got.at(-1) !== last) {
        const one = await slow.nextOf(3)
        if (one.qos === 1) slow.send(slow.ack(4, one.id))
        got.push(one.payload.split(' ')[0]!)
      }
      return got
    }
    const late = drain('end')
    await until('it has caught up', () => pending() === 0)
    await from.publish('t', 'end', { qos })
    const numbers = (await late).slice(0, -1).map(Number)
    assert.deepEqual(
      numbers,
      [...numbers].sort((a, b) => a - b),
      'what it did get is in order'
    )
    assert.ok(numbers.length < count)
    if (qos === 1) assert.equal(numbers.at(-1), count - 1, 'of QoS 1 the oldest went, not the newest')
    await from.publish('t', 'more', { qos })
    assert.deepEqual(await drain('more'), ['more'])
    await server.server.clients.kick('slow')
    await until('the log', () => server.log.some(line => /client disconnected.*clientId=slow.*dropped=\d+/.test(line)))
  })
}

test('a slow subscriber loses QoS 0 first: QoS 1 beside it waits and arrives whole', async t => {
  const server = await startServer(t, { conf })
  const slow = await Speaker.connect(t, server, { id: 'slow' })
  await slow.subscribe([['t', 1]])
  const from = await Speaker.connect(t, server, { id: 'from' })
  slow.raw.socket.pause()
  let sent = 0
  for (let round = 0; round < 50; round++) {
    const batch: Buffer[] = []
    for (let i = 0; i < 400; i++) batch.push(from.publication('t', `noise ${filler}`))
    for (let i = 0; i < 10; i++, sent++) batch.push(from.publication('t', `${sent}`, { qos: 1, id: sent + 1 }))
    from.send(...batch)
    await from.heard()
  }
  const session = server.server.clients.sessions.all().find(({ clientId }) => clientId === 'slow')!
  assert.ok(session.missed > 0 && session.missed === session.dropped, 'QoS 0 alone was lost')
  slow.raw.socket.resume()
  const kept: string[] = []
  let noise = 0
  while (kept.length < sent) {
    const got = await slow.nextOf(3)
    if (got.qos === 0) noise++
    else {
      kept.push(got.payload)
      slow.send(slow.ack(4, got.id))
    }
  }
  assert.deepEqual(
    kept,
    Array.from({ length: sent }, (_, i) => `${i}`)
  )
  assert.equal(noise + session.missed, 50 * 400)
})
