// messages why: what it says of a message is what then happens to it.
import assert from 'node:assert/strict'
import test from 'node:test'
import { begin } from '../support/cli.js'
import { packet, publishPacket, type Running, Speaker, startServer, text } from '../support/server.js'

type Question = { clientId: string; topic: string; from?: string; qos?: string; size?: string }

async function why({ admin }: Running, question: Question) {
  const { would_get, findings, lost, last } = await admin.call('messages why', question)
  return { would_get, findings: findings.map(({ bearing, text }) => `${bearing} ${text}`), lost, last }
}

const subscribe = async (speaker: Speaker, filter: string, options = 0): Promise<number[]> => {
  speaker.send(packet(0x82, 0, 1, ...(speaker.version === 5 ? [0] : []), text(filter), options))
  return (await speaker.nextOf(9)).codes
}

test('nobody, and somebody who has not subscribed, is told as such, with the nearest filters', async t => {
  const running = await startServer(t)
  assert.deepEqual(await why(running, { clientId: 'lamp', topic: 'hall/lamp' }), {
    would_get: false,
    findings: ['no it is not connected, and has no session that would wait for it'],
    lost: null,
    last: []
  })
  const lamp = await Speaker.connect(t, running, { id: 'lamp' })
  const may = 'ok it may subscribe to the topic: mqtt.acl_nomatch = allow'
  assert.deepEqual((await why(running, { clientId: 'lamp', topic: 'hall/lamp' })).findings, [
    'no not subscribed; it has no subscription',
    may
  ])
  for (const filter of ['far/away', 'hall/door', 'hall/+/x', 'x/lamp', '+/door']) await subscribe(lamp, filter)
  assert.deepEqual((await why(running, { clientId: 'lamp', topic: 'hall/lamp' })).findings, [
    'no not subscribed; the nearest of its 5: hall/+/x, hall/door, x/lamp',
    may
  ])
})

test('what the ACL refused, of the subscriber or the publisher, is told with its rule', async t => {
  const running = await startServer(t, {
    acl: '{deny, {client, "lamp"}, subscribe, ["secret/#"]}.\n{deny, {client, "door"}, publish, ["hall/#"]}.\n'
  })
  const lamp = await Speaker.connect(t, running, { id: 'lamp', version: 5 })
  await Speaker.connect(t, running, { id: 'door' })
  assert.deepEqual(await subscribe(lamp, 'secret/+'), [0x87])
  const refused = await why(running, { clientId: 'lamp', topic: 'secret/x' })
  assert.match(refused.findings[1]!, /^no its SUBSCRIBE for secret\/\+ was refused at 20\S+Z: 0x87 NOT_AUTHORIZED$/)
  assert.equal(refused.findings[2], 'no it may not subscribe to the topic: etc/acl.conf:1')
  await subscribe(lamp, 'hall/#')
  const denied = await why(running, { clientId: 'lamp', topic: 'hall/x', from: 'door' })
  assert.deepEqual([denied.would_get, denied.findings[0]], [false, 'no door may not publish it: etc/acl.conf:2'])
  const unknown = await why(running, { clientId: 'lamp', topic: 'hall/x', from: 'nobody' })
  assert.deepEqual(
    [unknown.would_get, unknown.findings[0]],
    [null, '? nobody, who publishes it, is not connected: whether the ACL lets it is not known']
  )
})

test('its own message, with No Local, does not come back', async t => {
  const running = await startServer(t)
  const lamp = await Speaker.connect(t, running, { id: 'lamp', version: 5 })
  await subscribe(lamp, 'a', 4)
  const own = await why(running, { clientId: 'lamp', topic: 'a', from: 'lamp' })
  assert.equal(own.would_get, false)
  assert.match(own.findings.join('\n'), /^no it is its own message/m)
  assert.equal((await why(running, { clientId: 'lamp', topic: 'a' })).would_get, true)
})

test('one who is away misses QoS 0 and has QoS 1 wait, until its queue is full; what it missed is remembered', async t => {
  const running = await startServer(t, { conf: 'mqtt.mqueue.max_length = 2\nmqtt.mqueue.store_qos0 = false' })
  const pub = await Speaker.connect(t, running, { id: 'pub' })
  const lamp = await Speaker.connect(t, running, { id: 'lamp', clean: false })
  await subscribe(lamp, 'a/#', 1)
  lamp.send(packet(0xe0))
  await lamp.raw.closed
  const ask = (qos: string) => why(running, { clientId: 'lamp', topic: 'a/b', qos })
  const zero = await ask('0')
  assert.deepEqual(
    [zero.would_get, zero.findings],
    [false, ['ok subscribed to a/# with QoS 1', 'no it is away, and QoS 0 does not wait (mqtt.mqueue.store_qos0)']]
  )
  const one = await ask('1')
  assert.deepEqual(
    [one.would_get, one.findings[1]],
    [true, 'ok it would wait: it is away, and QoS 1 is kept; 0 of 2 messages wait']
  )
  pub.send(publishPacket('a/b', 'zero'))
  for (const id of [1, 2, 3]) {
    pub.send(publishPacket(`a/${id === 1 ? 'b' : 'c'}`, 'one', { qos: 1, id }))
    await pub.nextOf(4)
  }
  const full = await ask('1')
  assert.equal(full.would_get, null)
  assert.equal(full.findings[1], '? it is away, and QoS 1 is kept, and the queue is full: one has to go for it')
  assert.deepEqual(full.lost, { away: 1, slow: 0, queue_full: 1, expired: 0, too_large: 0 })
  assert.deepEqual(
    full.last.map(({ topic, qos, cause }) => [topic, qos, cause]),
    [
      ['a/b', 0, 'away'],
      ['a/b', 1, 'queue_full']
    ]
  )
})

test('of a group it names the member who is next, and that one gets it', async t => {
  const running = await startServer(t, { conf: 'mqtt.shared_subscription_strategy = round_robin' })
  const pub = await Speaker.connect(t, running, { id: 'pub' })
  const members: { id: string; member: Speaker }[] = []
  for (const id of ['one', 'two', 'three']) {
    const member = await Speaker.connect(t, running, { id })
    await subscribe(member, '$share/g/a')
    members.push({ id, member })
  }
  for (let i = 0; i < 4; i++) {
    const would: string[] = []
    for (const { id } of members) if ((await why(running, { clientId: id, topic: 'a' })).would_get) would.push(id)
    assert.equal(would.length, 1)
    pub.send(publishPacket('a', String(i)))
    const { member } = members.find(({ id }) => id === would[0])!
    assert.equal((await member.nextOf(3)).payload, String(i))
    const other = members.find(({ id }) => id !== would[0])!.id
    const said = (await why(running, { clientId: other, topic: 'a' })).findings[0]!
    assert.match(
      said,
      /^(no it goes elsewhere: one of 3 in the group g, of which (one|two|three) is the next|ok subscribed)/
    )
  }
})

test('a group that leaves it to chance is told as such', async t => {
  const running = await startServer(t, { conf: 'mqtt.shared_subscription_strategy = random' })
  for (const id of ['one', 'two']) await subscribe(await Speaker.connect(t, running, { id }), '$share/g/a')
  const { would_get, findings } = await why(running, { clientId: 'one', topic: 'a' })
  assert.equal(would_get, null)
  assert.equal(findings[0], '? one of 2 in the group g, of which each gets some ($share/g/a)')
})

test('what is too large for the client, and what its window or the limits of retained messages do', async t => {
  const running = await startServer(t, { conf: 'mqtt.session.max_inflight = 1\nmqtt.retain.max_payload_size = 10' })
  const pub = await Speaker.connect(t, running, { id: 'pub' })
  const lamp = await Speaker.connect(t, running, { id: 'lamp', version: 5, properties: [[0x27, 50]] })
  await subscribe(lamp, 'a', 1)
  const large = await why(running, { clientId: 'lamp', topic: 'a', size: '100' })
  assert.deepEqual(
    [large.would_get, large.findings.includes('no it has 106 bytes, and the client takes 50 (Maximum Packet Size)')],
    [false, true]
  )
  assert(large.findings.includes('ok one with RETAIN is delivered, and not kept: over mqtt.retain.max_payload_size'))
  pub.send(publishPacket('a', Buffer.alloc(100)))
  pub.send(publishPacket('a', 'x', { qos: 1 }))
  await lamp.nextOf(3)
  const window = await why(running, { clientId: 'lamp', topic: 'a', qos: '1' })
  assert.equal(window.lost?.too_large, 1)
  assert.match(window.findings[1]!, /^ok it would wait: 1 of 1 messages are under way and not acknowledged; 0 of \d+ /)
})

test('broker-ctl messages why prints the findings, the verdict and what was missed', async t => {
  const running = await startServer(t, { conf: 'mqtt.mqueue.store_qos0 = false' })
  const ctl = (...args: string[]) =>
    begin('broker-ctl', ['--home', running.home.root, 'messages', 'why', ...args]).ended
  const pub = await Speaker.connect(t, running, { id: 'door' })
  const lamp = await Speaker.connect(t, running, { id: 'lamp', clean: false })
  await subscribe(lamp, 'hall/+', 1)
  const now = await ctl('lamp', 'hall/door', '--from', 'door', '--qos', '1')
  assert.equal(
    now.out,
    `ok  door may publish it: mqtt.acl_nomatch = allow
ok  subscribed to hall/+ with QoS 1
ok  it is connected, and would get it with QoS 1 at once; 0 of 32 under way
lamp would get hall/door of QoS 1
`
  )
  lamp.send(packet(0xe0))
  await lamp.raw.closed
  pub.send(publishPacket('hall/door', 'open'), packet(0xc0))
  await pub.nextOf(13)
  const { out } = await ctl('lamp', 'hall/door')
  assert.equal(
    out.replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'TIME'),
    `ok  subscribed to hall/+ with QoS 1
no  it is away, and QoS 0 does not wait (mqtt.mqueue.store_qos0)
lamp would not get hall/door of QoS 0
its session has missed 1 (QoS 0 while it was away)
TIME missed hall/door of QoS 0: QoS 0 while it was away
`
  )
  const wrong = await ctl('lamp', 'hall/+')
  assert.deepEqual([wrong.code, wrong.err], [2, 'not a topic: "hall/+"\n'])
  const qos = await ctl('lamp', 'a', '--qos', '3')
  assert.deepEqual([qos.code, qos.err], [2, '--qos: expected an integer from 0 to 2, got "3"\n'])
})
