/** The words of `broker` apart from the daemon: check, init, console, foreground, logs, attach; and how it finds a home. */
import assert from 'node:assert/strict'
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { version } from '../../src/base/home.js'
import { begin, type Ended, instance, packageRoot } from '../support/cli.js'
import { makeHome, startServer, until } from '../support/server.js'

const broker = (...args: string[]): Promise<Ended> => begin('broker', args).ended

function temporary(t: TestContext): string {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'broker-test-')))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

suite('broker', { concurrency: 2 }, () => {
  test('check is content, or shows all problems of all files with their places', async t => {
    const { root } = makeHome(t)
    const good = await broker('--home', root, 'check')
    assert.deepEqual(good, { ...good, code: 0, out: `${root}/etc/broker.conf is valid\n`, err: '' })
    const fromInside = await begin('broker', ['check'], { cwd: root }).ended
    assert.equal(fromInside.out, 'etc/broker.conf is valid\n')

    writeFileSync(join(root, 'etc/broker.conf'), 'log.console.level = loud\n\tlistener.tcp.x = 99999\n')
    writeFileSync(join(root, 'etc/acl.conf'), '%% mine\n{allow, everybody}.\n')
    const bad = await begin('broker', ['check'], { cwd: root }).ended
    assert.deepEqual([bad.code, bad.out], [1, ''])
    const lines = bad.err.split('\n')
    assert.match(lines[0]!, /^etc\/broker\.conf:1:21: log\.console\.level: .*"loud"/)
    assert.deepEqual(lines.slice(1, 3), ['  log.console.level = loud', `  ${' '.repeat(20)}^`])
    assert.match(lines[3]!, /^etc\/broker\.conf:2:19: listener\.tcp\.x: .*99999/)
    assert.ok(
      lines.some(line => /^etc\/acl\.conf:2:\d+: /.test(line)),
      bad.err
    )

    rmSync(join(root, 'etc/acl.conf'))
    writeFileSync(join(root, 'etc/broker.conf'), 'listener.tcp.x = 127.0.0.1:0\n')
    mkdirSync(join(root, 'data'))
    writeFileSync(join(root, 'data/loaded_plugins'), 'auth_pgsqll.\n')
    const missing = await begin('broker', ['check'], { cwd: root }).ended
    assert.match(missing.err, /acl\.conf.*no such file.*\(mqtt\.acl_file\)/)
    writeFileSync(join(root, 'etc/acl.conf'), '')
    const plugin = await begin('broker', ['check'], { cwd: root }).ended
    assert.match(plugin.err, /data\/loaded_plugins names a plugin that is not there: not_found/)
  })

  test('init lays out a home that is valid, and keeps what is there', async t => {
    const dir = join(temporary(t), 'my home')
    const made = await broker('init', dir)
    assert.deepEqual([made.code, made.err], [0, ''])
    assert.match(
      made.out,
      /^made {2}etc\/acl\.conf\nmade {2}etc\/broker\.conf\nmade {2}etc\/plugins\/auth-pgsql\.conf\n/
    )
    assert.ok(made.out.endsWith(`\n${dir} is a home of the broker. Next:\n  cd '${dir}'\n  broker start\n`))
    assert.deepEqual(readdirSync(dir).sort(), ['data', 'etc', 'log'])
    assert.equal(
      (await begin('broker', ['check'], { cwd: join(dir, 'log') }).ended).out,
      `${dir}/etc/broker.conf is valid\n`
    )

    writeFileSync(join(dir, 'etc/acl.conf'), '{allow, all}.\n')
    rmSync(join(dir, 'etc/broker.conf'))
    const again = await begin('broker', ['init'], { cwd: dir }).ended
    assert.match(again.out, /^kept {2}etc\/acl\.conf\nmade {2}etc\/broker\.conf\n(?:.|\n)*Next:\n {2}broker start\n$/)
    assert.equal(readFileSync(join(dir, 'etc/acl.conf'), 'utf8'), '{allow, all}.\n')

    const file = join(dir, 'file')
    writeFileSync(file, '')
    const impossible = await broker('init', file)
    assert.deepEqual([impossible.code, impossible.out], [1, ''])
    assert.match(impossible.err, /^E\w+: [^\n]*\n$/, 'what the system says, and no stack')
  })

  test('version, help and wrong words', async t => {
    for (const word of ['version', '--version', '-V']) assert.equal((await broker(word)).out, `${version}\n`)
    const help = await broker('--help')
    assert.equal(help.code, 0)
    for (const word of [
      'start',
      'stop',
      'restart',
      'console',
      'foreground',
      'ping',
      'pid',
      'status',
      'logs',
      'attach',
      'check',
      'init',
      'version'
    ])
      assert.match(help.out, new RegExp(`^  ${word} `, 'm'))
    assert.ok(!/^ {2}(daemon|keep) /m.test(help.out))
    assert.match((await broker('start', '--help')).out, /--no-wait .*\n.*-t, --timeout <seconds> .*WAIT_FOR_BROKER/)

    const bare = await broker()
    assert.deepEqual([bare.code, bare.err], [1, help.out], 'as emqttd')
    const { root } = makeHome(t)
    for (const [args, expected] of [
      [['strat'], "error: unknown command 'strat'\n(Did you mean start?)\n"],
      [['start', 'now'], /^error: too many arguments/],
      [
        ['start', '-t', 'soon'],
        /^error: option '-t, --timeout <seconds>' argument 'soon' is invalid\. expected a number/
      ],
      [['stop', '-t', '-1'], /invalid\. expected a number/],
      [['logs', '-n', 'x'], /invalid\. expected a number/],
      [['status', '--jsn'], "error: unknown option '--jsn'\n(Did you mean --json?)\n"]
    ] as const) {
      const { code, out, err } = await broker('--home', root, ...args)
      assert.deepEqual([code, out], [2, ''], args.join(' '))
      if (typeof expected === 'string') assert.equal(err, expected)
      else assert.match(err, expected)
    }
    const variable = await begin('broker', ['start'], { env: { WAIT_FOR_BROKER: 'soon', BROKER_HOME: root } }).ended
    assert.equal(variable.code, 2)
    assert.match(variable.err, /'soon' from env 'WAIT_FOR_BROKER' is invalid/)
    const other = await begin('broker', ['status'], { env: { WAIT_FOR_BROKER: 'soon', BROKER_HOME: root } }).ended
    assert.equal(other.code, 3, 'it matters to start only')
    assert.equal(existsSync(join(root, 'data')), false)
  })

  test('a home is found by --home, BROKER_HOME, from the current directory up, else the package’s own', async t => {
    const homes = ['a@1', 'b@1', 'c@1'].map(
      name => makeHome(t, { conf: `listener.tcp.x = 127.0.0.1:0\nnode.name = ${name}` }).root
    )
    const [a, b, c] = homes as [string, string, string]
    const named = async (args: string[], options: Parameters<typeof begin>[2]): Promise<string> =>
      /'(.*)'/.exec((await begin('broker', ['status', ...args], options).ended).out)![1]!
    assert.equal(await named(['--home', a], { env: { BROKER_HOME: b }, cwd: c }), 'a@1')
    assert.equal(await named([], { env: { BROKER_HOME: b }, cwd: c }), 'b@1')
    assert.equal(await named([], { cwd: join(c, 'etc') }), 'c@1')
    const ctl = await begin('broker-ctl', ['status'], { env: { BROKER_HOME: b }, cwd: c }).ended
    assert.equal(ctl.err, "Node 'b@1' not responding to pings.\n")
    const own = await begin('broker', ['check'], { cwd: temporary(t) }).ended
    assert.equal(own.out, `${packageRoot}etc/broker.conf is valid\n`)
  })

  test('a home that is not there is told by every word that needs one, and not made', async t => {
    const nowhere = join(temporary(t), 'nowhere')
    const told = `${nowhere} is not a home of the broker: it has no etc/broker.conf.\nMake it one with \`broker init <dir>\`, or name another with --home <dir>.\n`
    for (const word of ['start', 'restart', 'check', 'console', 'foreground', 'logs']) {
      const { code, out, err } = await broker('--home', nowhere, word)
      assert.deepEqual([code, out, err], [1, '', told], word)
    }
    const stop = await broker('--home', nowhere, 'stop')
    assert.deepEqual([stop.code, stop.err], [1, "Node 'broker@127.0.0.1' not responding to pings.\n"])
    assert.deepEqual([(await broker('--home', nowhere, 'status')).code, existsSync(nowhere)], [3, false])
  })

  test('a home that may not be written is told, with no stack', { skip: process.platform === 'win32' }, async t => {
    const { root } = makeHome(t)
    const nobody = process.getuid?.() === 0 ? { uid: 65534 } : {} // root may write anywhere
    chmodSync(root, 0o555)
    try {
      for (const [word, expected] of [
        ['start', /^cannot write to .*\/data \(EACCES\); make a home of your own with `broker init <dir>`\n$/],
        ['foreground', /^EACCES: permission denied, mkdir '.*\/log'\n$/],
        ['init', /^EACCES: permission denied, mkdir '.*'\n$/]
      ] as const) {
        const { code, out, err } = await begin('broker', ['--home', root, word], { ...nobody, cwd: '/' }).ended
        if (/Cannot find module|EACCES.*bin/.test(err)) return t.skip('the checkout is closed to others')
        assert.deepEqual([code, out], [1, ''], word)
        assert.match(err, expected)
      }
    } finally {
      chmodSync(root, 0o755)
    }
  })

  test('console shows a readable log, and Ctrl-C stops it', async t => {
    const i = instance(t)
    const console_ = i.begin('console')
    await until('it runs', () => console_.out().includes('broker is running'))
    assert.match(
      console_.out(),
      /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \[info\] listening listener=tcp:test on=127\.0\.0\.1:\d+\n/m
    )
    console_.child.kill('SIGINT')
    const { code, out, err } = await console_.ended
    assert.deepEqual([code, err], [0, ''])
    assert.match(out, /\[info\] received SIGINT\n(?:.|\n)*broker is stopped\n$/)
    assert.deepEqual([i.traces(), i.processes().size], [[], 0])
    assert.match(readFileSync(i.home.path('log/broker.log'), 'utf8'), /broker is stopped/, 'the file has it as well')
  })

  test('foreground logs JSON on standard output, goes on when nobody reads it, and ends with 0 on SIGTERM', async t => {
    const i = instance(t)
    const foreground = i.begin('foreground')
    await until('it runs', () => foreground.out().includes('broker is running'))
    const second = await i.broker('foreground')
    assert.equal(second.code, 1)
    assert.match(
      second.err,
      new RegExp(`^Node is already running! \\(broker@127.0.0.1, pid ${foreground.child.pid}\\)\n$`)
    )
    const events = foreground
      .out()
      .trim()
      .split('\n')
      .map(line => JSON.parse(line))
    assert.deepEqual([events.at(-1).level, events.at(-1).pid], ['info', foreground.child.pid])

    foreground.child.stdout!.destroy()
    await i.ctl('acl', 'reload')
    assert.equal((await i.broker('ping')).out, 'pong\n')
    foreground.child.kill('SIGTERM')
    assert.equal((await foreground.ended).code, 0)
    assert.deepEqual([i.traces(), i.processes().size], [[], 0])
  })

  test('a console that cannot start says why, once', async t => {
    const { home, port } = await startServer(t)
    const i = instance(t, { conf: `listener.tcp.x = 127.0.0.1:${port}\n` })
    const { code, out, err } = await i.broker('console')
    assert.equal(code, 1)
    assert.match(err, /^listener\.tcp\.x: cannot listen on 127\.0\.0\.1:\d+: the port is taken[^\n]*\n$/)
    assert.ok(!out.includes('cannot listen'))
    const taken = await broker('--home', home.root, 'console')
    assert.match(taken.err, /^Node is already running! \(.*pid \d+\)\n$/)
  })

  // ── logs ───────────────────────────────────────────────────────────────────

  const numbered = (from: number, to: number): string =>
    Array.from({ length: to - from + 1 }, (_, i) => `line ${from + i} ü\n`).join('')

  function homeWithLog(t: TestContext, conf = ''): { root: string; log: string } {
    const { root } = makeHome(t, { conf })
    mkdirSync(join(root, 'log'))
    return { root, log: join(root, 'log/broker.log') }
  }

  test('logs shows the last lines, of rotated files as well', async t => {
    const { root, log } = homeWithLog(t)
    const none = await broker('--home', root, 'logs')
    assert.deepEqual([none.code, none.err], [1, `there is no ${log} yet\n`])
    writeFileSync(`${log}.2`, numbered(1, 10_000))
    writeFileSync(`${log}.1`, numbered(10_001, 20_000))
    writeFileSync(log, numbered(20_001, 20_003))
    assert.equal((await broker('--home', root, 'logs', '-n', '2')).out, numbered(20_002, 20_003))
    assert.equal((await broker('--home', root, 'logs')).out, numbered(19_904, 20_003))
    assert.equal((await broker('--home', root, 'logs', '-n', '15000')).out, numbered(5004, 20_003))
    assert.equal((await broker('--home', root, 'logs', '-n', '1000000')).out, numbered(1, 20_003))
    assert.equal((await broker('--home', root, 'logs', '-n', '0')).out, '')
    const early = begin('broker', ['--home', root, 'logs', '-n', '20000'])
    early.child.stdout!.once('data', () => early.child.stdout!.destroy())
    const { code, err } = await early.ended
    assert.deepEqual([code, err], [0, ''], 'a reader such as head may leave')
  })

  test('logs shows the file that the log goes to', async t => {
    const { root, log } = homeWithLog(t, 'log.console = console')
    writeFileSync(log, 'old\n')
    writeFileSync(join(root, 'log/crash.log'), 'new\n')
    assert.equal((await broker('--home', root, 'logs')).out, 'new\n')
    writeFileSync(join(root, 'etc/broker.conf'), 'listener.tcp.x = 127.0.0.1:0\nlog.console = off\n')
    const off = await broker('--home', root, 'logs')
    assert.deepEqual([off.code, off.err], [1, 'no log is kept: log.console is off\n'])
  })

  test('logs -f goes on over rotations, and loses and repeats nothing', async t => {
    const { root, log } = homeWithLog(t)
    const follower = begin('broker', ['--home', root, 'logs', '-f'])
    t.after(() => void follower.child.kill('SIGKILL'))
    await new Promise(resolve => setTimeout(resolve, 300)) // most likely it waits already for a file that is not there
    writeFileSync(log, numbered(1, 3))
    await until('the first lines', () => follower.out() === numbered(1, 3))

    appendFileSync(log, `${numbered(4, 6)}li`)
    rotate(log)
    writeFileSync(log, numbered(8, 9)) // with the torn line lost, as a crash would lose it
    rotate(log)
    writeFileSync(log, numbered(10, 11))
    const expected = `${numbered(1, 6)}liline 8 ü\n${numbered(9, 11)}`
    await until('three files', () => follower.out().length >= expected.length)
    assert.equal(follower.out(), expected)

    const [half, rest] = [Buffer.from('ü\n').subarray(0, 1), Buffer.from('ü\n').subarray(1)]
    appendFileSync(log, half)
    await new Promise(resolve => setTimeout(resolve, 300))
    appendFileSync(log, rest)
    await until('a letter that came in halves', () => follower.out() === `${expected}ü\n`)
    writeFileSync(log, 'anew\n') // emptied in its place
    await until('the new beginning', () => follower.out() === `${expected}ü\nanew\n`)

    function rotate(file: string): void {
      if (existsSync(`${file}.1`)) renameSync(`${file}.1`, `${file}.2`)
      renameSync(file, `${file}.1`)
    }
  })

  // ── attach ─────────────────────────────────────────────────────────────────

  test('attach takes commands and shows the log; its end leaves the broker running', async t => {
    const { home, server } = await startServer(t)
    const attach = (input: string): Promise<Ended> => begin('broker', ['--home', home.root, 'attach'], { input }).ended
    const hello = new RegExp(`^attached to broker@127\\.0\\.0\\.1 \\(pid ${process.pid}\\); Ctrl-D detaches\n`)

    const some = await attach('status\nbroker-ctl acl reload\n\nclients show "my lamp"\nclientz\nexit\nstatus\n')
    assert.equal(some.code, 0)
    assert.match(some.out, hello)
    assert.equal(some.out.match(/is running\n/g)?.length, 1, 'nothing after exit')
    assert.match(some.out, /^reload acl_internal successfully$/m)
    assert.equal(some.err, 'Not Found.\nno such command: clientz; did you mean clients?\n')
    const none = await attach('')
    assert.deepEqual([none.code, none.err], [0, ''])
    assert.match(none.out, hello)
    assert.equal(server.phase, 'running')
  })

  test('attach shows the log from its level on, and ends with the broker', async t => {
    const { home, server } = await startServer(t)
    const attached = begin('broker', ['--home', home.root, 'attach', '--level', 'warning'], { open: true })
    t.after(() => void attached.child.kill('SIGKILL'))
    await until('it shows the log', () => {
      server.log.info('too little')
      server.log.warning('look out')
      return /\[warning\] look out\n/.test(attached.out())
    })
    await server.stop('fast')
    const { code, out, err } = await attached.ended
    assert.deepEqual([code, err], [0, ''])
    assert.match(out, /the broker has stopped\n$/)
    assert.ok(!out.includes('too little'))
    const down = await broker('--home', home.root, 'attach')
    assert.deepEqual([down.code, down.out], [1, 'Node is not running!\n'])
  })
})
