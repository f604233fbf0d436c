import assert from 'node:assert/strict'
import test from 'node:test'
import { client, next, startServer, until } from '../support/server.js'

const conf = `
listener.tcp.whole = 127.0.0.1:0
listener.tcp.inside = 127.0.0.1:0
listener.tcp.inside.mountpoint = in/%c/
`

test('a mount point is put before topics and filters, and taken away on delivery', async t => {
  const running = await startServer(t, { conf })
  const port = running.portOf('tcp:inside')
  const outside = await client(t, { port: running.portOf('tcp:whole') })
  const inside = await client(t, { port }, { clientId: 'c1', will: { topic: 'gone', payload: Buffer.from('x') } })
  const seen: Record<'outside' | 'inside', string[]> = { outside: [], inside: [] }
  outside.on('message', topic => void seen.outside.push(topic))
  inside.on('message', topic => void seen.inside.push(topic))
  await outside.subscribeAsync('in/#')
  await inside.subscribeAsync(['+', '$share/g/shared/+'])

  await inside.publishAsync('a/b', '', { qos: 1 })
  await outside.publishAsync('in/c1/x', '', { qos: 1 })
  await outside.publishAsync('in/c1/shared/1', '', { qos: 1 })
  await outside.publishAsync('in/c2/x', 'not for c1', { qos: 1 })
  await until('all', () => seen.inside.length === 2 && seen.outside.length === 4)
  await inside.unsubscribeAsync('+')
  await outside.publishAsync('in/c1/y', '', { qos: 1 })
  await running.server.clients.kick('c1')
  await until('the will', () => seen.outside.includes('in/c1/gone'))
  assert.deepEqual(seen, {
    outside: ['in/c1/a/b', 'in/c1/x', 'in/c1/shared/1', 'in/c2/x', 'in/c1/y', 'in/c1/gone'],
    inside: ['x', 'shared/1']
  })
})

test("retained messages under a mount point are its clients', under their names", async t => {
  const running = await startServer(t, { conf })
  const inside = await client(t, { port: running.portOf('tcp:inside') }, { clientId: 'c1', protocolVersion: 5 })
  await inside.publishAsync('r', 'kept', { qos: 1, retain: true, properties: { userProperties: { a: 'b' } } })
  const got = next(inside, 'message')
  await inside.subscribeAsync('+')
  const [topic, payload, packet] = await got
  assert.deepEqual(
    [topic, String(payload), packet.retain, packet.properties.userProperties.a],
    ['r', 'kept', true, 'b']
  )
})
