// MQTT 5's enhanced authentication (section 4.12), spoken packet by packet against a method of the test's own.
import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import mqtt from 'mqtt'
import type { AuthExchange, AuthStep } from '../../src/plugins/hooks.js'
import {
  client,
  disconnect,
  type Property,
  packet,
  pingreq,
  propertyBytes,
  RawClient,
  type Running,
  type ServerFiles,
  Speaker,
  type SpeakerOptions,
  startServer,
  until
} from '../support/server.js'

const METHOD = 0x15
const DATA = 0x16
const auth = (reason: number, method = 'WORDS', data?: string, ...more: Property[]): Buffer =>
  packet(
    0xf0,
    reason,
    propertyBytes([[METHOD, method], ...(data === undefined ? [] : [[DATA, data] as Property]), ...more])
  )

/** What the test's method hears, and how it goes on. */
interface Words extends Running {
  readonly heard: string[]
  /** Answers that wait to be let go. */
  readonly held: (() => void)[]
}

/**
 * WORDS asks `password?` and lets in who says `sesame <user>`; `root` is a superuser. Other words: `hold` waits for the
 * test, `throw` fails, `hang` never answers, `more` goes on for ever, `big` answers much, `nonsense` answers none of
 * the three, `at once` succeeds, `silent` succeeds without data and name.
 */
async function start(t: TestContext, files: ServerFiles = {}): Promise<Words> {
  const running = await startServer(t, files)
  const heard: string[] = []
  const held: (() => void)[] = []
  const answer = async (data: Buffer | undefined): Promise<AuthStep> => {
    const words = data?.toString() ?? ''
    heard.push(words)
    const [word, user = ''] = words.split(' ')
    if (word === 'sesame') {
      return { result: 'success', data: Buffer.from(`hello ${user}`), username: user, superuser: user === 'root' }
    }
    if (word === 'hold') await new Promise<void>(resolve => held.push(resolve))
    if (word === 'throw') throw new Error('its backend is away')
    if (word === 'hang') return await new Promise(() => {})
    if (word === 'big') return { result: 'continue', data: Buffer.alloc(1000, 'x') }
    if (word === 'nonsense') return true as unknown as AuthStep
    if (word === 'silent') return { result: 'success' }
    if (word === 'super') return { result: 'success', superuser: true }
    if (word === 'wrong') return { result: 'refuse' }
    if (word === 'hold' && user !== '') return { result: 'success', username: user }
    return { result: 'continue', data: Buffer.from('password?') }
  }
  running.server.hooks.scope('words').authenticator('WORDS', (): AuthExchange => {
    let client = ''
    return {
      start: async ({ clientId, username }, data, isReauth) => {
        client = `${clientId}/${username}${isReauth ? ' again' : ''}`
        heard.push(`start ${client}`)
        return await answer(data)
      },
      next: answer,
      end: () => void heard.push(`end ${client}`)
    }
  })
  return { ...running, heard, held }
}

const withMethod = (data?: string, options: SpeakerOptions = {}): SpeakerOptions => ({
  version: 5,
  id: 'c',
  ...options,
  properties: [
    [METHOD, 'WORDS'],
    ...(data === undefined ? [] : [[DATA, data] as Property]),
    ...(options.properties ?? [])
  ]
})

const property = (got: { properties: Property[] }, id: number): unknown =>
  got.properties.find(([each]) => each === id)?.[1]

/** CONNECT with the method, then each word of the client in its turn; the connack is the last answer. */
async function enter(t: TestContext, to: Words, words: string[], options: SpeakerOptions = {}): Promise<Speaker> {
  const [first, ...more] = words
  const speaker = await Speaker.connect(t, to, withMethod(first, options))
  for (const each of more) {
    assert.deepEqual([speaker.connack.type, speaker.connack.code], [15, 0x18])
    speaker.send(auth(0x18, 'WORDS', each))
    speaker.connack = await speaker.next()
  }
  return speaker
}

/** CONNACK or DISCONNECT has the code, and the connection ends behind it. */
async function ends(speaker: Speaker, type: 2 | 14, code: number, title = ''): Promise<void> {
  const got = await speaker.next()
  assert.deepEqual([got.type, got.code], [type, code], title)
  assert.equal((await speaker.next()).type, 0)
  await speaker.raw.closed
}

const acl = '{deny, {user, "lamp"}, publish, ["secret/#"]}.\n{allow, all}.\n'

test('an exchange ends in CONNACK with the method and the last data, and nobody knows the client before', async t => {
  const words = await start(t)
  const told: string[] = []
  words.server.hooks
    .scope('t')
    .on('client.connected', ({ clientId, username }) => void told.push(`${clientId}/${username}`))
  const speaker = await Speaker.connect(t, words, withMethod('hello'))
  const { type, code, properties } = speaker.connack
  assert.deepEqual(
    [type, code, properties],
    [
      15,
      0x18,
      [
        [METHOD, 'WORDS'],
        [DATA, 'password?']
      ]
    ]
  ) // [MQTT-4.12.0-2]
  assert.deepEqual([words.server.clients.clientCount, told], [0, []])
  speaker.send(auth(0x18, 'WORDS', 'what?', [0x1f, 'a reason'], [0x26, ['a', 'b']]))
  assert.equal((await speaker.next()).code, 0x18)
  speaker.send(auth(0x18, 'WORDS', 'sesame lamp'))
  const connack = await speaker.next()
  assert.deepEqual([connack.type, connack.code], [2, 0])
  assert.deepEqual([property(connack, METHOD), property(connack, DATA)], ['WORDS', 'hello lamp']) // [MQTT-4.12.0-5]
  assert.deepEqual(told, ['c/lamp'])
  assert.deepEqual(words.heard, ['start c/undefined', 'hello', 'what?', 'sesame lamp', 'end c/undefined'])
  assert.equal((await speaker.publish('a', 'x', { qos: 1 })).type, 4)
})

test('an exchange may succeed at once, and without data; no AUTH is sent then', async t => {
  const words = await start(t)
  const named = await Speaker.connect(t, words, withMethod('sesame lamp'))
  assert.deepEqual([named.connack.type, named.connack.code, property(named.connack, DATA)], [2, 0, 'hello lamp'])
  const silent = await enter(t, words, ['silent'], { id: 'd' })
  assert.deepEqual([silent.connack.code, property(silent.connack, METHOD)], [0, 'WORDS'])
  assert.equal(property(silent.connack, DATA), undefined)
})

test('a method that nobody has is refused with 0x8C, and other versions know nothing of methods [MQTT-4.12.0-1]', async t => {
  const words = await start(t)
  const other = await Speaker.connect(t, words, { version: 5, id: 'c', properties: [[METHOD, 'words']] })
  assert.deepEqual([other.connack.type, other.connack.code], [2, 0x8c])
  await other.raw.closed
  const dataAlone = await Speaker.connect(t, words, { version: 5, id: 'c', properties: [[DATA, 'sesame a']] })
  assert.equal(dataAlone.connack.code, 0x82)
  await dataAlone.raw.closed
})

test('as soon as a plugin has a method, a client that names none is judged as with any authenticator', async t => {
  const words = await start(t)
  for (const [version, code] of [
    [3, 4],
    [4, 4],
    [5, 0x86]
  ] as const) {
    assert.equal((await Speaker.connect(t, words, { version, id: 'plain' })).connack.code, code)
  }
  words.server.hooks.scope('passwords').on('client.authenticate', () => 'allow')
  for (const version of [3, 4, 5] as const) {
    const { connack } = await Speaker.connect(t, words, { version, id: `plain${version}` })
    assert.deepEqual([connack.code, property(connack, METHOD)], [0, undefined]) // [MQTT-4.12.0-6]
  }
  const refused = await enter(t, words, ['wrong'])
  assert.equal(refused.connack.code, 0x87, 'the password authenticator has no say')
})

test('a step that fails or answers nonsense refuses with 0x88, and the log says why; one too large for the client with 0x95', async t => {
  const words = await start(t)
  for (const word of ['throw', 'nonsense', 'big']) {
    const properties: Property[] = word === 'big' ? [[0x27, 100]] : []
    const { connack, raw } = await enter(t, words, [word], { properties })
    assert.deepEqual([connack.type, connack.code], [2, word === 'big' ? 0x95 : 0x88], word)
    await raw.closed
  }
  assert(words.log.some(line => line.includes('words failed in WORDS') && line.includes('its backend is away')))
  assert.equal(words.server.clients.clientCount, 0)
})

test('an exchange that takes longer than idle_timeout ends', async t => {
  const words = await start(t, { conf: 'mqtt.client.idle_timeout = 2s' })
  const hung = await Speaker.connect(t, words, withMethod('hello'))
  assert.equal((await hung.next()).type, 0)
  const deaf = await RawClient.connect(t, words)
  deaf.send(Speaker.connectBytes(withMethod('hang')))
  assert.equal((await deaf.read(1)).length, 0)
  await until('the end of both', () => words.heard.filter(each => each.startsWith('end')).length === 2)

  const speaker = await enter(t, words, ['sesame lamp'])
  speaker.send(auth(0x19, 'WORDS', 'hang'))
  await ends(speaker, 14, 0x87)
})

test('what may not come before CONNACK is refused there, and nobody else is harmed', async t => {
  const words = await start(t)
  const bystander = await enter(t, words, ['sesame other'], { id: 'other' })
  const p = new Speaker(bystander.raw, 5)
  const rows: [title: string, bytes: Buffer, code: number][] = [
    ['PINGREQ [MQTT-3.1.2-30]', pingreq, 0x82],
    ['PUBLISH [MQTT-3.1.2-30]', p.publication('a'), 0x82],
    ['SUBSCRIBE [MQTT-3.1.2-30]', p.subscription([['a', 0]]), 0x82],
    ['a second CONNECT [MQTT-3.1.0-2]', Speaker.connectBytes(withMethod('sesame lamp')), 0x82],
    ['another method [MQTT-4.12.0-5]', auth(0x18, 'words', 'sesame lamp'), 0x82],
    ['no method (3.15.2.2.2)', packet(0xf0, 0x18, propertyBytes([[DATA, 'sesame lamp']])), 0x82],
    ['no reason, which is 0x00 (3.15.2.1)', packet(0xf0), 0x82],
    ['0x00 [MQTT-4.12.0-3]', auth(0, 'WORDS', 'sesame lamp'), 0x82],
    ['0x19 [MQTT-4.12.1-1]', auth(0x19, 'WORDS', 'sesame lamp'), 0x82],
    ['a reason that there is not [MQTT-3.15.2-1]', auth(0x20, 'WORDS', 'sesame lamp'), 0x82],
    ['two methods (3.15.2.2.2)', auth(0x18, 'WORDS', 'sesame lamp', [METHOD, 'WORDS']), 0x82],
    ['bytes behind', packet(0xf0, 0x18, propertyBytes([[METHOD, 'WORDS']]), 0), 0x81]
  ]
  for (const [title, bytes, code] of rows) {
    const speaker = await Speaker.connect(t, words, withMethod('hello', { id: 'bad' }))
    assert.equal(speaker.connack.code, 0x18, title)
    speaker.send(bytes)
    await ends(speaker, 2, code, title)
  }
  // flags [MQTT-3.15.1-1]: the frame itself is wrong
  const flags = await Speaker.connect(t, words, withMethod('hello', { id: 'bad' }))
  flags.send(packet(0xf1, 0x18, propertyBytes([[METHOD, 'WORDS']])))
  assert.equal((await flags.next()).type, 0)
  // before CONNECT [MQTT-3.1.0-1]
  const early = await RawClient.connect(t, words)
  early.send(auth(0x18, 'WORDS', 'sesame lamp'))
  assert.equal((await early.read(1)).length, 0)
  // out of turn: the first answer is still awaited
  const hasty = new Speaker(await RawClient.connect(t, words), 5)
  hasty.send(Speaker.connectBytes(withMethod('hold', { id: 'bad' })), auth(0x18, 'WORDS', 'sesame lamp'))
  await ends(hasty, 2, 0x82)
  // DISCONNECT may come; a will of a client that was never in is nobody's
  const will = { topic: 'will' }
  assert.deepEqual(await bystander.subscribe([['will', 0]]), [0])
  const leaving = await Speaker.connect(t, words, withMethod('hello', { id: 'bad', will }))
  leaving.send(packet(0xe0, 4))
  assert.equal((await leaving.next()).type, 0)

  assert.deepEqual(await bystander.payloads(), [])
  assert.equal(words.server.clients.clientCount, 1)
  words.held.forEach(go => void go()) // the answer to who is gone
  await bystander.heard()
})

test('who the client is, is what its authenticator says, whatever CONNECT says', async t => {
  const words = await start(t, { acl })
  const users = () => words.server.clients.clients().map(({ clientId, username }) => [clientId, username])
  const claims = { username: 'root', password: 'x', protocolVersion: 5, properties: {} } as const
  const data = (text: string) => ({ authenticationMethod: 'WORDS', authenticationData: Buffer.from(text) })
  await client(t, words, { ...claims, clientId: 'a', properties: data('sesame lamp') })
  await client(t, words, { ...claims, clientId: 'b', properties: data('silent') })
  assert.deepEqual(users(), [
    ['a', 'lamp'],
    ['b', undefined]
  ])
  assert.deepEqual(words.heard.slice(0, 2), ['start a/root', 'sesame lamp'])
  const lamp = await enter(t, words, ['sesame lamp'], { id: 'l' })
  const root = await enter(t, words, ['sesame root'], { id: 'r' })
  assert.equal((await lamp.publish('secret/x', '', { qos: 1 })).code, 0x87)
  assert.equal((await root.publish('secret/x', '', { qos: 1 })).code, 0x10)
})

test('MQTT.js authenticates with a method', async t => {
  const words = await start(t)
  const c = mqtt.connect(`mqtt://127.0.0.1:${words.port}`, {
    protocolVersion: 5,
    clientId: 'js',
    reconnectPeriod: 0,
    properties: { authenticationMethod: 'WORDS', authenticationData: Buffer.from('hello') }
  })
  t.after(() => c.endAsync(true))
  c.handleAuth = (_packet, answer) => {
    const properties = { authenticationMethod: 'WORDS', authenticationData: Buffer.from('sesame lamp') }
    answer(undefined, { cmd: 'auth', reasonCode: 0x18, properties } as never)
  }
  await new Promise((resolve, reject) => {
    c.once('connect', resolve)
    c.once('error', reject)
  })
  assert.equal(words.server.clients.client('js').username, 'lamp')
})

test('sessions, wills and take-over are those of any client', async t => {
  const words = await start(t)
  const first = await enter(t, words, ['hello', 'sesame lamp'], { expiry: 100, will: { topic: 'w', payload: 'gone' } })
  assert.equal(first.connack.sessionPresent, false)
  await first.subscribe([
    ['t', 1],
    ['w', 1]
  ])
  await first.drop()
  await until('nobody', () => words.server.clients.clientCount === 0)
  const publisher = await enter(t, words, ['sesame p'], { id: 'p' })
  await publisher.publish('t', 'kept', { qos: 1 })

  const again = await enter(t, words, ['hello', 'sesame lamp'], { clean: false, expiry: 100 })
  assert.equal(again.connack.sessionPresent, true)
  assert.deepEqual([(await again.nextOf(3)).payload, (await again.nextOf(3)).payload].sort(), ['gone', 'kept'])

  // An exchange that is under way, or fails, disturbs nobody who has the client id.
  const thief = await Speaker.connect(t, words, withMethod('hello'))
  await again.publish('x', '', { qos: 1 })
  thief.send(auth(0x18, 'WORDS', 'wrong'))
  await ends(thief, 2, 0x87)
  await again.publish('x', '', { qos: 1 })

  const successor = await enter(t, words, ['hello', 'sesame lamp'], { clean: true })
  assert.equal(successor.connack.sessionPresent, false)
  assert.equal((await again.nextOf(14)).code, 0x8e)

  // Several at once come in one after the other, as with passwords: the last one stays.
  const many = await Promise.all([...Array(10)].map(() => enter(t, words, ['hello', 'sesame lamp'])))
  assert(many.every(({ connack }) => connack.code === 0))
  await until('one of them', async () => words.server.clients.connectionCount === 2)
  assert.equal(words.server.clients.clientCount, 2)
})

test('a client that is in authenticates anew, and until it has, its packets are judged as before', async t => {
  const words = await start(t, { acl })
  const speaker = await enter(t, words, ['sesame lamp'])
  await speaker.subscribe([['t/#', 0]])
  assert.equal((await speaker.publish('secret/x', '', { qos: 1 })).code, 0x87) // into the cache
  speaker.send(auth(0x19, 'WORDS', 'hello'))
  assert.deepEqual([(await speaker.nextOf(15)).code, words.heard.at(-2)], [0x18, 'start c/lamp again'])
  assert.equal((await speaker.publish('t/1', 'flows', { qos: 1 })).code, 0)
  assert.equal((await speaker.nextOf(3)).payload, 'flows')
  speaker.send(auth(0x18, 'WORDS', 'hold'))
  await until('the question', () => words.held.length === 1)
  assert.equal((await speaker.publish('t/2', 'flows on', { qos: 1 })).code, 0)
  assert.equal((await speaker.nextOf(3)).payload, 'flows on')
  assert.equal((await speaker.publish('secret/x', '', { qos: 1 })).code, 0x87)
  words.held[0]!()
  assert.equal((await speaker.nextOf(15)).code, 0x18)
  speaker.send(auth(0x18, 'WORDS', 'super'))
  const done = await speaker.nextOf(15)
  assert.deepEqual([done.code, done.properties], [0, [[METHOD, 'WORDS']]])
  assert.equal((await speaker.publish('secret/x', '', { qos: 1 })).code, 0x10, 'a superuser now')
  assert.deepEqual(words.server.clients.client('c').username, 'lamp')

  speaker.send(auth(0x19, 'WORDS', 'sesame lamp'))
  const answer = await speaker.nextOf(15)
  assert.deepEqual([answer.code, property(answer, DATA)], [0, 'hello lamp'])
  assert.equal((await speaker.publish('secret/x', '', { qos: 1 })).code, 0x87, 'and no longer')
})

test('a re-authentication that fails or is out of place ends the connection, and its will is sent', async t => {
  const words = await start(t)
  const watcher = await enter(t, words, ['sesame w'], { id: 'w' })
  await watcher.subscribe([['will', 0]])
  const rows: [title: string, sent: Buffer[], code: number][] = [
    ['refused [MQTT-4.12.1-2]', [auth(0x19, 'WORDS', 'wrong')], 0x87],
    ['failed', [auth(0x19, 'WORDS', 'throw')], 0x87],
    ['as another user', [auth(0x19, 'WORDS', 'sesame root')], 0x87],
    ['with another method [MQTT-4.12.1-1]', [auth(0x19, 'OTHER', 'sesame lamp')], 0x82],
    ['0x18 out of turn', [auth(0x18, 'WORDS', 'sesame lamp')], 0x82],
    ['0x00', [auth(0, 'WORDS', 'sesame lamp')], 0x82],
    ['within another', [auth(0x19, 'WORDS', 'hang'), auth(0x19, 'WORDS', 'sesame lamp')], 0x82],
    ['too hasty', [auth(0x19, 'WORDS', 'hang'), auth(0x18, 'WORDS', 'sesame lamp')], 0x82],
    ['no reason, which is 0x00', [packet(0xf0)], 0x82]
  ]
  for (const [title, sent, code] of rows) {
    const speaker = await enter(t, words, ['sesame lamp'], { will: { topic: 'will', payload: title } })
    speaker.send(...sent)
    await ends(speaker, 14, code, title)
    assert.equal((await watcher.nextOf(3)).payload, title)
  }
  assert(words.log.some(line => line.includes('re-authentication failed') && line.includes('as another user')))
})

test('a plugin that goes takes its exchanges with it; who is in stays', async t => {
  const words = await start(t)
  const inside = await enter(t, words, ['sesame in'], { id: 'in' })
  const anew = await enter(t, words, ['sesame anew'], { id: 'anew' })
  anew.send(auth(0x19, 'WORDS', 'hello'))
  await anew.nextOf(15)
  const asked = await Speaker.connect(t, words, withMethod('hello', { id: 'asked' }))
  const deciding = new Speaker(await RawClient.connect(t, words), 5)
  deciding.send(Speaker.connectBytes(withMethod('hold x', { id: 'deciding' })))
  await until('all under way', () => words.held.length === 1)
  words.server.hooks.release('words')
  await ends(asked, 2, 0x88)
  await ends(deciding, 2, 0x88)
  await ends(anew, 14, 0x87)
  words.held[0]!() // its answer comes too late
  assert.equal((await inside.publish('a', '', { qos: 1 })).type, 4)
  assert.equal(words.server.clients.clientCount, 1)
  assert.equal((await Speaker.connect(t, words, withMethod('sesame lamp'))).connack.code, 0x8c)
  inside.send(auth(0x19, 'WORDS', 'sesame in'))
  await ends(inside, 14, 0x87)
})

test('a client that goes in the middle of an exchange leaves nothing behind', async t => {
  const words = await start(t)
  for (const data of ['hello', 'hold x']) {
    const raw = await RawClient.connect(t, words)
    raw.send(Speaker.connectBytes(withMethod(data)))
    await until('its words', () => words.heard.includes(data))
    raw.socket.destroy()
    await until('its end', () => words.heard.at(-1) === 'end c/undefined')
    words.heard.splice(0)
  }
  words.held[0]!()
  await until('nobody', () => words.server.clients.connectionCount === 0)
  const speaker = await enter(t, words, ['sesame lamp'])
  speaker.send(disconnect)
  assert.equal((await speaker.next()).type, 0)
})

test('Hooks.authenticator() gives a method to one plugin only', async t => {
  const { server } = await start(t)
  assert.throws(
    () => server.hooks.scope('other').authenticator('WORDS', () => assert.fail()),
    /words has the method WORDS already/
  )
})

test('an empty client id is given with a method as without', async t => {
  const words = await start(t)
  const { connack } = await enter(t, words, ['hello', 'sesame lamp'], { id: '' })
  assert.match(String(property(connack, 0x12)), /^auto-/)
})
