/** `broker doctor`: every check is provoked, with the real program where a program can be made to see it. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { stripVTControlCharacters } from 'node:util'
import type { Home } from '../../src/base/home.js'
import { lock } from '../../src/base/lock.js'
import { doctor, examine as examineIn, type Report, thisHost } from '../../src/cli/doctor/doctor.js'
import type { Host } from '../../src/cli/doctor/finding.js'
import { loads, node, satisfies } from '../../src/cli/doctor/software.js'
import { ensureCertificates } from '../../src/net/certificates.js'
import { begin, instance, packageRoot } from '../support/cli.js'
import { makeHome, startServer, until } from '../support/server.js'

type Asked = Report & { code: number | null }

/** A broker and a check have a minute to answer, so that only what hangs is late. */
const patient = { pingMs: 60_000, checkMs: 60_000 }
const examine = (home: Home, host: Host): Promise<Report> => examineIn(home, host, patient)

/** What `broker doctor --json` says, and its exit status. */
async function asked(home: Home): Promise<Asked> {
  let text = ''
  const out = (line: string): void => {
    text += line
  }
  const code = await doctor(home, { out, err: assert.fail }, { json: true, ...patient })
  return { ...(JSON.parse(text) as Report), code }
}

/** The same by the real program, which is not patient: on a busy host it says of any check that it is late. */
async function askedOutside(home: Home): Promise<Asked> {
  const { code, out, err } = await begin('broker', ['--home', home.root, 'doctor', '--json']).ended
  assert.equal(err, '')
  return { ...(JSON.parse(out) as Report), code }
}

function of({ checks }: Report, check: string | RegExp): Report['checks'][number] {
  const found = checks.find(f => (typeof check === 'string' ? f.check === check : check.test(f.check)))
  assert(found !== undefined, `${check} is not among ${checks.map(f => f.check).join(', ')}`)
  return found
}

/** This host, with some of its answers replaced. */
const host = (over: Partial<Host>): Host => ({ ...thisHost, ...over })
const reading = (files: Record<string, string>): Partial<Host> => ({
  read: file => files[file] ?? thisHost.read(file)
})

/** A port where somebody listens who does what `greet` does. */
async function taken(t: TestContext): Promise<number> {
  const server = createServer(socket => void t.after(() => socket.destroy()))
  await new Promise<void>(resolve => void server.listen(0, '127.0.0.1', resolve))
  t.after(() => server.close())
  return (server.address() as AddressInfo).port
}

const few = 'listener.tcp.test = 127.0.0.1:0\nlistener.tcp.test.max_clients = 100\nmqtt.acl_nomatch = deny\n'

suite('broker doctor', { concurrency: 2 }, () => {
  test('is content with a home that is in order, and changes nothing in it', async t => {
    const home = makeHome(t, { conf: few })
    const everything = (): unknown[] =>
      readdirSync(home.root, { recursive: true, encoding: 'utf8' })
        .sort()
        .map(name => [name, statSync(join(home.root, name)).mtimeMs, statSync(join(home.root, name)).mode])
    const before = everything()
    const report = await examine(
      home,
      host({
        run: async command => (command === 'timedatectl' ? 'yes\n' : undefined),
        ...reading({ '/proc/sys/net/ipv4/tcp_wmem': '4096 16384 4194304' })
      })
    )
    assert.deepEqual(
      report.checks.filter(f => f.verdict !== 'ok' && f.verdict !== 'unknown'),
      []
    )
    assert.equal(report.worst, 'ok')
    const silent = { out: () => {}, err: () => {} }
    assert.equal((await doctor(home, silent, { json: true, host: host({}), ...patient })) % 5, 0)
    const real = await askedOutside(home)
    assert.ok(real.code === 0 || real.code === 5)
    assert.deepEqual(everything(), before)
    for (const group of ['Configuration', 'Broker', 'Ports', 'Access', 'Limits', 'Disk', 'Software and clock'])
      assert.ok(
        real.checks.some(f => f.group === group),
        group
      )
  })

  test('warnings give 5, errors 1, and every one says why and what to do', async t => {
    const home = makeHome(t, { conf: 'listener.tcp.test = 127.0.0.1:0\n' })
    const open = await askedOutside(home)
    assert.equal(open.code, 5)
    assert.equal(of(open, 'mqtt.acl_nomatch').verdict, 'warning')
    const bad = makeHome(t, { conf: 'listener.tcp.test = 0.0.0.0:0\nmqtt.allow_anonymous = true\n' })
    const report = await askedOutside(bad)
    assert.equal(report.code, 1)
    assert.equal(of(report, 'mqtt.allow_anonymous').verdict, 'error')
    assert.match(of(report, 'mqtt.allow_anonymous').found, /tcp:test \(0\.0\.0\.0:0\)/)
    const alone = await examine(makeHome(t, { conf: `${few}mqtt.allow_anonymous = true\n` }), thisHost)
    assert.equal(of(alone, 'mqtt.allow_anonymous').verdict, 'warning', 'on this host only')
    for (const f of [...open.checks, ...report.checks, ...alone.checks]) {
      if (f.verdict !== 'warning' && f.verdict !== 'error') continue
      assert.ok((f.why ?? '') !== '' && (f.mend ?? []).length > 0, f.check)
    }
  })

  test('for people: groups, 80 columns but for commands, and no colour into a pipe', async t => {
    const home = makeHome(t, { conf: `${few}mqtt.allow_anonymous = true\n` })
    const { out } = await begin('broker', ['--home', home.root, 'doctor']).ended
    let text = ''
    const take = (lines: string): void => {
      text += `${lines}\n`
    }
    await doctor(home, { out: take, err: assert.fail }, { json: false, ...patient })
    assert.match(stripVTControlCharacters(text), /^Configuration\n {2}ok {7}configuration {9}/)
    assert.match(out, /^Configuration\n {2}\w+ +configuration {9}/)
    assert.match(out, /^ {2}warning {2}mqtt\.allow_anonymous {2}true,/m)
    assert.match(out, /\n\d+ errors?, \d+ warnings?, \d+ ok/)
    assert.ok(!out.includes('\u001b'))
    const wide = out.split('\n').filter(line => line.length > 80 && !/→|^\s+\/|\/tmp|\/var/.test(line))
    assert.deepEqual(wide, [])
  })

  test('open files: a limit below the clients, and one below all use', async t => {
    const home = makeHome(t, { conf: few })
    const program = [process.execPath, join(packageRoot, 'bin/broker'), '--home', home.root, 'doctor', '--json']
    const { code, out } = await new Promise<{ code: number; out: string }>(resolve => {
      execFile('sh', ['-c', 'ulimit -n 64; exec "$@"', 'sh', ...program], (err, stdout) =>
        resolve({ code: Number(err?.code ?? 0), out: stdout })
      )
    })
    const files = of(JSON.parse(out) as Report, 'open files')
    assert.deepEqual([code, files.verdict], [1, 'error'])
    assert.match(files.found, /at most 64; listeners take up to 100 clients/)
    assert.match(files.mend!.join('\n'), process.platform === 'darwin' ? /launchctl limit/ : /limits\.d/)
    const many = makeHome(t, { conf: 'listener.tcp.test = 127.0.0.1:0\nlistener.tcp.test.max_clients = 90000000\n' })
    assert.equal(of(await examine(many, thisHost), 'open files').verdict, 'warning')
  })

  test('the tuning guide: each value of Linux is held against what the listeners ask for', async t => {
    const conf =
      'listener.tcp.test = 127.0.0.1:1883\nlistener.tcp.test.backlog = 5000\nlistener.tcp.test.max_clients = 300000\n'
    const home = makeHome(t, { conf })
    const linux = (files: Record<string, string>): Promise<Report> =>
      examine(home, host({ platform: 'linux', ...reading({ '/proc/self/limits': unlimited, ...files }) }))
    const unlimited = 'Max open files            unlimited            unlimited            files\n'
    const rows = [
      ['net.core.somaxconn', '4999', '5000'],
      ['net.ipv4.tcp_max_syn_backlog', '128', '5000'],
      ['net.core.netdev_max_backlog', '1000', '16384'],
      ['fs.file-max', '1000', '300100'],
      ['fs.nr_open', '300099', '300100'],
      ['net.netfilter.nf_conntrack_max', '65536', '300000'],
      ['net.ipv4.tcp_max_tw_buckets', '16384', '30000'],
      ['net.ipv4.tcp_rmem', '4096 8192 65536', '4096 8192 1048576'],
      ['net.ipv4.tcp_wmem', '4096 8192 65536', '4096 8192 1048576']
    ] as const
    const file = (name: string): string => `/proc/sys/${name.replaceAll('.', '/')}`
    const low = await linux(Object.fromEntries(rows.map(([name, value]) => [file(name), value])))
    const high = await linux(Object.fromEntries(rows.map(([name, , value]) => [file(name), value])))
    for (const [name, , needed] of rows) {
      assert.equal(of(low, name).verdict, 'warning', name)
      assert.ok(of(low, name).mend![0]!.includes(`${name}=${needed}`), of(low, name).mend![0])
      assert.equal(of(high, name).verdict, 'ok', name)
    }
    const range = file('net.ipv4.ip_local_port_range')
    const kept = file('net.ipv4.ip_local_reserved_ports')
    const name = 'net.ipv4.ip_local_port_range'
    assert.equal(of(await linux({ [range]: '32768\t60999', [kept]: '' }), name).verdict, 'ok')
    const inside = of(await linux({ [range]: '1000\t65535', [kept]: '8080' }), name)
    assert.deepEqual(
      [inside.verdict, inside.mend],
      ['warning', ['sudo sysctl -w net.ipv4.ip_local_reserved_ports=8080,1883']]
    )
    assert.equal(of(await linux({ [range]: '1000\t65535', [kept]: '1000-2000' }), name).verdict, 'ok')
    const poor = 'MemTotal: 8000000 kB\nMemAvailable: 1000000 kB\n'
    assert.equal(of(await linux({ '/proc/meminfo': poor }), 'memory').verdict, 'warning')
    assert.equal(of(await linux({ '/proc/meminfo': poor.replace('1000000', '50000') }), 'memory').verdict, 'error')
  })

  test('on macOS it asks sysctl and ulimit, and says what it cannot tell', async t => {
    const home = makeHome(t, { conf: few })
    const answers: Record<string, string> = {
      'sh -c ulimit -n': '150\n',
      'sysctl -n kern.ipc.somaxconn': '128\n',
      'sysctl -n kern.maxfiles': '49152\n'
    }
    const run = async (...words: string[]): Promise<string | undefined> => answers[words.join(' ')]
    const report = await examine(home, host({ platform: 'darwin', run }))
    assert.equal(of(report, 'open files').verdict, 'error')
    assert.match(of(report, 'open files').mend!.join('\n'), /sudo launchctl limit maxfiles/)
    assert.deepEqual(of(report, 'kern.ipc.somaxconn').mend, ['sudo sysctl -w kern.ipc.somaxconn=1024'])
    assert.equal(of(report, 'kern.maxfiles').verdict, 'ok')
    assert.equal(of(report, 'kern.maxfilesperproc').verdict, 'unknown')
    assert.equal(of(report, 'time service').verdict, 'unknown')
    const other = await examine(home, host({ platform: 'freebsd', run }))
    assert.match(of(other, 'kernel').found, /not known on freebsd/)
  })

  test('a port that is taken, and by whom', async t => {
    const port = await taken(t)
    const home = makeHome(t, { conf: `listener.tcp.test = 127.0.0.1:${port}\nlistener.ws.other = 192.0.2.1:9\n` })
    const report = await asked(home)
    assert.equal(report.code, 1)
    assert.match(of(report, 'tcp:test').found, new RegExp(`^127\\.0\\.0\\.1:${port} is taken by .*${process.pid}`))
    assert.equal(of(report, 'tcp:test').mend![0], `kill ${process.pid}`)
    assert.match(of(report, 'ws:other').found, /is no address of this host/)
  })

  test('the port of the management API, which stops no start', async t => {
    const port = await taken(t)
    const home = makeHome(t, { conf: `${few}listener.api.mgmt = 127.0.0.1:${port}\n` })
    const { verdict, found, why } = of(await asked(home), 'api:mgmt')
    assert.deepEqual([verdict, why], ['warning', 'without its port the broker runs without its management API'])
    assert.match(found, /is taken by/)
  })

  test('certificates: expired, soon to expire, not yet valid, with the wrong key, and none', async t => {
    const home = makeHome(t, { conf: 'listener.ssl.test = 127.0.0.1:0\n' })
    const check = 'etc/certs/cert.pem'
    const at = async (now: Date): Promise<Report['checks'][number]> =>
      of(await examine(home, host({ now: () => now })), new RegExp(`${check}$`))
    assert.match((await at(new Date())).found, /not there yet/)
    const day = 86_400_000
    await ensureCertificates(home.certs, { hostname: 'x' }, new Date(Date.now() - 900 * day))
    assert.match((await at(new Date())).found, /^expired on \d{4}/)
    assert.equal((await asked(home)).code, 1)
    assert.match((await at(new Date(Date.now() - 90 * day))).found, /^expires in \d+ days/)
    assert.equal((await at(new Date(Date.now() - 300 * day))).verdict, 'ok')
    assert.match((await at(new Date(Date.now() - 950 * day))).found, /^valid only from/)
    writeFileSync(join(home.certs, 'key.pem'), readFileSync(join(home.certs, 'client-key.pem')))
    assert.match((await at(new Date())).found, /is not its key$/)
    writeFileSync(join(home.certs, 'cert.pem'), 'nothing')
    assert.match((await at(new Date())).found, /^cannot be used/)
  })

  test('keys and passwords that others can read', async t => {
    const password = 'auth.pgsql.password = hush\n'
    const home = makeHome(t, { conf: 'listener.ssl.test = 127.0.0.1:0\n', plugins: { 'auth-pgsql': password } })
    await ensureCertificates(home.certs, { hostname: 'x' })
    const conf = home.path('etc/plugins/auth-pgsql.conf')
    chmodSync(conf, 0o600)
    assert.equal(of(await examine(home, thisHost), 'secrets').verdict, 'ok')
    chmodSync(join(home.certs, 'key.pem'), 0o644)
    chmodSync(join(home.certs, 'cakey.pem'), 0o640)
    chmodSync(conf, 0o644)
    const report = await asked(home)
    assert.equal(report.code, 1)
    const key = of(report, /etc\/certs\/key\.pem$/)
    assert.deepEqual([key.verdict, key.mend], ['error', [`chmod 600 ${join(home.certs, 'key.pem')}`]])
    assert.match(of(report, /cakey\.pem$/).found, /its group can read it/)
    assert.equal(of(report, /auth-pgsql\.conf$/).verdict, 'warning')
    assert.ok(!JSON.stringify(report).includes('hush'))
  })

  test('a configuration with problems: all of them, and what does not need it is looked at all the same', async t => {
    const home = makeHome(t, { conf: 'log.console.level = loud\nnonsense\n' })
    writeFileSync(home.path('etc/acl.conf'), '{allow, everybody}.\n')
    const report = await asked(home)
    assert.equal(report.code, 1)
    const { verdict, found } = of(report, 'configuration')
    assert.equal(verdict, 'error')
    for (const problem of [/"loud"/, /got "nonsense"/, /acl\.conf:1/]) assert.match(found, problem)
    assert.equal(of(report, 'ports').verdict, 'unknown')
    assert.equal(of(report, 'Node.js').verdict, 'ok')
    const plugin = makeHome(t, { conf: few, plugins: { 'auth-pgsql': 'auth.pgsql.pool = none\n' } })
    mkdirSync(plugin.data)
    writeFileSync(join(plugin.data, 'loaded_plugins'), 'auth_pgsql.\n')
    assert.match(of(await asked(plugin), 'configuration').found, /auth\.pgsql\.pool: .*"none"/)
    rmSync(home.conf)
    assert.match(of(await asked(home), 'configuration').found, /broker init/)
  })

  test("a plugin's database that is away, or never answers, is told", async t => {
    const silent = await taken(t)
    const home = makeHome(t, {
      conf: few,
      plugins: { 'auth-pgsql': `auth.pgsql.server = 127.0.0.1:${silent}\nauth.pgsql.auth_query = select 1\n` }
    })
    mkdirSync(home.data)
    writeFileSync(join(home.data, 'loaded_plugins'), 'auth_pgsql.\n')
    const never = await asked(home)
    assert.equal(of(never, 'auth-pgsql').verdict, 'error')
    assert.match(of(never, 'auth-pgsql').found, /^no answer within/)
    assert.match(of(never, 'auth-pgsql').mend![0]!, /broker-ctl plugins reload auth_pgsql$/)
    assert.equal(never.code, 1)
    // Where the host is so busy that the plugin is not even loaded in time, it is late.
    const outside = await askedOutside(home)
    assert.match(of(outside, 'auth-pgsql').verdict, /^(error|warning)$/)
    assert.match(of(outside, 'auth-pgsql').found, /no answer within/)
    writeFileSync(
      home.path('etc/plugins/auth-pgsql.conf'),
      'auth.pgsql.server = 127.0.0.1:1\nauth.pgsql.auth_query = select 1\n'
    )
    assert.match(of(await asked(home), 'auth-pgsql').found, /nothing listens at 127\.0\.0\.1:1/)
    assert.match(of(await asked(home), 'mqtt.allow_anonymous').found, /auth-pgsql decides/)
  })

  test('every check that was begun is in the report: what is late, what fails and what throws under its own name', async t => {
    const home = makeHome(t, { conf: few })
    const ok = { verdict: 'ok', found: 'there' } as const
    const late = { check: 'never', why: 'because', findings: new Promise<never>(() => {}) }
    const { worst, checks } = await examineIn(home, thisHost, {
      checkMs: 20,
      of: [
        [
          'First',
          () => [{ check: 'at once', ...ok }, late, { check: 'fails', findings: Promise.reject(new Error('broken')) }],
          () => [
            {
              check: 'several',
              findings: Promise.resolve([
                { check: 'one', ...ok },
                { check: 'two', ...ok }
              ])
            }
          ]
        ],
        ['Second', () => assert.fail('thrown'), () => [{ check: 'never more', findings: new Promise<never>(() => {}) }]]
      ]
    })
    assert.deepEqual(
      checks.map(({ group, check, verdict, found }) => [group, check, verdict, found]),
      [
        ['First', 'at once', 'ok', 'there'],
        ['First', 'never', 'warning', 'late: no answer within 0.02 s'],
        ['First', 'fails', 'unknown', 'broken'],
        ['First', 'one', 'ok', 'there'],
        ['First', 'two', 'ok', 'there'],
        ['Second', 'second', 'unknown', 'thrown'],
        ['Second', 'never more', 'warning', 'late: no answer within 0.02 s']
      ]
    )
    assert.equal(worst, 'warning')
    for (const { check, verdict, why, mend } of checks)
      if (verdict === 'warning') assert.ok(why !== undefined && mend!.length > 0, check)
    assert.equal(checks[1]!.why, 'because')
  })

  test('on a host that never answers every check of ours is there, under the name that it has elsewhere', async t => {
    const home = makeHome(t, {
      conf: `${few}listener.ws.other = 127.0.0.1:0\nstore.type = lmdb\n`,
      plugins: { 'auth-pgsql': 'auth.pgsql.server = 127.0.0.1:1\nauth.pgsql.auth_query = select 1\n' }
    })
    mkdirSync(home.data)
    writeFileSync(join(home.data, 'loaded_plugins'), 'auth_pgsql.\n')
    const names = ({ checks }: Report): string[] => checks.map(({ group, check }) => `${group}: ${check}`)
    const never = (): Promise<never> => new Promise(() => {})
    const silent = await examineIn(home, host({ platform: 'linux', run: never, statfs: never }), { checkMs: 1 })
    // What the plugin has warned of is known only once it has answered.
    const all = names(await examine(home, host({ platform: 'linux' }))).filter(name => name !== 'Access: plugins')
    assert.deepEqual(
      names(silent).filter(name => name !== 'Access: plugins'),
      all
    )
    for (const name of [/data\/$/, /log\/$/, 'time service'])
      assert.match(of(silent, name).found, /^late: no answer within 0\.001 s$/)
  })

  test('disk space, inodes and rights; what the log may grow to', async t => {
    const home = makeHome(t, { conf: few })
    const disk = (free: number, inodes = 1e6): Partial<Host> => ({
      statfs: async path => ({
        ...(await thisHost.statfs(path)),
        bsize: 4096,
        bavail: free / 4096,
        files: 1e6,
        ffree: inodes
      })
    })
    const data = async (over: Partial<Host>): Promise<string> => of(await examine(home, host(over)), /data\/$/).verdict
    assert.deepEqual(
      [await data(disk(5e9)), await data(disk(5e8)), await data(disk(5e7)), await data(disk(5e9, 100))],
      ['ok', 'warning', 'error', 'warning']
    )
    writeFileSync(home.conf, `${few}log.console.size = 2GB\n`)
    const log = of(await examine(home, host(disk(5e9))), /log\/$/)
    assert.equal(log.verdict, 'warning')
    assert.match(log.found, /may grow by 12\.\d GB/)
    mkdirSync(home.data)
    if (process.getuid?.() === 0) return // for whom every directory can be written
    chmodSync(home.data, 0o500)
    t.after(() => chmodSync(home.data, 0o700))
    assert.match(of(await asked(home), /data\/$/).found, /cannot be written by this user/)
  })

  test('the store: its size and room, how it is synced, what was put aside, and the last backup', async t => {
    const home = makeHome(t, { conf: `${few}store.type = memory\n` })
    const conf = (text: string): void => writeFileSync(home.conf, `${few}${text}`)
    const seen = (over: Partial<Host> = {}): Promise<Report> => examine(home, host(over))
    assert.match(of(await seen(), 'store').found, /^in memory/)
    conf('store.type = lmdb\n')
    const empty = await seen()
    assert.match(of(empty, 'data/store/data.mdb').found, /^nothing is stored yet$/)
    assert.ok(!empty.checks.some(({ check }) => check === 'last backup'))
    mkdirSync(home.path('data/store'), { recursive: true })
    writeFileSync(home.path('data/store/data.mdb'), Buffer.alloc(3 * 1024 ** 2, 1))
    const there = await seen()
    assert.match(of(there, 'data/store/data.mdb').found, /^3\.0 MB, .* free beside it$/)
    assert.deepEqual([of(there, 'store.sync').verdict, of(there, 'last backup').verdict], ['ok', 'unknown'])
    const full = await seen({ statfs: async path => ({ ...(await thisHost.statfs(path)), bsize: 1024, bavail: 2048 }) })
    assert.equal(of(full, 'data/store/data.mdb').verdict, 'warning')
    assert.match(of(full, 'data/store/data.mdb').found, /2\.0 MB free/)
    writeFileSync(home.path('data/store.restore.mdb'), '')
    assert.match(of(await seen(), 'data/store/data.mdb').found, /the next start takes a backup in its place$/)

    mkdirSync(home.path('data/store.bad-2026-11-23T00-00-00'))
    writeFileSync(home.path('data/store.bad-2026-11-23T00-00-00/data.mdb'), Buffer.alloc(1024 ** 2, 1))
    mkdirSync(home.path('data/store.before-restore-2026-11-23T00-00-00'))
    const aside = await seen()
    assert.match(of(aside, 'damaged store').found, /^put aside: data\/store\.bad-2026-11-23T00-00-00 \(1\.0 MB\)$/)
    assert.equal(of(aside, 'damaged store').verdict, 'warning')
    assert.match(of(aside, 'store before restore').found, /before-restore-2026/)

    conf('store.sync = interval\nstore.sync_interval = 5s\n')
    assert.match(of(await seen(), 'store.sync').found, /the last 5 s may be lost/)
    conf('store.sync = off\nstore.dir = elsewhere/store\n')
    const off = await seen()
    assert.equal(of(off, 'store.sync').verdict, 'warning')
    assert.match(of(off, 'elsewhere/store/').found, / free$/)
    assert.equal(of(off, 'elsewhere/store/data.mdb').verdict, 'ok')
    assert.ok(!off.checks.some(({ check }) => check === 'damaged store'))
  })

  test('a backup that was made is known, and the alarms of a broker that runs', async t => {
    const { server, home, admin } = await startServer(t, { conf: 'store.type = lmdb\n' })
    const copy = home.path('copy.mdb')
    assert.equal(of(await asked(home), 'alarms').verdict, 'ok')
    await admin.call('store backup', { file: copy })
    server.alarms.raise('queue_high_watermark.x', 'warning', 'a queue is nearly full')
    server.alarms.raise('queue_high_watermark.y', 'warning', 'a queue is nearly full')
    const report = await asked(home)
    assert.equal(of(report, 'last backup').found, `0 hours ago, ${copy}`)
    assert.deepEqual(
      [of(report, 'alarms').verdict, of(report, 'alarms').found],
      ['warning', '2: a queue is nearly full']
    )
    const { store, alarms } = await admin.call('status', {})
    assert.ok(store.type === 'lmdb' && store.size !== null && store.size > 0)
    assert.equal(alarms, 2)
    rmSync(copy)
    server.alarms.raise('store_unwritable', 'critical', 'the store cannot be written')
    const worse = await asked(home)
    assert.match(of(worse, 'last backup').found, /it is not there any more$/)
    assert.equal(of(worse, 'alarms').verdict, 'error')
  })

  test('the clock: wrong years, files from the future, and a time service', async t => {
    const home = makeHome(t, { conf: few })
    const now = (at: string): Host => host({ now: () => new Date(at) })
    assert.equal(of(await examine(home, now('1970-01-02')), 'clock').verdict, 'error')
    assert.match(of(await examine(home, now('2025-02-01')), 'clock').found, /etc\/broker\.conf is from the future$/)
    const ntp = async (answer: string | undefined): Promise<string> =>
      of(await examine(home, host({ platform: 'linux', run: async () => answer })), 'time service').verdict
    assert.deepEqual([await ntp('yes\n'), await ntp('no\n'), await ntp(undefined)], ['ok', 'warning', 'unknown'])
  })

  test('Node, packages and what is compiled', async () => {
    assert.equal(node('20.19.0', '>=20.19').verdict, 'ok')
    assert.equal(node('18.20.4', '>=20.19').verdict, 'error')
    assert.equal(node('20.9.0', '>=20.19').verdict, 'error')
    for (const [version, wanted, fits] of [
      ['1.2.0', '1.2.0', true],
      ['1.2.1', '1.2.0', false],
      ['5.6.2', '^5.6.2', true],
      ['5.10.0', '^5.6.2', true],
      ['5.6.1', '^5.6.2', false],
      ['6.0.0', '^5.6.2', false],
      ['0.3.0', '^0.2.2', false]
    ] as const)
      assert.equal(satisfies(version, wanted), fits, `${version} ${wanted}`)
    assert.equal((await loads('bcrypt')).verdict, 'ok')
    const absent = await loads('no-such-module-of-ours')
    assert.equal(absent.verdict, 'error')
    assert.match(absent.mend![0]!, /^npm rebuild no-such-module-of-ours/)
  })

  test('a broker that runs: its ports, its clients, its trouble; and one that does not answer', async t => {
    const running = await startServer(t, {
      conf: 'listener.tcp.test = 127.0.0.1:0\nlistener.tcp.test.max_clients = 1\n'
    })
    const report = await asked(running.home)
    assert.match(of(report, 'broker').found, /broker@127\.0\.0\.1 is running, pid \d+, for \d+ s$/)
    assert.match(of(report, 'pm2').found, /^none/)
    assert.match(of(report, 'tcp:test').found, /^127\.0\.0\.1:\d+ is open, 0 of 1 clients$/)
    writeFileSync(running.home.conf, 'listener.tcp.test = 127.0.0.1:0\nlistener.tcp.more = 127.0.0.1:0\n')
    assert.match(of(await asked(running.home), 'tcp:more').found, /configured and not open/)

    const home = makeHome(t, { conf: few })
    mkdirSync(home.data)
    const free = lock(home.brokerLock)
    assert(typeof free === 'function')
    t.after(free)
    const silent = await askedOutside(home)
    assert.equal(silent.code, 1)
    assert.match(of(silent, 'broker').found, new RegExp(`pid ${process.pid} has this home and does not answer`))
    assert.equal(of(silent, 'tcp:test').verdict, 'unknown')
  })

  test('pm2: that it keeps the broker, how often that died, and the last crash', async t => {
    const { home, broker } = instance(t, { conf: few })
    assert.equal((await broker('start')).code, 0)
    assert.match(of(await asked(home), 'pm2').found, /^pid \d+; no restart$/)
    const pid = Number((await broker('pid')).out)
    process.kill(pid, 'SIGKILL')
    await until('it is back', async () => {
      const { code, out } = await broker('pid')
      return code === 0 && Number(out) !== pid
    })
    writeFileSync(home.path('log/crash.log'), '2026-11-22T23:00:00.000Z TypeError: x is not a function\n    at y\n')
    const report = await asked(home)
    assert.match(of(report, 'pm2').found, /^pid \d+; 1 restart, the last \d{4}-\d\d-\d\d /)
    assert.equal(of(report, 'pm2').verdict, 'warning')
    assert.match(of(report, /crash\.log$/).found, /TypeError: x is not a function$/)
    assert.equal((await broker('stop')).code, 0)
    assert.match(of(await asked(home), 'broker').found, /^not running$/)
    writeFileSync(home.failure, JSON.stringify({ message: 'the port is taken' }))
    assert.match(of(await asked(home), 'broker').found, /did not start: the port is taken/)
  })
})
