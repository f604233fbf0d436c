import assert from 'node:assert/strict'
import test from 'node:test'
import type { ClientInfo } from '../../src/base/client-info.js'
import { createLog } from '../../src/base/log/log.js'
import { Hooks } from '../../src/plugins/hooks.js'

const client: ClientInfo = {
  clientId: 'c1',
  username: 'u1',
  peer: { address: '127.0.0.1', port: 1 },
  local: true,
  listener: 'tcp:test',
  cleanSession: true,
  keepAlive: 0,
  protocolVersion: 4,
  connectedAt: new Date()
}

function make(timeoutMs = 50): { hooks: Hooks; lines: string[] } {
  const lines: string[] = []
  const log = createLog({ level: 'debug', format: 'text', write: line => void lines.push(line) })
  return { hooks: new Hooks(log, { timeoutMs }), lines }
}

test('Hooks.ask() takes the first answer that is not ignore, in the order of registration', async () => {
  const { hooks } = make()
  hooks.scope('a').on('client.authenticate', () => 'ignore')
  hooks.scope('b').on('client.authenticate', async () => 'superuser' as const)
  hooks.scope('c').on('client.authenticate', () => 'deny')
  assert.equal(await hooks.ask('client.authenticate', client, undefined), 'superuser')
})

test('Hooks.ask() asks a higher priority first', async () => {
  const { hooks } = make()
  hooks.scope('a').on('client.authenticate', () => 'deny')
  hooks.scope('b').on('client.authenticate', () => 'allow', { priority: 1 })
  assert.equal(await hooks.ask('client.authenticate', client, undefined), 'allow')
})

test('Hooks.ask() says ignore when nobody knows, and failed when a handler throws or is late', async () => {
  const { hooks, lines } = make()
  assert.equal(await hooks.ask('client.authorize', client, 'publish', 'a'), 'ignore')
  hooks.scope('slow').on('client.authorize', () => new Promise(() => {}))
  hooks.scope('never asked').on('client.authorize', () => 'allow')
  assert.equal(await hooks.ask('client.authorize', client, 'publish', 'a'), 'failed')
  hooks.release('slow')
  hooks.scope('broken').on(
    'client.authorize',
    () => {
      throw new Error('no database')
    },
    { priority: 1 }
  )
  assert.equal(await hooks.ask('client.authorize', client, 'publish', 'a'), 'failed')
  assert.match(lines.join(''), /slow failed in client\.authorize: no answer within 50 ms/)
  assert.match(lines.join(''), /broken failed in client\.authorize: no database/)
})

test('Hooks.pass() hands the value on, skips a handler that throws, and stops at null', async () => {
  const { hooks } = make()
  const message = { topic: 'a', payload: Buffer.from('x'), qos: 0 as const, retain: false, from: 'c1' }
  hooks.scope('a').on('message.publish', m => ({ ...m, topic: `${m.topic}/1` }))
  hooks.scope('b').on('message.publish', () => {
    throw new Error('broken')
  })
  hooks.scope('c').on('message.publish', async m => ({ ...m, topic: `${m.topic}/2` }))
  assert.equal((await hooks.pass('message.publish', message))?.topic, 'a/1/2')
  hooks.scope('d').on('message.publish', () => null)
  assert.equal(await hooks.pass('message.publish', message), null)
})

test('Hooks.tell() tells everybody, and one that throws is logged with its name', async () => {
  const { hooks, lines } = make()
  const heard: string[] = []
  hooks.scope('a').on('client.connected', () => {
    throw new Error('oops')
  })
  hooks.scope('b').on('client.connected', c => void heard.push(c.clientId))
  hooks.tell('client.connected', client)
  await new Promise(resolve => setImmediate(resolve))
  assert.deepEqual(heard, ['c1'])
  assert.match(lines.join(''), /a failed in client\.connected: oops/)
})

test('Hooks.release() removes what an owner added and nothing else', () => {
  const { hooks } = make()
  hooks.scope('a').on('client.connected', () => {})
  hooks.scope('b').on('client.disconnected', () => {})
  hooks.release('a')
  assert.deepEqual([hooks.has('client.connected'), hooks.has('client.disconnected')], [false, true])
})

test('Hooks.converse() says failed when a step throws, is late or answers none of the three, and tells of the end', async () => {
  const { hooks, lines } = make()
  const answers: (() => unknown)[] = [
    () => {
      throw new Error('away')
    },
    () => new Promise(() => {}),
    () => ({ result: 'allow' }),
    () => ({ result: 'success', data: 'text' }),
    () => ({ result: 'success', data: Buffer.alloc(65_536) }),
    () => ({ result: 'success', username: 7 }),
    () => undefined
  ]
  let ended = 0
  const take = () => answers.shift()!() as never
  hooks.scope('a').authenticator('M', () => ({ start: take, next: take, end: () => void ended++ }))
  assert.equal(
    hooks.beginExchange('m', () => {}),
    undefined
  )
  const talk = hooks.beginExchange('M', () => assert.fail('not gone'))!
  assert.equal(await talk.start(client, undefined, false), 'failed')
  while (answers.length > 0) assert.equal(await talk.next(undefined), 'failed')
  talk.end()
  assert.equal(ended, 1)
  assert.match(lines[0]!, /a failed in M.*away/)
})

test('Hooks.release() ends the conversations of its owner, and frees the method', () => {
  const { hooks } = make()
  const conversation = { start: () => ({ result: 'refuse' }) as const, next: () => ({ result: 'refuse' }) as const }
  hooks.scope('a').authenticator('A', () => conversation)
  hooks.scope('b').authenticator('B', () => conversation)
  const gone: string[] = []
  const talk = hooks.beginExchange('A', () => gone.push('over'))!
  talk.end()
  hooks.beginExchange('A', () => gone.push('a'))
  hooks.beginExchange('B', () => gone.push('b'))
  assert(hooks.hasAuthenticators)
  hooks.release('a')
  assert.deepEqual(gone, ['a'])
  hooks.scope('c').authenticator('A', () => conversation)
  hooks.release('b')
  hooks.release('c')
  assert(!hooks.hasAuthenticators)
})
