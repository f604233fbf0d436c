/**
 * broker-ctl against what emqttd 2.3.11's emqttd_ctl printed in the same situation. Numbers that
 * differ from run to run are masked; what differs on purpose is in docs/differences.md.
 */
import assert from 'node:assert/strict'
import net from 'node:net'
import { after, before, suite, test } from 'node:test'
import { main } from '../../src/cli/ctl.js'
import { begin } from '../support/cli.js'
import { client, next, type Running, Speaker, startServer, until } from '../support/server.js'

const node = 'broker@127.0.0.1'

suite('broker-ctl prints what emqttd_ctl did', () => {
  let running: Running
  const cleanups: (() => unknown)[] = []
  const t = { after: (work: () => unknown) => void cleanups.push(work) } as never

  before(async () => {
    running = await startServer(t, {
      conf: 'listener.tcp.test = 127.0.0.1:0\nlistener.tcp.second = 127.0.0.1:0\nmqtt.broker.sys_interval = 0s'
    })
    const to = { port: running.portOf('tcp:test') }
    const sub1 = await client(t, to, { clientId: 'sub1', username: 'alice' })
    await sub1.subscribeAsync(['sensor/+/temp', 'sensor/#'], { qos: 1 })
    const sub2 = await client(t, to, { clientId: 'sub2', username: 'bob', clean: false })
    await sub2.subscribeAsync('a/b/c', { qos: 1 })
    const sub3 = await client(t, to, { clientId: 'sub3' })
    await sub3.subscribeAsync(['$share/g/jobs/+', '$queue/work', '$local/loc'])
    const sub4 = await client(t, to, { clientId: 'sub4', clean: false })
    await sub4.subscribeAsync('off/line', { qos: 1 })
    await sub4.endAsync()
    const pub = await client(t, to, { clientId: 'pub' })
    for (const i of [1, 2, 3]) await pub.publishAsync('off/line', `${i}`, { qos: 1 })
    await pub.publishAsync('a/b/c', 'x', { qos: 1 })
    await pub.publishAsync('keep/me', 'kept', { retain: true, qos: 1 })
    await pub.endAsync()
    await until('sub2 has it', () => running.server.clients.sessions.get('sub2')?.inflightLength === 0)
    await until('pub is gone', () => running.server.clients.clientCount === 3)
  })

  after(async () => {
    for (const work of cleanups.reverse()) await work()
  })

  /** As the program does, in this process. */
  async function ctl(...args: string[]): Promise<{ status: number; out: string; err: string }> {
    const out: string[] = []
    const err: string[] = []
    const io = { out: (s: string) => void out.push(`${s}\n`), err: (s: string) => void err.push(`${s}\n`) }
    const status = await main(['--home', running.home.root, ...args], io)
    return { status, out: out.join(''), err: err.join('') }
  }

  const masked = (text: string): string =>
    text.replace(/(created_at|connected_at)=\d{10}/g, '$1=T').replace(/peername=127\.0\.0\.1:\d+/g, 'peername=P')

  /** In emqttd's order the lines of a list are as its tables have them; ours are as they came. */
  async function prints(words: string, ...lines: string[]): Promise<void> {
    const { status, out, err } = await ctl(...words.split(' '))
    assert.deepEqual([status, err], [0, ''], words)
    assert.equal(masked(out), lines.map(line => `${line}\n`).join(''), words)
  }

  async function fails(words: string, status: number, line: string): Promise<void> {
    assert.deepEqual(await ctl(...words.split(' ')), { status, out: '', err: `${line}\n` }, words)
  }

  const session = (id: string, clean: boolean, subscriptions: number, rest = ''): string =>
    `Session(${id}, clean_sess=${clean}, subscriptions=${subscriptions}, max_inflight=32, inflight=0, ` +
    `${rest || 'mqueue_len=0, mqueue_dropped=0, awaiting_rel=0, deliver_msg=0, enqueue_msg=0'}, created_at=T)`
  const sub1 = session('sub1', true, 2)
  const one = 'mqueue_len=0, mqueue_dropped=0, awaiting_rel=0, deliver_msg=1, enqueue_msg=0'
  const sub2 = session('sub2', false, 1, one)
  const sub3 = session('sub3', true, 3)
  const waits = 'mqueue_len=3, mqueue_dropped=0, awaiting_rel=0, deliver_msg=0, enqueue_msg=3'
  const sub4 = session('sub4', false, 1, waits)

  test('broker stats', async () => {
    await prints(
      'broker stats',
      'clients/count       : 3',
      'clients/max         : 4',
      'retained/count      : 1',
      'retained/max        : 1',
      'routes/count        : 7',
      'routes/max          : 7',
      'sessions/count      : 4',
      'sessions/max        : 5',
      'subscribers/count   : 7',
      'subscribers/max     : 7',
      'subscriptions/count : 7',
      'subscriptions/max   : 7',
      'topics/count        : 7',
      'topics/max          : 7'
    )
  })

  test('broker metrics', async () => {
    const { out } = await ctl('broker', 'metrics')
    const names = `bytes/received bytes/sent messages/dropped messages/qos0/received messages/qos0/sent
      messages/qos1/received messages/qos1/sent messages/qos2/dropped messages/qos2/received messages/qos2/sent
      messages/received messages/retained messages/sent packets/connack packets/connect packets/disconnect packets/pingreq
      packets/pingresp packets/puback/missed packets/puback/received packets/puback/sent packets/pubcomp/missed
      packets/pubcomp/received packets/pubcomp/sent packets/publish/received packets/publish/sent packets/pubrec/missed
      packets/pubrec/received packets/pubrec/sent packets/pubrel/missed packets/pubrel/received packets/pubrel/sent
      packets/received packets/sent packets/suback packets/subscribe packets/unsuback packets/unsubscribe`.split(/\s+/)
    assert.equal(out.replace(/\d+$/gm, 'N'), names.map(name => `${name.padEnd(24)}: N\n`).join(''))
    assert.match(out, /^messages\/qos1\/received {2}: 5$/m)
    assert.match(out, /^packets\/pubcomp\/received: 0$/m)
  })

  test('clients list, show', async () => {
    const line = (id: string, clean: boolean, username: string): string =>
      `Client(${id}, clean_sess=${clean}, username=${username}, peername=P, connected_at=T)`
    await prints(
      'clients list',
      line('sub1', true, 'alice'),
      line('sub2', false, 'bob'),
      line('sub3', true, 'undefined')
    )
    await prints('clients show sub1', line('sub1', true, 'alice'))
    await fails('clients show nosuch', 1, 'Not Found.')
    await fails('clients kick nosuch', 1, 'Not Found.')
  })

  test('sessions list, list persistent, list transient, show', async () => {
    await prints('sessions list', sub1, sub2, sub3, sub4)
    await prints('sessions list persistent', sub2, sub4)
    await prints('sessions list transient', sub1, sub3)
    await prints('sessions show sub4', sub4)
    await fails('sessions show nosuch', 1, 'Not Found.')
  })

  test('routes and topics', async () => {
    const filters = ['a/b/c', 'work', 'loc', 'off/line', 'sensor/+/temp', 'sensor/#', 'jobs/+'].sort()
    const lines = async (...words: string[]): Promise<string[]> =>
      (await ctl(...words)).out.trimEnd().split('\n').sort()
    assert.deepEqual(await lines('routes', 'list'), filters.map(filter => `${filter} -> ${node}`).sort())
    assert.deepEqual(await lines('topics', 'list'), filters)
    for (const noun of ['routes', 'topics']) {
      await prints(`${noun} show a/b/c`, `a/b/c -> ${node}`)
      await prints(`${noun} show sensor/#`, `sensor/# -> ${node}`)
      await prints(`${noun} show no/such`)
      await prints(`${noun} show sensor/+`)
    }
  })

  test('subscriptions list, show, add, del', async () => {
    await prints(
      'subscriptions list',
      'sub1 -> sensor/+/temp',
      'sub1 -> sensor/#',
      'sub2 -> a/b/c',
      'sub3 -> jobs/+',
      'sub3 -> work',
      'sub3 -> loc',
      'sub4 -> off/line'
    )
    const before = ['sub1 -> sensor/+/temp', '  qos     : 1', 'sub1 -> sensor/#', '  qos     : 1']
    await prints('subscriptions show sub1', ...before)
    await fails('subscriptions show nosuch', 1, 'Not Found.')
    await prints('subscriptions add sub1 added/topic 1', 'ok')
    await prints('subscriptions show sub1', ...before, 'sub1 -> added/topic', '  qos     : 1')
    await fails('subscriptions add sub1 added/topic 3', 2, 'QoS should be 0, 1, 2')
    await fails('subscriptions add sub1 added/topic x', 2, 'QoS should be 0, 1, 2')
    await fails('subscriptions add sub1 a/#/b 1', 2, 'not a topic filter: "a/#/b"')
    await fails('subscriptions add nosuch added/topic 1', 1, 'Error: Session not found!')
    await prints('subscriptions del sub1 added/topic', 'ok')
    await prints('subscriptions del sub1 added/topic', 'ok')
    await fails('subscriptions del nosuch added/topic', 1, 'Error: Session not found!')
    await prints('subscriptions show sub1', ...before)
  })

  test('cluster and bridges of one node', async () => {
    await prints('cluster status', `Cluster status: [{running_nodes,['${node}']}]`)
    await prints('bridges list')
  })

  test('vm has emqttd’s figures in its form, where Node.js has them', async () => {
    const { out } = await ctl('vm')
    const lines = out.trimEnd().split('\n')
    for (const line of lines) assert.match(line, /^\S.{21}(.{2})?: [\d.]+$/)
    for (const name of ['cpu/load15', 'memory/total', 'io/max_fds', 'io/active_fds']) {
      assert.ok(
        lines.some(line => line.startsWith(`${name.padEnd(24)}: `)),
        name
      )
    }
    assert.match(out, /^ports\/count {11}: 5\nports\/limit {11}: \d+$/m)
    assert.match((await ctl('vm', 'load')).out, /^(cpu\/load\d+ +: \d+\.\d\d\n){3}$/)
    for (const part of ['memory', 'process', 'io', 'ports', 'eventloop', 'gc']) {
      const { out: some } = await ctl('vm', part)
      for (const line of some.trimEnd().split('\n'))
        assert.ok(lines.some(of => of.split(':')[0] === line.split(':')[0]))
    }
  })

  test('listeners stop, start and restart', async () => {
    const at = `127.0.0.1:${running.portOf('tcp:second')}`
    const port = running.portOf('tcp:second')
    const listed = async (): Promise<boolean> => (await ctl('listeners')).out.includes(`listener on mqtt:tcp:${at}\n`)
    const speaker = await Speaker.connect(t, { port }, { id: 'on-it' })
    assert.ok(await listed())
    await prints(`listeners stop mqtt:tcp ${at}`, `Stop mqtt:tcp listener on ${at} successfully.`)
    await speaker.raw.closed
    assert.ok(!(await listed()))
    assert.equal((await next(net.connect(port, '127.0.0.1'), 'error'))[0].code, 'ECONNREFUSED')
    await fails(`listeners stop mqtt:tcp ${at}`, 1, `Failed to stop mqtt:tcp listener on ${at}, error:not_found`)
    await fails('listeners restart mqtt:tcp 1', 1, 'Failed to restart mqtt:tcp listener on 1, error:not_found')
    await fails('listeners stop nosuch 1', 1, 'Failed to stop nosuch listener on 1, error:not_found')
    // It has port 0, so that it comes up on another.
    await prints('listeners start mqtt:tcp 127.0.0.1:0', 'Start mqtt:tcp listener on 127.0.0.1:0 successfully.')
    const again = running.portOf('tcp:second')
    const back = `127.0.0.1:${again}`
    await fails(
      `listeners start mqtt:tcp ${back}`,
      1,
      `Failed to start mqtt:tcp listener on ${back}, error:already_started`
    )
    const other = await Speaker.connect(t, { port: again }, { id: 'on-it' })
    assert.equal(other.connack.code, 0)
    await prints(`listeners restart mqtt:tcp ${back}`, `Restart mqtt:tcp listener on ${back} successfully.`)
    await other.raw.closed
    assert.ok(running.server.listeners.every(l => l.listening))
  })

  test('retainer info, topics, show, clean', async () => {
    await prints('retainer info', 'retained/total: 1')
    await prints('retainer topics', 'keep/me')
    await prints(
      'retainer show keep/me',
      'topic     : keep/me',
      'qos       : 1',
      'size      : 4',
      'from      : pub',
      'expires_at: -',
      'encoding  : utf8',
      'payload   : kept'
    )
    await fails('retainer show no/such', 1, 'Not Found.')
    await prints('retainer clean other/#', 'Cleaned 0 retained messages')
    await prints('retainer clean', 'Cleaned 1 retained messages')
    await prints('retainer info', 'retained/total: 0')
  })

  test('each noun alone shows its commands in emqttd’s words', async () => {
    const usage = async (word: string, ...lines: [string, string][]): Promise<void> =>
      prints(word, ...lines.map(([words, summary]) => `${words.padEnd(48)}# ${summary}`))
    await usage(
      'sessions',
      ['sessions list', 'List all sessions'],
      ['sessions list persistent', 'List all persistent sessions'],
      ['sessions list transient', 'List all transient sessions'],
      ['sessions show <ClientId>', 'Show a session']
    )
    await usage('routes', ['routes list', 'List all routes'], ['routes show <Topic>', 'Show a route'])
    await usage('topics', ['topics list', 'List all topics'], ['topics show <Topic>', 'Show a topic'])
    await usage(
      'subscriptions',
      ['subscriptions list', 'List all subscriptions'],
      ['subscriptions show <ClientId>', 'Show subscriptions of a client'],
      ['subscriptions add <ClientId> <Topic> <QoS>', 'Add a static subscription manually'],
      ['subscriptions del <ClientId> <Topic>', 'Delete a static subscription manually']
    )
    assert.match(
      (await ctl('broker', 'nosuch')).err,
      /^no such command: broker nosuch\nbroker {42}# Show broker version/
    )
    assert.match((await ctl('broker', 'stat')).err, /did you mean broker stats\?\n$/)
    assert.match((await ctl('sessions', 'list', 'persistant')).err, /^no such command: sessions list persistant/)
  })

  test('--watch prints it again and again, and only what changes nothing', async () => {
    const watching = begin('broker-ctl', ['--home', running.home.root, '--watch', '0.05', 'retainer', 'info'])
    await until('twice', () => watching.out().split('retained/total').length > 3)
    watching.child.kill('SIGINT')
    await watching.ended
    await fails('retainer clean --watch', 2, '--watch is for what only shows something, not for retainer clean')
    await fails('retainer info --watch 0', 2, '--watch: expected seconds, got "0"')
  })

  test('broker losses, latency and queues', async () => {
    assert.match((await ctl('broker', 'losses')).out, /^messages\/dropped\/queue_full : 0$/m)
    const { count, mean, buckets } = JSON.parse((await ctl('broker', 'latency', '--json')).out)
    assert.ok(count > 0 && mean > 0)
    assert.equal(
      buckets.reduce((sum: number, each: { count: number }) => sum + each.count, 0),
      count
    )
    await prints(
      'broker queues',
      'queues/sessions         : 4',
      'queues/messages         : 3',
      'queues/to 0             : 3',
      'queues/to 1             : 0',
      'queues/to 10            : 1',
      'queues/to 100           : 0',
      'queues/to 500           : 0',
      'queues/to 1000          : 0',
      'queues/to 10000         : 0',
      'queues/more             : 0'
    )
  })
})
