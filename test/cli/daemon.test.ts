/** broker start, stop, restart, status, ping and pid, with the real program, pm2 and processes that are killed. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync
} from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { AdminClient } from '../../src/admin/client.js'
import { version } from '../../src/base/home.js'
import { lock } from '../../src/base/lock.js'
import { type Ended, type Instance, instance, signal } from '../support/cli.js'
import { hangMs, until } from '../support/server.js'

const notResponding = "Node 'broker@127.0.0.1' not responding to pings.\n"
const already = 'Node is already running!\n'

function assertEnded(
  { code, out, err }: Ended,
  expected: { code: number; out?: string | RegExp; err?: string | RegExp }
) {
  const fits = (text: string, e: string | RegExp = ''): boolean => (typeof e === 'string' ? text === e : e.test(text))
  assert.deepEqual(
    { code, out: fits(out, expected.out) || out, err: fits(err, expected.err) || err },
    { code: expected.code, out: true, err: true }
  )
}

function assertNothingLeft({ processes, traces }: Instance): void {
  assert.deepEqual([[...processes().values()], traces()], [[], []])
}

async function pidOf(broker: Instance): Promise<number> {
  const { code, out } = await broker.broker('pid')
  return code === 0 ? Number(out) : 0
}

/** Whether the broker of this home answers, asked without the cost of a process. */
async function answers({ home }: Instance): Promise<number | undefined> {
  try {
    const { pid, phase } = await new AdminClient(home.adminSocket, hangMs).call('node ping', {})
    return phase === 'running' ? pid : undefined
  } catch {
    return undefined
  }
}

const pm2Pid = ({ home }: Instance): number => Number(readFileSync(home.pm2Lock, 'utf8').split('\n')[0])

/** Three at a time: much of a test is waiting. */
suite('broker, the daemon', { concurrency: 3 }, () => {
  test("start, status, pid, ping and stop have emqttd's words and statuses", async t => {
    const i = instance(t)
    assertEnded(await i.broker('status'), { code: 3, out: "Node 'broker@127.0.0.1' is not running\n" })
    assertEnded(await i.broker('ping'), { code: 1, err: notResponding })
    assertEnded(await i.broker('pid'), { code: 1, err: notResponding })

    const started = await i.broker('start')
    assertEnded(started, {
      code: 0,
      out: new RegExp(`^listening on tcp:test +127\\.0\\.0\\.1:\\d+\\nbroker ${version} is started successfully!\\n$`)
    })
    const port = Number(/:(\d+)\n/.exec(started.out)![1])
    await new Promise((resolve, reject) => {
      net.connect(port, '127.0.0.1').once('connect', resolve).once('error', reject).unref()
    })
    assert.equal(statSync(i.home.adminSocket).mode & 0o777, 0o600)

    assertEnded(await i.broker('start'), { code: 1, out: already })
    assertEnded(await i.broker('status'), {
      code: 0,
      out: `Node 'broker@127.0.0.1' is started\nbroker ${version} is running\n`
    })
    const pid = await pidOf(i)
    assert.equal(pid, await answers(i))
    assert.equal(JSON.parse((await i.broker('status', '--json')).out).pid, pid)
    assertEnded(await i.broker('ping'), { code: 0, out: 'pong\n' })
    assert.deepEqual(
      [...i.processes().values()].map(c => c.replace(/ .*$/, '')).sort(),
      ['broker', 'pm2'],
      'the list of processes says what they are'
    )

    assertEnded(await i.broker('stop'), { code: 0, out: 'ok\n' })
    assertNothingLeft(i)
    assertEnded(await i.broker('stop'), { code: 1, err: notResponding })
    assertEnded(await i.broker('restart'), { code: 1, err: notResponding })
    assertEnded(await i.broker('stop', '-m', 'slowly'), { code: 2, err: /Allowed choices are drain, fast, immediate/ })
    assert.equal(JSON.parse((await i.broker('status', '--json')).out).phase, 'stopped')
    assertNothingLeft(i)
  })

  test('two starts at once: one wins, the other says so', async t => {
    const i = instance(t)
    for (let round = 0; round < 2; round++) {
      const [a, b] = await Promise.all([i.broker('start'), i.broker('start')])
      const [won, lost] = a.code === 0 ? [a, b] : [b, a]
      assertEnded(won, { code: 0, out: /started successfully!\n$/ })
      assert.equal(lost.code, 1)
      assert.match(lost.out + lost.err, /^(Node is already running!|another start or stop of this broker is under way)/)
      assert.equal(i.processes().size, 2)
      assertEnded(await i.broker('stop', '-m', 'fast'), { code: 0, out: 'ok\n' })
      assertNothingLeft(i)
    }
  })

  test('stop does not wait longer than it was told for a broker that hangs', async t => {
    const i = instance(t)
    await i.broker('start')
    signal(await pidOf(i), 'SIGSTOP')
    assertEnded(await i.broker('start'), {
      code: 1,
      out: /^Node is already running! \(pid \d+ does not answer.*`broker stop`/
    })
    assertEnded(await i.broker('stop', '-t', '0.5'), { code: 0, out: 'ok\n' })
    assertNothingLeft(i)
  })

  test('restart is another process with the configuration as it is now', async t => {
    const i = instance(t)
    await i.broker('start')
    const before = await pidOf(i)
    writeFileSync(i.home.conf, 'listener.tcp.other = 127.0.0.1:0\n')
    assertEnded(await i.broker('restart'), { code: 0, out: 'ok\n' })
    assert.notEqual(await pidOf(i), before)
    assert.equal(JSON.parse((await i.ctl('listeners', '--json')).out)[0].name, 'tcp:other')
    assert.equal(i.processes().size, 2)

    writeFileSync(i.home.conf, 'listener.tcp.other = x\n')
    assertEnded(await i.broker('restart'), { code: 1, err: /broker\.conf:1:22: / })
    assert.ok(await answers(i), 'a mistake leaves the running one alone')
  })

  test('a broker that is killed comes back; one whose pm2 is killed goes on and can be stopped', async t => {
    const i = instance(t)
    await i.broker('start')
    const first = await pidOf(i)
    signal(first, 'SIGKILL')
    const second = await until('a new broker', async () => {
      const pid = await answers(i)
      return pid === first ? undefined : pid
    })
    signal(pm2Pid(i), 'SIGKILL')
    await sleep(100)
    assertEnded(await i.broker('start'), { code: 1, out: already })
    assert.equal(await pidOf(i), second)
    assertEnded(await i.broker('stop'), { code: 0, out: 'ok\n' })
    assertNothingLeft(i)
  })

  test('a broker that was told to stop by a signal is not brought back', async t => {
    const i = instance(t)
    await i.broker('start')
    signal(await pidOf(i), 'SIGTERM')
    await until('the broker is gone', () => i.processes().size === 1)
    await sleep(600)
    assertEnded(await i.broker('status'), { code: 3, out: /not running/ })
    assertEnded(await i.broker('stop'), { code: 0, out: 'ok\n' })
    assertNothingLeft(i)
  })

  test('a broker that keeps crashing is started ever more slowly, and can be stopped', async t => {
    const i = instance(t, { plugins: { crash: '' } })
    mkdirSync(join(i.home.root, 'plugins'))
    writeFileSync(
      join(i.home.root, 'plugins/crash.mjs'),
      `export default { name: 'crash', description: 'Crashes', prefix: 'crash', options: {},
         start() { setTimeout(() => { throw new Error('boom') }, 20) } }`
    )
    mkdirSync(i.home.data)
    writeFileSync(i.home.path('data/loaded_plugins'), 'crash.\n')
    const from = performance.now()
    assertEnded(await i.broker('start', '--no-wait'), { code: 0, out: `broker ${version} is being started\n` })
    const starts = (): number => {
      const log = i.home.path('log/broker.log')
      return (existsSync(log) ? readFileSync(log, 'utf8') : '').match(/broker is running/g)?.length ?? 0
    }
    await until('it has been started again', () => starts() >= 2)
    await sleep(Math.max(0, 3000 - (performance.now() - from)))
    const seconds = (performance.now() - from) / 1000
    assert.ok(starts() <= seconds * 3, `${starts()} starts in ${seconds} seconds`)
    await until('its end is in crash.log', () =>
      /Error: boom\n +at /.test(readFileSync(i.home.path('log/crash.log'), 'utf8'))
    )
    assert.match(readFileSync(i.home.path('log/crash.log'), 'utf8'), /Error: boom\n +at /)
    assertEnded(await i.broker('stop'), { code: 0, out: 'ok\n' })
    assertNothingLeft(i)
  })

  test('a wrong configuration is told with all its problems, and nothing is started', async t => {
    const i = instance(t, {
      conf: 'listener.tcp.test = 127.0.0.1:0\nmqtt.max_packet_size = huge\n  nod.name = x@y',
      acl: '{allow, al}.'
    })
    const told = await i.broker('start')
    assertEnded(told, { code: 1, err: /./ })
    const { root } = i.home
    assert.match(told.err, new RegExp(`^${root}/etc/broker\\.conf:2:24: mqtt\\.max_packet_size: .*"huge"`, 'm'))
    assert.match(told.err, /^ {25}\^$/m)
    assert.match(
      told.err,
      new RegExp(`^${root}/etc/broker\\.conf:3:3: nod\\.name: unknown key; did you mean node\\.name`, 'm')
    )
    assert.match(told.err, new RegExp(`^${root}/etc/acl\\.conf:1:`, 'm'))
    assertNothingLeft(i)
    assert.equal(existsSync(i.home.path('log')), false)

    // What pm2 starts again does not run in circles either.
    writeFileSync(i.home.conf, 'listener.tcp.test = 127.0.0.1:0\n')
    writeFileSync(i.home.path('etc/acl.conf'), '')
    assertEnded(await i.broker('start'), { code: 0, out: /started/ })
    appendFileSync(i.home.conf, 'foo\n')
    signal(await pidOf(i), 'SIGKILL')
    await until('pm2 has tried once', () => existsSync(i.home.failure))
    await sleep(700)
    assert.equal(i.processes().size, 1)
    assert.equal(readFileSync(join(i.home.pm2, 'pm2.log'), 'utf8').match(/exited with code \[78\]/g)?.length, 1)
    assertEnded(await i.broker('start'), { code: 1, err: /broker\.conf:2:1: expected "key = value", got "foo"/ })
    assertEnded(await i.broker('stop'), { code: 0, out: 'ok\n' })
    assertNothingLeft(i)
  })

  test('a port that is taken is told with its holder, and nothing is left running', async t => {
    const holder = net.createServer().listen(0, '127.0.0.1')
    t.after(() => void holder.close())
    await new Promise(resolve => holder.once('listening', resolve))
    const { port } = holder.address() as net.AddressInfo
    const i = instance(t, { conf: `listener.tcp.free = 127.0.0.1:0\nlistener.tcp.test = 127.0.0.1:${port}` })
    const told = await i.broker('start')
    assertEnded(told, { code: 1, err: /./ })
    assert.match(
      told.err,
      new RegExp(
        `^listener\\.tcp\\.test: cannot listen on 127\\.0\\.0\\.1:${port}: the port is taken by (\\S+ \\(pid ${process.pid}\\)|another program)\n\n` +
          `Its last lines in ${i.home.path('log/broker.log')}:\n  \\d{4}-`
      )
    )
    assertNothingLeft(i)
  })

  test('a plugin that cannot be loaded is told with its reason', async t => {
    const i = instance(t, { plugins: { broken: '' } })
    mkdirSync(join(i.home.root, 'plugins'))
    writeFileSync(join(i.home.root, 'plugins/broken.mjs'), 'export default 1')
    mkdirSync(i.home.data)
    writeFileSync(i.home.path('data/loaded_plugins'), 'broken.\n')
    assertEnded(await i.broker('start'), { code: 1, err: /broken\.mjs has no plugin as its default export/ })
    assertNothingLeft(i)
  })

  test('start -t says when time is up, and the broker goes on starting', async t => {
    const i = instance(t)
    assertEnded(await i.broker('start', '-t', '0'), {
      code: 1,
      err: /^The broker failed to start within 0 seconds; it goes on trying until `broker stop`\.\n.*WAIT_FOR_BROKER/s
    })
    await until('it runs', () => answers(i))
    assertEnded(await i.broker('stop', '-m', 'fast'), { code: 0, out: 'ok\n' })
    assertNothingLeft(i)
  })

  test('a home whose path is too long for a socket works, and stop cleans up after it', async t => {
    const parent = mkdtempSync(join(tmpdir(), `${'long-'.repeat(26)}-`))
    t.after(() => rmSync(parent, { recursive: true, force: true }))
    const i = instance(t, {}, parent)
    assert.ok(i.home.root.length > 120)
    assertEnded(await i.broker('start'), { code: 0, out: /started/ })
    const dir = readFileSync(i.home.path('data/socket_dir'), 'utf8').trim()
    assert.match(dir, /^\/tmp\/broker-\d+\/[0-9a-f]{12}$/)
    assert.equal(statSync(dir).mode & 0o777, 0o700)
    assertEnded(await i.ctl('status'), { code: 0, out: /is running\n$/ })
    signal(await pidOf(i), 'SIGKILL')
    await until('a new broker', () => answers(i))
    assertEnded(await i.broker('stop'), { code: 0, out: 'ok\n' })
    assertNothingLeft(i)
    assert.equal(existsSync(dir), false)
  })

  test('two homes are two brokers', async t => {
    const [a, b] = [instance(t), instance(t)]
    const started = await Promise.all([a.broker('start'), b.broker('start')])
    assert.deepEqual(
      started.map(s => s.code),
      [0, 0]
    )
    assert.notEqual(await answers(a), await answers(b))
    assertEnded(await a.broker('stop'), { code: 0, out: 'ok\n' })
    assertNothingLeft(a)
    assert.ok(await answers(b))
    assertEnded(await b.broker('stop'), { code: 0, out: 'ok\n' })
  })

  test('a start that is killed at any moment leaves a home in which stop and start work', async t => {
    const i = instance(t)
    // From before the lock to after the broker runs; by chance in between, so that many runs meet every moment.
    for (let moment = 100; moment < 900; moment += 200) {
      const start = i.begin('start')
      await sleep(moment + Math.random() * 200)
      start.child.kill('SIGKILL')
      await start.ended
      const what = `killed ${moment} ms or a little more after it began`
      if (moment % 400 === 100) {
        const stopped = await i.broker('stop')
        assert.match(
          `${stopped.code} ${stopped.out}${stopped.err}`,
          /^(0 ok|1 Node '.*' not responding to pings\.)\n$/,
          what
        )
        await until(`${what}: nothing is left`, () => i.processes().size === 0)
        assert.deepEqual(i.traces(), [], what)
      }
      const again = await i.broker('start')
      assert.match(
        `${again.code} ${again.out}${again.err}`,
        /^(0 .*started successfully!|1 Node is already running!)/s,
        what
      )
      await until(`${what}: the broker runs`, () => answers(i))
      assertEnded(await i.broker('stop', '-m', 'immediate'), { code: 0, out: 'ok\n' })
      assertNothingLeft(i)
    }
  })

  test('locks that dead processes left, or that name somebody else by now, are in nobody’s way', async t => {
    const i = instance(t)
    mkdirSync(i.home.data)
    const dead = spawnSync(process.execPath, ['-e', '']).pid
    for (const stale of [`${dead}\n1\n`, `${process.pid}\nnot when it began\n`]) {
      for (const file of [i.home.brokerLock, i.home.commandLock, i.home.pm2Lock]) writeFileSync(file, stale)
      writeFileSync(i.home.adminSocket, '')
      assertEnded(await i.broker('start'), { code: 0, out: /started/ })
      assertEnded(await i.broker('stop', '-m', 'fast'), { code: 0, out: 'ok\n' })
      assertNothingLeft(i)
    }
  })

  test('locks that somebody living holds are told', async (t: TestContext) => {
    const i = instance(t)
    const command = lock(i.home.commandLock)
    assert.ok(typeof command === 'function')
    const underWay = `another start or stop of this broker is under way (pid ${process.pid})\n`
    assertEnded(await i.broker('start'), { code: 1, err: underWay })
    assertEnded(await i.broker('stop'), { code: 1, err: underWay })
    command()
    const broker = lock(i.home.brokerLock)
    assert.ok(typeof broker === 'function')
    assertEnded(await i.broker('start'), {
      code: 1,
      out: new RegExp(`^Node is already running! \\(pid ${process.pid} `)
    })
    broker()
    assertNothingLeft(i)
  })

  test('stop ends a broker in the foreground', async t => {
    const i = instance(t)
    const { ended } = i.begin('foreground')
    await until('it runs', () => answers(i))
    assertEnded(await i.broker('start'), { code: 1, out: already })
    assertEnded(await i.broker('stop'), { code: 0, out: 'ok\n' })
    assert.equal((await ended).code, 0)
    assertNothingLeft(i)
  })
})
