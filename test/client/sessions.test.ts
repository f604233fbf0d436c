// Sessions and delivery, which MQTT 3.1.1 and MQTT 5 have in common, so most of it is run in both.
import assert from 'node:assert/strict'
import { after, before, describe, type TestContext, test } from 'node:test'
import {
  type Got,
  packet,
  pingreq,
  RawClient,
  type Running,
  Speaker,
  type SpeakerOptions,
  startServer,
  text,
  until
} from '../support/server.js'

const acl = `
{deny, all, publish, ["denied/#"]}.
{deny, all, subscribe, ["$secret/#"]}.
{allow, all}.
`
const publishes = (packets: readonly Got[]): Got[] => packets.filter(({ type }) => type === 3)
const range = (from: number, to: number): string[] => Array.from({ length: to - from }, (_, i) => `${from + i}`)

describe('sessions', { concurrency: 3 }, () => {
  for (const version of [4, 5] as const) {
    describe(version === 4 ? 'MQTT 3.1.1' : 'MQTT 5', { concurrency: 12 }, () => {
      let server: Running
      let names = 0
      const undo: (() => Promise<void> | void)[] = []

      before(async () => {
        const t = { after: (f: () => void) => void undo.push(f) } as unknown as TestContext
        server = await startServer(t, { acl })
      })
      after(async () => {
        for (const each of undo.reverse()) await each()
      })

      const unique = (prefix: string): string => `${prefix}${++names}`
      const connect = (t: TestContext, options: SpeakerOptions = {}): Promise<Speaker> =>
        Speaker.connect(t, server, { version, id: unique('c'), ...options })
      /** Goes without a word, and the broker knows. */
      const drop = async (speaker: Speaker, id: string): Promise<void> => {
        await speaker.drop()
        await until('gone', () => !server.server.clients.clients().some(({ clientId }) => clientId === id))
      }

      // It takes two seconds, so it comes first.
      test('a client that is silent for one and a half times its keep alive is gone, and its will is published [MQTT-3.1.2-24], [MQTT-3.1.2-8]', async t => {
        const topic = unique('t')
        const to = await connect(t)
        await to.subscribe([[topic, 1]])
        const began = performance.now()
        const silent = await connect(t, { keepAlive: 1, will: { topic, payload: 'silent' } })
        assert.equal((await to.nextOf(3)).payload, 'silent')
        assert.ok(performance.now() - began >= 1490)
        await silent.raw.closed
      })

      // ── session state ────────────────────────────────────────────────────────

      test('session present tells of a session that was kept, with subscriptions or without [MQTT-3.2.2-2]; a clean one ends it [MQTT-3.1.2-6]', async t => {
        const id = unique('c')
        const present: boolean[] = []
        for (const clean of [false, false, true, false, false]) {
          const one = await connect(t, { id, clean })
          present.push(one.connack.sessionPresent)
          await one.leave()
        }
        assert.deepEqual(present, [false, true, false, false, true])
      })

      test('a kept session has its subscriptions, a clean one begins without [MQTT-3.1.2-4]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const from = await connect(t)
        const one = await connect(t, { id, clean: false })
        await one.subscribe([[topic, 0]])
        await one.leave()
        const back = await connect(t, { id, clean: false })
        await from.publish(topic, 'kept')
        assert.deepEqual(await back.payloads(), ['kept'])
        await back.leave()
        const clean = await connect(t, { id, clean: true })
        await from.publish(topic, 'lost')
        assert.deepEqual(await clean.payloads(), [])
      })

      test('messages for a client that is away wait, with the granted QoS and in order [MQTT-3.1.2-5], [MQTT-4.6.0-2]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const from = await connect(t)
        const one = await connect(t, { id, clean: false })
        await one.subscribe([
          [`${topic}/1`, 1],
          [`${topic}/+/2`, 2],
          [`${topic}/w/#`, 1]
        ])
        await one.leave()
        const sent: [string, number, number][] = [
          ['/1', 2, 1],
          ['/a/2', 1, 1],
          ['/w/a', 2, 1],
          ['/b/2', 2, 2],
          ['/1', 1, 1],
          ['//2', 2, 2]
        ]
        for (const [i, [end, qos]] of sent.entries()) await from.publish(topic + end, `${i}`, { qos })
        const back = await connect(t, { id, clean: false })
        const got = publishes(await back.heard())
        assert.deepEqual(
          got.map(({ payload, qos, dup }) => [payload, qos, dup]),
          sent.map(([, , qos], i) => [`${i}`, qos, false])
        )
      })

      test('unacknowledged messages come again, with DUP, the same packet ids and in order [MQTT-4.4.0-1], [MQTT-4.6.0-1]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const from = await connect(t)
        const one = await connect(t, { id, clean: false })
        await one.subscribe([[topic, 2]])
        for (let i = 0; i < 5; i++) await from.publish(topic, `${i}`, { qos: i === 3 ? 2 : 1 })
        const first = publishes(await one.heard())
        assert.deepEqual(
          first.map(({ dup }) => dup),
          Array(5).fill(false)
        )
        one.send(one.ack(4, first[1]!.id))
        await one.heard()
        await drop(one, id)
        for (let round = 0; round < 2; round++) {
          const back = await connect(t, { id, clean: false })
          const again = publishes(await back.heard())
          const expected = first.filter((_, i) => i !== 1)
          assert.deepEqual(
            again.map(({ payload, id, dup, qos }) => [payload, id, dup, qos]),
            expected.map(({ payload, id, qos }) => [payload, id, true, qos])
          )
          await drop(back, id)
        }
      })

      test('QoS 2 to a client is delivered once over reconnects: PUBLISH until PUBREC, then PUBREL until PUBCOMP [MQTT-4.3.3-1] to [MQTT-4.3.3-7]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const from = await connect(t)
        let one = await connect(t, { id, clean: false })
        const again = async (): Promise<Got[]> => {
          await drop(one, id)
          one = await connect(t, { id, clean: false })
          return await one.heard()
        }
        await one.subscribe([[topic, 2]])
        await from.publish(topic, 'x', { qos: 2 })
        const first = await one.nextOf(3)
        assert.deepEqual(
          (await again()).map(({ type, id, dup }) => [type, id, dup]),
          [[3, first.id, true]]
        )
        one.send(one.ack(5, first.id))
        assert.deepEqual(
          (await one.heard()).map(({ type, id }) => [type, id]),
          [[6, first.id]]
        )
        assert.deepEqual(
          (await again()).map(({ type, id }) => [type, id]),
          [[6, first.id]]
        )
        one.send(one.ack(7, first.id))
        await one.heard()
        assert.deepEqual(await again(), [])
      })

      test('QoS 2 from a client is routed once over reconnects [MQTT-4.3.3-10]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const to = await connect(t)
        await to.subscribe([[topic, 0]])
        let one = await connect(t, { id, clean: false })
        one.send(one.publication(topic, 'once', { qos: 2, id: 7 }))
        await one.nextOf(5)
        await drop(one, id)
        one = await connect(t, { id, clean: false })
        one.send(one.publication(topic, 'once', { qos: 2, id: 7, dup: true }))
        assert.deepEqual([(await one.nextOf(5)).id], [7])
        one.send(one.ack(6, 7))
        await one.nextOf(7)
        assert.deepEqual(await to.payloads(), ['once'])
        one.send(one.publication(topic, 'anew', { qos: 2, id: 7 })) // the identifier is free again
        await one.nextOf(5)
        assert.deepEqual(await to.payloads(), ['anew'])
      })

      test('QoS 2 and its duplicate in one segment are routed once [MQTT-4.3.3-10]', async t => {
        const topic = unique('t')
        const [to, from] = [await connect(t), await connect(t)]
        await to.subscribe([[topic, 0]])
        from.send(
          from.publication(topic, 'x', { qos: 2, id: 1 }),
          from.publication(topic, 'x', { qos: 2, id: 1, dup: true }),
          from.ack(6, 1),
          from.publication(topic, 'y', { qos: 2, id: 1 })
        )
        assert.deepEqual(
          (await from.heard()).map(({ type }) => type),
          [5, 5, 7, 5]
        )
        assert.deepEqual(await to.payloads(), ['x', 'y'])
      })

      test('PUBREL that nobody waits for is answered all the same [MQTT-4.3.3-11]', async t => {
        const one = await connect(t)
        one.send(one.ack(6, 99))
        assert.deepEqual(
          (await one.heard()).map(({ type, id }) => [type, id]),
          [[7, 99]]
        )
      })

      test('a clean session forgets which QoS 2 messages came in [MQTT-3.1.2-6]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const to = await connect(t)
        await to.subscribe([[topic, 0]])
        for (const clean of [false, true]) {
          const one = await connect(t, { id, clean })
          one.send(one.publication(topic, `${clean}`, { qos: 2, id: 1 }))
          await one.nextOf(5)
          await drop(one, id)
        }
        assert.deepEqual(await to.payloads(), ['false', 'true'])
      })

      test('what is published while the queue is sent comes behind it: everything once and in order [MQTT-4.6.0-6]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const from = await connect(t)
        const one = await connect(t, { id, clean: false })
        await one.subscribe([[topic, 1]])
        await one.leave()
        const send = (i: number) => from.send(from.publication(topic, `${i}`, { qos: 1, id: (i % 1000) + 1 }))
        for (let i = 0; i < 400; i++) send(i)
        await from.heard()
        const back = await connect(t, { id, clean: false })
        const got: string[] = []
        for (let i = 400; got.length < 800; ) {
          const next = await back.nextOf(3)
          got.push(next.payload)
          back.send(back.ack(4, next.id))
          if (i < 800) send(i++)
        }
        assert.deepEqual(got, range(0, 800))
        assert.deepEqual(await back.payloads(), [])
      })

      test('mqtt.session.max_inflight: no more are under way at a time', async t => {
        const topic = unique('t')
        const [one, from] = [await connect(t), await connect(t)]
        await one.subscribe([[topic, 1]])
        for (let i = 0; i < 40; i++) from.send(from.publication(topic, `${i}`, { qos: 1, id: i + 1 }))
        await from.heard()
        const first = publishes(await one.heard())
        assert.equal(first.length, 32)
        one.send(one.ack(4, first[0]!.id), one.ack(4, first[1]!.id))
        assert.deepEqual(await one.payloads(), ['32', '33'])
      })

      // ── retained ─────────────────────────────────────────────────────────────

      test('retained QoS 1 to a kept session: what was not acknowledged or sent comes again, with the retain flag [MQTT-4.4.0-1]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const from = await connect(t)
        for (let i = 0; i < 40; i++) await from.publish(`${topic}/${i}`, `${i}`, { qos: 1, retain: true })
        const one = await connect(t, { id, clean: false })
        await one.subscribe([[`${topic}/+`, 1]])
        const first = publishes(await one.heard())
        assert.equal(first.length, 32) // the window
        await drop(one, id)
        const back = await connect(t, { id, clean: false })
        const again: Got[] = []
        while (again.length < 40) {
          const got = await back.nextOf(3)
          again.push(got)
          back.send(back.ack(4, got.id))
        }
        assert.ok(again.every(({ retain }) => retain))
        assert.deepEqual(
          again.slice(0, 32).map(({ id, dup, payload }) => [id, dup, payload]),
          first.map(({ id, payload }) => [id, true, payload])
        )
        assert.deepEqual(
          again.map(({ payload }) => Number(payload)).sort((a, b) => a - b),
          range(0, 40).map(Number)
        )
        assert.deepEqual(await back.payloads(), [])
      })

      test('the retain flag is set on what was retained before, and cleared on live and queued copies [MQTT-3.3.1-8], [MQTT-3.3.1-9]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const from = await connect(t)
        const one = await connect(t, { id, clean: false })
        await from.publish(topic, 'before', { retain: true, qos: 1 })
        await one.subscribe([[topic, 1]])
        await from.publish(topic, 'live', { retain: true, qos: 1 })
        await from.publish(topic, 'live 0', { retain: true })
        const got = publishes(await one.heard())
        assert.deepEqual(
          got.map(({ payload, retain }) => [payload, retain]),
          [
            ['before', true],
            ['live', false],
            ['live 0', false]
          ]
        )
        one.send(...got.filter(({ qos }) => qos === 1).map(({ id }) => one.ack(4, id)))
        await one.leave()
        await from.publish(topic, 'queued', { retain: true, qos: 1 })
        const back = await connect(t, { id, clean: false })
        assert.deepEqual(
          publishes(await back.heard()).map(({ payload, retain }) => [payload, retain]),
          [['queued', false]]
        )
      })

      test('a retained message comes at the lower QoS, is replaced, and goes with an empty one, which is delivered [MQTT-3.3.1-5] to [MQTT-3.3.1-7], [MQTT-3.3.1-10]', async t => {
        const topic = unique('t')
        const [from, live] = [await connect(t), await connect(t)]
        await live.subscribe([[topic, 0]])
        const retained = async (filter: string, qos: number) => {
          const one = await connect(t)
          await one.subscribe([[filter, qos]])
          return publishes(await one.heard()).map(({ payload, qos }) => [payload, qos])
        }
        await from.publish(topic, 'a', { retain: true, qos: 2 })
        assert.deepEqual(await retained(topic, 0), [['a', 0]])
        assert.deepEqual(await retained(`${topic}/#`, 1), [['a', 1]])
        assert.deepEqual(await retained(`${topic}/#`, 0), [['a', 0]])
        await from.publish(topic, 'b', { retain: true, qos: 0 })
        await from.publish(topic, 'not retained', { qos: 1 })
        assert.deepEqual(await retained(topic, 2), [['b', 0]])
        await from.publish(topic, '', { retain: true })
        assert.deepEqual(await retained(topic, 2), [])
        assert.deepEqual(await live.payloads(), ['a', 'b', 'not retained', ''])
      })

      // ── filters ──────────────────────────────────────────────────────────────

      test('overlapping subscriptions: once, at the highest QoS [MQTT-3.3.5-1]', async t => {
        const topic = unique('t')
        const [one, from] = [await connect(t), await connect(t)]
        await one.subscribe([
          [`${topic}/#`, 0],
          [`${topic}/a`, 2],
          [`${topic}/+`, 1]
        ])
        await from.publish(`${topic}/a`, 'a', { qos: 2 })
        await from.publish(`${topic}/b`, 'b', { qos: 2 })
        await from.publish(`${topic}/b/c`, 'c', { qos: 2 })
        assert.deepEqual(
          (await one.heard()).map(({ payload, qos }) => [payload, qos]),
          [
            ['a', 2],
            ['b', 1],
            ['c', 0]
          ]
        )
      })

      test('SUBACK has a code for each filter, in order, duplicates too; the last of them counts [MQTT-3.8.4-3], [MQTT-3.8.4-5]', async t => {
        const topic = unique('t')
        const one = await connect(t)
        const refused = version === 4 ? 0x80 : 0x87
        assert.deepEqual(
          await one.subscribe([
            [topic, 2],
            ['$secret/a', 1],
            [topic, 0],
            [topic, 1]
          ]),
          [2, refused, 0, 1]
        )
        await one.publish(topic, '', { qos: 2 })
        assert.deepEqual(
          (await one.heard()).map(({ qos }) => qos),
          [1]
        )
      })

      test('SUBSCRIBE then PUBLISH in one segment: it is delivered; UNSUBSCRIBE then PUBLISH: it is not [MQTT-3.8.4-1], [MQTT-3.10.4-2]', async t => {
        const topic = unique('t')
        const one = await connect(t)
        one.send(
          one.subscription([[topic, 0]]),
          one.publication(topic, 'in'),
          one.unsubscription([topic]),
          one.publication(topic, 'out'),
          one.subscription([[topic, 1]], 2),
          one.publication(topic, 'again', { qos: 1 })
        )
        assert.deepEqual(
          (await one.heard()).map(({ type, payload }) => (type === 3 ? payload : type)),
          [9, 'in', 11, 9, 'again', 4]
        )
      })

      test('CONNECT, SUBSCRIBE, PUBLISH and DISCONNECT in one segment: all count, what comes behind does not [MQTT-3.14.4-2]', async t => {
        const topic = unique('t')
        const to = await connect(t)
        await to.subscribe([[topic, 0]])
        const one = new Speaker(await RawClient.connect(t, server), version)
        one.send(
          Speaker.connectBytes({ version, id: unique('c') }),
          one.subscription([[topic, 0]]),
          one.publication(topic, 'x'),
          packet(0xe0),
          one.publication(topic, 'behind DISCONNECT')
        )
        const types: number[] = []
        for (let got = await one.next(); got.type !== 0; got = await one.next()) types.push(got.type)
        assert.deepEqual(types, [2, 9, 3])
        assert.deepEqual(await to.payloads(), ['x'])
      })

      test('a client need not wait for CONNACK, however much it has to say [MQTT-3.1.4-5], [MQTT-4.6.0-2]', async t => {
        const topic = unique('t')
        const to = await connect(t)
        await to.subscribe([[topic, 0]])
        const one = new Speaker(await RawClient.connect(t, server), version)
        const all = range(0, 500)
        one.send(
          Speaker.connectBytes({ version, id: unique('c') }),
          ...all.map(i => one.publication(topic, i, { qos: Number(i) % 2, id: Number(i) + 1 }))
        )
        assert.equal((await one.heard()).length, 1 + 250)
        assert.deepEqual(await to.payloads(), all)
      })

      test('topics that begin with $ are not matched by a wildcard at the first level: live, retained, queued [MQTT-4.7.2-1]', async t => {
        const [id, topic] = [unique('c'), `$other/${unique('t')}`]
        const from = await connect(t)
        await from.publish(topic, 'retained', { retain: true, qos: 1 })
        const filters = [
          ['#', 1],
          ['+/#', 1],
          [topic.replace('$other', '+'), 1]
        ] as const
        const one = await connect(t, { id, clean: false })
        assert.deepEqual(
          await one.subscribe(filters),
          filters.map(([, qos]) => qos)
        )
        const own = (got: readonly Got[]) => got.filter(each => each.topic === topic).map(({ payload }) => payload)
        assert.deepEqual(own(await one.heard()), [])
        await from.publish(topic, 'live', { qos: 1 })
        assert.deepEqual(own(await one.heard()), [])
        await one.leave()
        await from.publish(topic, 'queued', { qos: 1 })
        const back = await connect(t, { id, clean: false })
        assert.deepEqual(own(await back.heard()), [])
        const other = await connect(t)
        await other.subscribe([['$other/#', 1]])
        assert.deepEqual(own(await other.heard()), ['retained'])
        await from.publish(topic, '', { retain: true })
      })

      test('empty levels are levels: live, retained, queued [MQTT-4.7.3-4]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const from = await connect(t)
        const topics = [`${topic}//b`, `${topic}/`, `/${topic}`, `/${topic}/`]
        const filters = [
          [`${topic}/+/b`, 1],
          [`${topic}/+`, 1],
          [`+/${topic}`, 1],
          [`/${topic}/+`, 1]
        ] as const
        for (const each of topics) await from.publish(each, each, { retain: true, qos: 1 })
        const one = await connect(t, { id, clean: false })
        assert.deepEqual(
          await one.subscribe(filters),
          filters.map(([, qos]) => qos)
        )
        const all = [...topics].sort()
        const take = async (speaker: Speaker): Promise<string[]> => {
          const got = publishes(await speaker.heard())
          speaker.send(...got.map(({ id }) => speaker.ack(4, id)))
          return got.map(({ payload }) => payload).sort()
        }
        assert.deepEqual(await take(one), all)
        for (const each of topics) await from.publish(each, each, { qos: 1 })
        assert.deepEqual(await take(one), all)
        await one.leave()
        for (const each of topics) await from.publish(each, each, { qos: 1 })
        assert.deepEqual(await take(await connect(t, { id, clean: false })), all)
      })

      test('shared subscriptions: each message once per group, $queue/ is one, $local/ has no effect (MQTT 5, section 4.8.2)', async t => {
        const topic = unique('t')
        const from = await connect(t)
        const members: Record<string, Speaker[]> = {}
        const groups = [`$share/g/${topic}`, `$share/h/${topic}`, `$queue/${topic}`, `$local/$share/i/${topic}`]
        for (const filter of groups) {
          members[filter] = await Promise.all([connect(t), connect(t)])
          for (const member of members[filter]) assert.deepEqual(await member.subscribe([[filter, 1]]), [1])
        }
        const [plain, local] = [await connect(t), await connect(t)]
        await plain.subscribe([[topic, 1]])
        await local.subscribe([[`$local/${topic}`, 1]])
        for (let i = 0; i < 20; i++) await from.publish(topic, `${i}`, { qos: 1 })
        const numbers = (got: string[]): number[] => got.map(Number).sort((a, b) => a - b)
        for (const filter of groups) {
          const got = await Promise.all(members[filter]!.map(member => member.payloads()))
          assert.deepEqual(numbers(got.flat()), range(0, 20).map(Number), filter)
        }
        assert.deepEqual(await plain.payloads(), range(0, 20))
        assert.deepEqual(await local.payloads(), range(0, 20))
      })

      test('a shared subscription goes on with the members that are left; what one had not taken goes to another when its session ends (MQTT 5, section 4.8.2)', async t => {
        const topic = unique('t')
        const filter = `$share/g/${topic}`
        const id = unique('c')
        const from = await connect(t)
        const leaving = await connect(t, { id })
        await leaving.subscribe([[filter, 1]])
        for (let i = 0; i < 5; i++) await from.publish(topic, `${i}`, { qos: 1 })
        assert.deepEqual(await leaving.payloads(), range(0, 5)) // and acknowledges none
        const staying = await connect(t)
        await staying.subscribe([[filter, 1]])
        await drop(leaving, id)
        await from.publish(topic, '5', { qos: 1 })
        assert.deepEqual((await staying.payloads()).sort(), range(0, 6))
      })

      // ── wills ────────────────────────────────────────────────────────────────

      test('the will is published when the client goes without DISCONNECT: dropped, taken over, malformed [MQTT-3.1.2-8]', async t => {
        const topic = unique('t')
        const to = await connect(t)
        await to.subscribe([[topic, 1]])
        const will = (payload: string) => ({ topic, payload, qos: 1, retain: false })
        await (await connect(t, { will: will('dropped') })).drop()
        assert.equal((await to.nextOf(3)).payload, 'dropped')
        const id = unique('c')
        const first = await connect(t, { id, will: will('taken over') })
        const second = await connect(t, { id, will: will('not this one') })
        assert.equal((await to.nextOf(3)).payload, 'taken over')
        await first.raw.closed
        await second.leave()
        const wrong = await connect(t, { will: will('malformed') })
        wrong.send(packet(0x00))
        assert.equal((await to.nextOf(3)).payload, 'malformed')
        assert.deepEqual(await to.payloads(), [])
      })

      test('DISCONNECT keeps the will back, even when the socket ends with it [MQTT-3.14.4-3]', async t => {
        const [id, topic] = [unique('c'), unique('t')]
        const to = await connect(t)
        await to.subscribe([[topic, 1]])
        const one = await connect(t, { id, will: { topic } })
        one.raw.socket.end(packet(0xe0))
        await until('gone', () => !server.server.clients.clients().some(({ clientId }) => clientId === id))
        assert.deepEqual(await to.payloads(), [])
      })

      test('a will with retain is retained; one that the ACL denies, or to $SYS, is not published [MQTT-3.1.2-17]', async t => {
        const topic = unique('t')
        const to = await connect(t)
        await to.subscribe([
          ['denied/#', 1],
          ['$SYS/mine', 1],
          [`${topic}/live`, 1]
        ])
        for (const to of ['denied/w', '$SYS/mine', topic]) {
          const id = unique('c')
          await drop(await connect(t, { id, will: { topic: to, payload: 'w', retain: true } }), id)
        }
        await (await connect(t, { will: { topic: `${topic}/live`, payload: 'last' } })).drop()
        await to.nextOf(3)
        assert.deepEqual(await to.payloads(), [])
        await to.subscribe([[topic, 1]])
        assert.deepEqual(
          publishes(await to.heard()).map(({ payload, retain }) => [payload, retain]),
          [['w', true]]
        )
      })

      test('a publish that the ACL denies is acknowledged and goes nowhere [MQTT-3.3.5-2]', async t => {
        const one = await connect(t)
        await one.subscribe([
          ['denied/#', 1],
          ['$SYS/a', 1]
        ])
        for (const qos of [0, 1, 2]) await one.publish('denied/a', 'x', { qos, retain: true })
        await one.publish('$SYS/a', 'x', { qos: 1 })
        assert.deepEqual(await one.payloads(), [])
        await one.subscribe([['denied/a', 1]])
        assert.deepEqual(await one.payloads(), [])
      })

      test('five CONNECTs racing with one client id leave exactly one connection [MQTT-3.1.4-2]', async t => {
        const id = unique('c')
        const racers = await Promise.all(range(0, 5).map(() => connect(t, { id, clean: false })))
        const alive = await Promise.all(
          racers.map(async r => {
            r.send(pingreq)
            return (await r.next()).type === 13
          })
        )
        assert.equal(alive.filter(Boolean).length, 1)
        assert.equal(server.server.clients.clients().filter(({ clientId }) => clientId === id).length, 1)
      })
    })
  }

  describe('MQTT 3 alone', { concurrency: 4 }, () => {
    test('mqtt.session.expiry_interval ends a session that its client left alone that long, not before', async t => {
      const server = await startServer(t, { conf: 'mqtt.session.expiry_interval = 1s' })
      const connect = () => Speaker.connect(t, server, { id: 'c', clean: false })
      const from = await Speaker.connect(t, server, { id: 'from' })
      const one = await connect()
      await one.subscribe([['t', 1]])
      const began = performance.now()
      await one.leave()
      await from.publish('t', 'lost', { qos: 1 })
      await until('the session has expired', () => server.server.clients.sessions.size === 1)
      assert.ok(performance.now() - began >= 990)
      const anew = await connect()
      assert.equal(anew.connack.sessionPresent, false)
      await from.publish('t', 'nobody', { qos: 1 })
      assert.deepEqual(await anew.payloads(), [])
    })

    test('MQTT 3.1 is spoken: no session present flag, sessions all the same', async t => {
      const server = await startServer(t)
      const one = await Speaker.connect(t, server, { version: 3, id: 'c', clean: false })
      await one.subscribe([['t', 1]])
      await one.leave()
      const from = await Speaker.connect(t, server, { version: 3, id: 'from' })
      await from.publish('t', 'x', { qos: 1 })
      const back = await Speaker.connect(t, server, { version: 3, id: 'c', clean: false })
      assert.deepEqual([back.connack.code, back.connack.sessionPresent], [0, false])
      assert.deepEqual(await back.payloads(), ['x'])
    })

    test('an empty client id is for clean sessions of 3.1.1, else CONNACK 2 [MQTT-3.1.3-7], [MQTT-3.1.3-8]; any keep alive is accepted', async t => {
      const server = await startServer(t)
      const codes: number[] = []
      for (const options of [
        { version: 4, clean: true },
        { version: 4, clean: false },
        { version: 3, clean: true },
        { version: 4, id: 'c', keepAlive: 65_535 },
        { version: 4, id: 'x'.repeat(1025) }
      ] as const) {
        codes.push((await Speaker.connect(t, server, options)).connack.code)
      }
      assert.deepEqual(codes, [0, 2, 2, 0, 2])
    })

    test('a malformed or forbidden packet closes the connection without a word, and nothing of it goes on [MQTT-4.8.0-1]', async t => {
      const server = await startServer(t)
      const bystander = await Speaker.connect(t, server, { id: 'bystander' })
      await bystander.subscribe([['bad/#', 0]])
      const p = bystander
      const rows: [string, Buffer][] = [
        ['PUBLISH to a wildcard [MQTT-3.3.2-2]', p.publication('bad/#')],
        ['PUBLISH to nothing [MQTT-4.7.3-1]', p.publication('')],
        ['PUBLISH with NUL [MQTT-1.5.3-2]', p.publication('bad/\0')],
        ['PUBLISH with a surrogate [MQTT-1.5.3-1]', packet(0x30, 0, 7, Buffer.from('bad/'), 0xed, 0xa0, 0x80)],
        ['PUBLISH with packet identifier 0 [MQTT-2.3.1-1]', p.publication('bad/a', '', { qos: 1, id: 0 })],
        ['PUBLISH with QoS 3 [MQTT-3.3.1-4]', packet(0x36, text('bad/a'), 0, 1)],
        ['second CONNECT [MQTT-3.1.0-2]', Speaker.connectBytes({ id: 'again' })],
        ['AUTH, which MQTT 3 has not', packet(0xf0)],
        ...['a#', 'a+', '+a', 'a/+b', 'a/#/b', ''].map((filter): [string, Buffer] => [
          `SUBSCRIBE to "${filter}" [MQTT-4.7.1-2], [MQTT-4.7.1-3]`,
          p.subscription([[filter, 0]])
        ]),
        ['SUBSCRIBE without a filter [MQTT-3.8.3-3]', p.subscription([])],
        ['SUBSCRIBE with QoS 3 [MQTT-3-8.3-4]', p.subscription([['a', 3]])],
        ['SUBSCRIBE with options of MQTT 5 [MQTT-3-8.3-4]', p.subscription([['a', 4]])],
        ['UNSUBSCRIBE without a filter [MQTT-3.10.3-2]', p.unsubscription([])],
        ['DISCONNECT with a body [MQTT-3.14.1-1]', packet(0xe0, 0)]
      ]
      for (const [title, bytes] of rows) {
        const culprit = await Speaker.connect(t, server, { id: 'culprit' })
        culprit.send(bytes, p.publication('bad/after', title))
        assert.equal((await culprit.next()).type, 0, title)
      }
      for (const topic of ['', 'a/#', 'a/+']) {
        const one = await Speaker.connect(t, server, { id: 'w', will: { topic } })
        assert.equal(one.connack.type, 0, `will to "${topic}"`)
      }
      assert.deepEqual(await bystander.heard(), [])
    })
  })
})
