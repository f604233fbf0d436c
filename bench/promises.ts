/**
 * What is promised about time, measured: `npm run bench:promises`. Tests assert what needs no clock; here each promise
 * is held to its bound, on a machine that does nothing else. It exits with 1 when one is not kept.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { nearest } from '../src/base/suggest.js'
import { begin, instance, packageRoot, signal } from '../test/support/cli.js'
import { makeHome, RawClient, Speaker, startServer, until } from '../test/support/server.js'

/** What it needs is undone when it is over. */
type Measure = (t: TestContext) => Promise<number> | number
type Promised = readonly [promise: string, boundMs: number, measure: Measure]

async function took(work: () => unknown): Promise<number> {
  const began = performance.now()
  await work()
  return performance.now() - began
}

const median = (all: number[]): number => all.sort((a, b) => a - b)[all.length >> 1]!

/** Of processor time: that of the clock tells of the machine. */
function cost(args: readonly string[]): number {
  const meter = `process.on('exit', () => {
    const { user, system } = process.cpuUsage()
    console.error('cost', (user + system) / 1000)
  })`
  const metered = ['--import', `data:text/javascript,${encodeURIComponent(meter)}`, ...args]
  const { stderr } = spawnSync(process.execPath, metered, { encoding: 'utf8' })
  return Number(/cost (\S+)/.exec(stderr)![1])
}

/** A port where somebody listens and never says a word. */
async function silentPort(t: TestContext): Promise<number> {
  const sockets = new Set<Socket>()
  const server = createServer(socket => void sockets.add(socket.on('error', () => {}).resume()))
  await new Promise<void>(resolve => void server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

const few = 'listener.tcp.test = 127.0.0.1:0\nlistener.tcp.test.max_clients = 100\n'
const pgsql = (port: number): Record<string, string> => ({
  'auth-pgsql': `auth.pgsql.server = 127.0.0.1:${port}\nauth.pgsql.auth_query = select 1\n`
})

async function doctor(t: TestContext, port?: number): Promise<number> {
  const home = makeHome(t, { conf: few, plugins: port === undefined ? {} : pgsql(port) })
  mkdirSync(home.data)
  if (port !== undefined) writeFileSync(join(home.data, 'loaded_plugins'), 'auth_pgsql.\n')
  return await took(() => begin('broker', ['--home', home.root, 'doctor']).ended)
}

const promises: readonly Promised[] = [
  [
    'broker-ctl --help, beyond node alone (processor time)',
    110,
    () => {
      const rounds = [1, 2, 3, 4, 5]
      const bare = median(rounds.map(() => cost(['-e', '0'])))
      return median(rounds.map(() => cost([join(packageRoot, 'bin/broker-ctl'), '--help']))) - bare
    }
  ],
  [
    'a shell that completes a client, without a broker',
    2000,
    async t => {
      const { root } = makeHome(t)
      return await took(() => begin('broker-ctl', ['--home', root, '__complete', 'clients', 'x']).ended)
    }
  ],
  ['broker doctor', 3000, async t => await doctor(t)],
  ['broker doctor, a database that never answers', 3000, async t => await doctor(t, await silentPort(t))],
  [
    'broker start, until it says that it runs',
    10_000,
    async t => {
      const i = instance(t)
      const ms = await took(() => i.broker('start'))
      await i.broker('stop')
      return ms
    }
  ],
  [
    'broker stop -t 0.5, a broker that hangs',
    10_000,
    async t => {
      const i = instance(t)
      await i.broker('start')
      signal(Number((await i.broker('pid')).out), 'SIGSTOP')
      return await took(() => i.broker('stop', '-t', '0.5'))
    }
  ],
  [
    'nearest() for words of 2000 letters',
    2000,
    async () => await took(() => nearest('x'.repeat(2000), ['y'.repeat(2000), 'z'.repeat(1900)]))
  ],
  [
    'idle_timeout of 400 ms, until the connection is closed',
    2500,
    async t => {
      const running = await startServer(t, { conf: 'mqtt.client.idle_timeout = 400ms' })
      return await took(async () => await (await RawClient.connect(t, running)).closed)
    }
  ],
  [
    'keep alive of 1 s, until a silent client is out',
    3000,
    async t => {
      const running = await startServer(t)
      return await took(async () => await (await Speaker.connect(t, running, { keepAlive: 1 })).raw.closed)
    }
  ],
  [
    'a stop that drains for 300 ms, with a subscriber that does not read',
    2500,
    async t => {
      const running = await startServer(t)
      const [stuck, from] = [await Speaker.connect(t, running, { id: 'stuck' }), await Speaker.connect(t, running)]
      await stuck.subscribe([['t', 0]])
      stuck.raw.socket.pause()
      for (let i = 0; i < 40; i++) await from.publish('t', Buffer.alloc(500_000))
      return await took(() => running.server.stop('drain', 300))
    }
  ],
  [
    'a message while 30 000 sessions are listed (median)',
    20,
    async t => {
      const running = await startServer(t)
      const { sessions } = running.server.clients
      for (let i = 0; i < 30_000; i++) sessions.open(`client-${i}`, false, 3600, undefined)
      const [to, from] = [await Speaker.connect(t, running, { id: 'to' }), await Speaker.connect(t, running)]
      await to.subscribe([['t', 0]])
      let over = false
      const listed = begin('broker-ctl', ['--home', running.home.root, 'sessions', 'list']).ended.then(() => {
        over = true
      })
      const all: number[] = []
      for (; !over; await sleep(1))
        all.push(
          await took(async () => {
            from.send(from.publication('t', 'x'))
            await to.nextOf(3)
          })
        )
      await listed
      return median(all)
    }
  ],
  [
    'a publisher beside one who is slowed down by max_publish_rate',
    200,
    async t => {
      const running = await startServer(t, { conf: 'mqtt.client.max_publish_rate = 10,50' })
      const [fast, other] = [await Speaker.connect(t, running), await Speaker.connect(t, running)]
      fast.send(...Array.from({ length: 30 }, (_, i) => fast.publication('fast', `${i}`, { qos: 1, id: i + 1 })))
      return await took(() => other.publish('other', 'x', { qos: 1 }))
    }
  ],
  [
    '30 messages under max_publish_rate = 10,50',
    2000,
    async t => {
      const running = await startServer(t, { conf: 'mqtt.client.max_publish_rate = 10,50' })
      const fast = await Speaker.connect(t, running)
      return await took(async () => {
        fast.send(...Array.from({ length: 30 }, (_, i) => fast.publication('t', `${i}`, { qos: 1, id: i + 1 })))
        for (let i = 0; i < 30; i++) await fast.nextOf(4)
      })
    }
  ],
  [
    '20 000 messages to one subscriber beside another that does not read',
    20_000,
    async t => {
      const running = await startServer(t)
      const [slow, to] = [await Speaker.connect(t, running, { id: 'slow' }), await Speaker.connect(t, running)]
      const from = await Speaker.connect(t, running)
      for (const one of [slow, to]) await one.subscribe([['t', 0]])
      slow.raw.socket.pause()
      const payload = 'x'.repeat(1000)
      return await took(async () => {
        for (let i = 0; i < 20_000; i += 200) {
          from.send(...Array.from({ length: 200 }, () => from.publication('t', payload)))
          for (let n = 0; n < 200; n++) await to.nextOf(3)
        }
      })
    }
  ],
  [
    'who owns a client id, while three who claim it are judged',
    4000,
    async t => {
      const running = await startServer(t, { conf: 'mqtt.client.idle_timeout = 1h' })
      let judged = 0
      running.server.hooks.scope('bench').on('client.authenticate', ({ protocolVersion }) => {
        if (protocolVersion === 5) return 'allow'
        judged++
        return new Promise(() => {})
      })
      for (let i = 0; i < 3; i++) (await RawClient.connect(t, running)).send(Speaker.connectBytes({ id: 'meter' }))
      await until('all are being judged', () => judged === 3)
      return await took(() => Speaker.connect(t, running, { id: 'meter', version: 5 }))
    }
  ],
  [
    'auth_pgsql unloaded, in the middle of a login that is never answered',
    3000,
    async t => {
      const running = await startServer(t, { plugins: pgsql(await silentPort(t)) })
      void running.admin.call('plugins load', { plugin: 'auth_pgsql' }).catch(() => {})
      await until('it is loaded', async () => (await running.server.plugins.list()).some(({ active }) => active))
      ;(await RawClient.connect(t, running)).send(Speaker.connectBytes({ id: 'c' }))
      await until('it is being judged', () => running.server.clients.connectionCount === 1)
      return await took(() => running.server.stop('fast'))
    }
  ]
]

let broken = 0
const width = Math.max(...promises.map(([promise]) => promise.length))
for (const [promise, bound, measure] of promises) {
  const undo: (() => unknown)[] = []
  const ms = await measure({ after: (work: () => unknown) => undo.push(work) } as never)
  for (const work of undo) await work()
  const kept = ms <= bound
  if (!kept) broken++
  console.log(
    `${promise.padEnd(width)} ${ms.toFixed(ms < 10 ? 2 : 0).padStart(8)} ms of ${String(bound).padStart(6)}${kept ? '' : '  NOT KEPT'}`
  )
}
process.exit(broken > 0 ? 1 : 0)
