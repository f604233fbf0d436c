/** broker-ctl: the real program against a broker in this process; lines, formats, statuses, words. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, suite, type TestContext, test } from 'node:test'
import { version } from '../../src/base/home.js'
import { main } from '../../src/cli/ctl.js'
import type { Ended } from '../support/cli.js'
import { begin, packageRoot } from '../support/cli.js'
import { client, makeHome, type Running, startServer, until } from '../support/server.js'

const rule = '-'.repeat(80)

suite('broker-ctl', { concurrency: 2 }, () => {
  let running: Running
  const cleanups: (() => unknown)[] = []

  before(async () => {
    const plugin = `export default { name: 'lamp', description: 'Lights up', prefix: 'lamp', options: {}, start() {} }`
    running = await startServer({ after: (work: () => unknown) => cleanups.push(work) } as never, {
      plugins: { lamp: '', broken: '' }
    })
    mkdirSync(running.home.path('plugins'))
    writeFileSync(running.home.path('plugins/lamp.mjs'), plugin)
  })

  after(async () => {
    for (const work of cleanups.reverse()) await work()
  })

  const ctl = (...args: string[]): Promise<Ended> => begin('broker-ctl', ['--home', running.home.root, ...args]).ended

  /** What the program does, in this process: starting it takes longer than all the rest. */
  async function said(...args: string[]): Promise<Pick<Ended, 'code' | 'out' | 'err'>> {
    let out = ''
    let err = ''
    const io = {
      out: (text: string) => {
        out += `${text}\n`
      },
      err: (text: string) => {
        err += `${text}\n`
      }
    }
    const code = await main(['--home', running.home.root, ...args], io)
    return { code, out, err }
  }

  async function prints(words: string, expected: string | RegExp): Promise<void> {
    const { code, out, err } = await said(...words.split(' '))
    assert.deepEqual([code, err], [0, ''], words)
    if (typeof expected === 'string') assert.equal(out, expected)
    else assert.match(out, expected)
  }

  async function fails(args: readonly string[], status: number, expected: string | RegExp): Promise<void> {
    const { code, out, err } = await said(...args)
    assert.deepEqual([code, out], [status, ''], `${args.join(' ')}: ${err}`)
    if (typeof expected === 'string') assert.equal(err, expected)
    else assert.match(err, expected)
  }

  test('status, broker, acl reload and listeners print emqttd’s lines', async () => {
    await prints('status', `Node 'broker@127.0.0.1' is started\nbroker ${version} is running\n`)
    await prints(
      'status --json',
      /"clients":\d+,"store":\{"type":"(memory","size":null|lmdb","size":\d+)\},"alarms":0\}\n$/
    )
    await prints(
      'broker',
      /^sysdescr {2}: tsmqttd MQTT Broker\nversion {3}: \S+\nuptime {4}: \d+ seconds\ndatetime {2}: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n$/
    )
    await prints('acl reload', 'reload acl_internal successfully\n')
    await prints(
      'listeners',
      new RegExp(
        `^listener on mqtt:tcp:127\\.0\\.0\\.1:${running.port}\n  acceptors       : 1\n  max_clients     : 102400\n` +
          '  current_clients : \\d+\n  shutdown_count  : \\[.*\\]\n$'
      )
    )
  })

  test('clients list, show and kick print emqttd’s lines', async t => {
    const since = Math.floor(Date.now() / 1000)
    const lamp = await client(t, running, { clientId: 'lamp', username: 'alice' })
    await client(t, running, { clientId: 'door', clean: false })
    const { localPort } = lamp.stream as net.Socket
    const { out } = await ctl('clients', 'show', 'lamp')
    const [, at] = /connected_at=(\d+)\)\n$/.exec(out) ?? []
    assert.equal(
      out,
      `Client(lamp, clean_sess=true, username=alice, peername=127.0.0.1:${localPort}, connected_at=${at})\n`
    )
    assert.ok(Number(at) >= since && Number(at) <= Date.now() / 1000)
    const list = await ctl('clients', 'list')
    assert.ok(list.out.includes(out))
    assert.match(list.out, /^Client\(door, clean_sess=false, username=undefined, peername=.*\)$/m)

    await prints('clients kick lamp', '')
    await until('the client is gone', () => !lamp.connected)
    await fails(['clients', 'kick', 'lamp'], 1, 'Not Found.\n')
    await fails(['clients', 'show', 'lamp'], 1, 'Not Found.\n')
    await prints('listeners', /shutdown_count {2}: \[.*kicked=1.*\]/)
  })

  test('what a client chose cannot forge a line or command the terminal', async t => {
    const clientId = 'x\u001b[2J\nClient(forged)'
    await client(t, running, { clientId })
    const { out } = await ctl('clients', 'show', clientId)
    assert.match(out, /^Client\(x\\u001b\[2J\\u000aClient\(forged\), clean_sess=true, .*\)\n$/)
    const table = await ctl('clients', 'list', '--table')
    assert.ok(!table.out.includes('\u001b') && table.out.includes('\\u000aClient'))
    assert.equal(JSON.parse((await ctl('clients', 'show', clientId, '--json')).out).client_id, clientId)
  })

  test('plugins list, load, unload and reload print emqttd’s lines under the name that was typed', async () => {
    const line = (active: boolean): RegExp =>
      new RegExp(`^Plugin\\(lamp, version=${version}, description=Lights up, active=${active}\\)$`, 'm')
    await prints('plugins list', line(false))
    await prints('plugins load emq_lamp', 'Start apps: [emq_lamp]\nPlugin emq_lamp loaded successfully.\n')
    await prints('plugins list', line(true))
    await fails(['plugins', 'load', 'lamp'], 1, 'load plugin error: already_started\n')
    await prints('plugins reload lamp', 'Plugin lamp reloaded successfully.\n')
    await prints('plugins unload lamp', 'Plugin lamp unloaded successfully.\n')
    await fails(['plugins', 'unload', 'lamp'], 1, 'unload plugin error: not_started\n')
    await fails(['plugins', 'reload', 'lamp'], 1, 'reload plugin error: not_started\n')
    await fails(['plugins', 'load', 'lmap'], 1, 'load plugin error: not_found (did you mean lamp?)\n')
    await fails(
      ['plugins', 'load', 'nosuch'],
      1,
      `load plugin error: not_found (there is no ${running.home.path('etc/plugins/nosuch.conf')})\n`
    )
    await fails(['plugins', 'load', '../../x'], 1, 'load plugin error: not_found\n')
  })

  test('--json prints the data, --table a table, before or after the words', async () => {
    const { out } = await ctl('--json', 'listeners')
    assert.deepEqual(JSON.parse(out), [
      {
        name: 'tcp:test',
        protocol: 'mqtt:tcp',
        listen: `127.0.0.1:${running.port}`,
        acceptors: 1,
        max_clients: 102400,
        current_clients: JSON.parse(out)[0].current_clients,
        shutdown_count: JSON.parse(out)[0].shutdown_count
      }
    ])
    assert.equal(out.trim().split('\n').length, 1)
    const status = JSON.parse((await ctl('status', '--json')).out)
    assert.deepEqual(
      [status.node, status.version, status.running, status.pid],
      ['broker@127.0.0.1', version, true, process.pid]
    )
    await prints('listeners --table', /^name +protocol +listen +.*\ntcp:test +mqtt:tcp +127\.0\.0\.1:\d+ .*\n$/)
    await prints('--table status', /^node +broker@127\.0\.0\.1\nstatus +started\n/)
    await fails(['clients', 'show', 'nobody', '--json'], 1, '{"error":{"code":"NOT_FOUND","message":"Not Found."}}\n')
    await fails(['clientz', '--json'], 2, /^\{"error":\{"code":"BAD_REQUEST"/)
  })

  test('help has emqttd_ctl’s form; a group alone shows its commands', async () => {
    const { out } = await ctl()
    for (const same of [['help'], ['--help'], ['-h']]) assert.equal((await ctl(...same)).out, out)
    const lines = out.split('\n')
    assert.deepEqual(lines.slice(0, 4), [
      'Usage: broker-ctl',
      rule,
      'status                                          # Show broker status',
      rule
    ])
    assert.ok(lines.includes('clients kick <ClientId>                         # Kick out a client'))
    assert.ok(lines.includes('--json                                          # Print the result as JSON'))
    for (const line of lines.slice(1, -1)) assert.match(line, /^-{80}$|^\S.{47}# [A-Za-z]/)
    assert.ok(!out.includes('node stop'), 'what only broker asks is not offered')

    const clients =
      'clients list                                    # List all clients\n' +
      'clients show <ClientId>                         # Show a client\n' +
      'clients kick <ClientId>                         # Kick out a client\n' +
      'clients why <ClientId | ip>                     # Show how the last connections of a client or an address ended\n'
    for (const words of ['clients', 'help clients', 'clients --help']) await prints(words, clients)
    await prints('clients kick --help', /^Usage: broker-ctl clients kick \[options\] <clientId>\n\nKick out a client\n/)
    await prints('--version', `${version}\n`)
  })

  test('a wrong word is told with what was meant, and status 2', async () => {
    for (const [args, expected] of [
      ['stauts', 'no such command: stauts; did you mean status?\n'],
      ['clients lst', 'no such command: clients lst; did you mean clients list?\n'],
      ['client list', 'no such command: client list; did you mean clients list?\n'],
      ['clinets kick lamp', 'no such command: clinets kick lamp; did you mean clients kick?\n'],
      ['kick lamp', 'no such command: kick lamp; did you mean clients kick?\n'],
      ['plugin', 'no such command: plugin; did you mean plugins?\n'],
      ['clients wipe', /^no such command: clients wipe\nclients list .*\n.*\n.*\n.*\n$/],
      ['frobnicate', /^no such command: frobnicate\nUsage: broker-ctl\n/],
      ['clients kick', /^error: missing required argument 'clientId'\n/],
      ['status now', /^error: too many arguments/],
      ['status --jsn', /^error: unknown option '--jsn'\n\(Did you mean --json\?\)\n/],
      ['node stop', /^no such command: node stop/]
    ] as const) {
      await fails(args.split(' '), 2, expected)
    }
  })

  test('a broker that does not run is told, with status 3', async t => {
    const home = makeHome(t, { conf: 'listener.tcp.x = 127.0.0.1:0\nnode.name = lamp@10.0.0.1' })
    for (const words of [['status'], ['clients', 'list'], ['listeners', '--json']]) {
      const { code, out, err } = await begin('broker-ctl', ['--home', home.root, ...words]).ended
      assert.deepEqual([code, out, err], [3, '', "Node 'lamp@10.0.0.1' not responding to pings.\n"])
    }
    const nowhere = await begin('broker-ctl', ['--home', join(home.root, 'nowhere'), 'status']).ended
    assert.deepEqual([nowhere.code, nowhere.err], [3, "Node 'broker@127.0.0.1' not responding to pings.\n"])
  })

  test('a broker of another user is told as such', { skip: process.getuid?.() !== 0 && 'needs root' }, async t => {
    const home = makeHome(t)
    home.makeSocketDir()
    chmodSync(home.root, 0o755)
    const other = net.createServer().listen(home.adminSocket)
    t.after(() => void other.close())
    await new Promise(resolve => other.once('listening', resolve))
    chmodSync(home.adminSocket, 0o600)
    const told = `${home.adminSocket} is closed to this user: run this as the user who runs the broker\n`
    const asNobody = (program: 'broker' | 'broker-ctl', word: string): Promise<Ended> =>
      begin(program, ['--home', home.root, word], { uid: 65534, cwd: '/' }).ended
    for (const [program, word, status] of [
      ['broker-ctl', 'status', 1],
      ['broker', 'ping', 1],
      ['broker', 'status', 4]
    ] as const) {
      const { code, out, err } = await asNobody(program, word)
      if (/Cannot find module|EACCES.*bin/.test(err)) return t.skip('the checkout is closed to others')
      assert.deepEqual([code, out, err], [status, '', told], `${program} ${word}`)
    }
  })
})

/** The modules that a program loads, as files; and how it ends. */
function loadedBy(t: TestContext, args: readonly string[]): { status: number | null; files: string[] } {
  const dir = mkdtempSync(join(tmpdir(), 'broker-loads-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const list = join(dir, 'list')
  writeFileSync(list, '')
  // What is imported is seen by a hook, what is required by the cache of require().
  const hook = `import { appendFileSync } from 'node:fs'
    export const load = (url, context, next) => {
      appendFileSync(${JSON.stringify(list)}, url + '\\n')
      return next(url, context)
    }`
  const preload = `import { appendFileSync } from 'node:fs'
    import { createRequire, register } from 'node:module'
    register(${JSON.stringify(`data:text/javascript,${encodeURIComponent(hook)}`)})
    process.on('exit', () => {
      for (const file of Object.keys(createRequire('/').cache)) appendFileSync(${JSON.stringify(list)}, file + '\\n')
    })`
  const metered = ['--import', `data:text/javascript,${encodeURIComponent(preload)}`, ...args]
  const { status } = spawnSync(process.execPath, metered, { stdio: 'ignore' })
  return { status, files: readFileSync(list, 'utf8').split('\n') }
}

test('broker-ctl loads little before it knows what it is to do, so that it starts at once: `npm run bench:promises`', t => {
  const { root } = makeHome(t)
  const ctl = join(packageRoot, 'bin/broker-ctl')
  for (const [words, code, packages] of [
    [['--version'], 0, ['commander']],
    [['--help'], 0, ['commander']],
    [['status'], 3, ['commander']],
    [['clients', 'list'], 3, ['commander']]
  ] as const) {
    const { status, files } = loadedBy(t, [ctl, '--home', root, ...words])
    assert.equal(status, code)
    const found = files.flatMap(file => /.*node_modules\/((@[^/]+\/)?[^/]+)\//.exec(file)?.[1] ?? [])
    assert.deepEqual([...new Set(found)].sort(), packages, words.join(' '))
    const ours = files.filter(file => /\/dist\/src\//.test(file)).map(file => file.replace(/.*\/dist\/src\//, ''))
    assert.ok(ours.includes('cli/ctl.js'), words.join(' '))
    const big = ours.filter(file =>
      /^(server|broker|plugins|log|reload)\.js$|^(control|delivery|store|net|mgmt)\//.test(file)
    )
    assert.deepEqual(big, [], words.join(' '))
  }
  const all = loadedBy(t, ['--input-type=module', '-e', `import '${new URL('../../src/index.js', import.meta.url)}'`])
  assert.ok(
    all.files.some(file => file.includes('node_modules/aedes/')),
    'what is loaded is seen'
  )
})
