// The README's walk, through the real programs, with the clients that a newcomer has.
import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import mqtt, { type IClientOptions } from 'mqtt'
import { type Postgres, startPostgres } from './support/postgres.js'
import { hangMs, until } from './support/server.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const mosquitto = has('mosquitto_pub')

function has(command: string): boolean {
  try {
    execFileSync('which', [command], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

interface Ended {
  status: number
  out: string
  err: string
}

async function run(command: string, args: string[]): Promise<Ended> {
  return await new Promise(resolve => {
    execFile(
      command,
      args,
      { cwd: tmpdir(), timeout: 5 * hangMs, env: { ...process.env, WAIT_FOR_BROKER: '600' } },
      (err, out, errors) => {
        resolve({ status: err === null ? 0 : ((err.code as number | undefined) ?? 1), out, err: errors })
      }
    )
  })
}

describe('the walk', () => {
  const home = mkdtempSync(join(tmpdir(), 'broker-walk-'))
  const undo: (() => Promise<void> | void)[] = [() => rmSync(home, { recursive: true, force: true })]
  const broker = (...args: string[]) => run(process.execPath, [join(root, 'bin/broker'), '--home', home, ...args])
  const ctl = (...args: string[]) => run(process.execPath, [join(root, 'bin/broker-ctl'), '--home', home, ...args])
  const ports: Record<string, number> = {}
  let postgres: Postgres
  let ca: Buffer
  let api: string | undefined

  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }

  before(async () => {
    postgres = await startPostgres({ after: each => void undo.push(each) })
    undo.push(async () => void (await broker('stop')))
    await postgres.query(
      `CREATE TABLE mqtt_user (id SERIAL primary key, is_superuser boolean, username character varying(100), password character varying(100));
       INSERT INTO mqtt_user (is_superuser, username, password) VALUES (false, 'testuser', '123456');`
    )
  })

  after(async () => {
    for (const each of undo.reverse()) await each()
  })

  const edit = (file: string, change: (text: string) => string): void => {
    const path = join(home, file)
    writeFileSync(path, change(readFileSync(path, 'utf8')))
  }

  /** Connects as the README shows; resolves to the CONNACK, rejects with the client's error. */
  async function connect(
    url: string,
    options: IClientOptions = {}
  ): Promise<{ returnCode?: number; reasonCode?: number; sessionPresent: boolean }> {
    const client = mqtt.connect(url, { reconnectPeriod: 0, connectTimeout: hangMs, ...options })
    try {
      return await new Promise((resolve, reject) => {
        client.once('connect', resolve)
        client.once('error', reject)
      })
    } finally {
      await client.endAsync(true)
    }
  }

  const url = (listener: string, host = '127.0.0.1'): string =>
    ({ tcp: `mqtt://${host}:`, ssl: `mqtts://${host}:`, ws: `ws://${host}:`, wss: `wss://${host}:` })[listener]! +
    ports[listener]! +
    (listener.startsWith('w') ? '/mqtt' : '')

  test('broker init lays out a home, and broker start says that it runs when it does', async () => {
    assert.equal((await run(process.execPath, [join(root, 'bin/broker'), 'init', home])).status, 0)
    edit('etc/broker.conf', text =>
      text.replace(/^(listener\.\w+\.external = )\d+$/gm, '$1127.0.0.1:0').replace('127.0.0.1:8080', '127.0.0.1:0')
    )
    edit('etc/plugins/auth-pgsql.conf', text =>
      text
        .replace(/^(auth\.pgsql\.server = ).*$/m, `$1${postgres.host}:${postgres.port}`)
        .replace(/^(auth\.pgsql\.username = ).*$/m, `$1${postgres.username}`)
        .replace(/^(auth\.pgsql\.password = ).*$/m, `$1${postgres.password}`)
        .replace(/^(auth\.pgsql\.database = ).*$/m, `$1${postgres.database}`)
    )
    const { status, out, err } = await broker('start')
    assert.equal(status, 0, err)
    api = /^listening on api:mgmt {7}(127\.0\.0\.1:\d+)$/m.exec(out)?.[1]
    assert.match(out, /^management API: user admin, its password is in .*\/data\/initial_admin_password$/m)
    assert.match(out, new RegExp(`broker ${version.replaceAll('.', '\\.')} is started successfully!\n$`))
    for (const [, name, port] of out.matchAll(/^listening on (\w+):external\s+127\.0\.0\.1:(\d+)$/gm))
      ports[name!] = Number(port)
    assert.deepEqual(Object.keys(ports), ['tcp', 'ssl', 'ws', 'wss'])
    ca = readFileSync(join(home, 'etc/certs/cacert.pem'))
  })

  test('broker-ctl status', async () => {
    const { status, out } = await ctl('status')
    assert.deepEqual([status, out], [0, `Node 'broker@127.0.0.1' is started\nbroker ${version} is running\n`])
  })

  test('the management API asks for the password that broker start has told of', async () => {
    const url = `http://${api}/api/v2/management/nodes`
    assert.equal((await fetch(url)).status, 401)
    const password = readFileSync(join(home, 'data/initial_admin_password'), 'utf8').trim()
    const authorization = `Basic ${Buffer.from(`admin:${password}`).toString('base64')}`
    const answer = await fetch(url, { headers: { authorization } })
    assert.match(await answer.text(), /^\{"code":0,"result":\[\{"name":"broker@127\.0\.0\.1","version":/)
  })

  test('MQTT.js connects without a password on all four listeners', async () => {
    const { returnCode, sessionPresent } = await connect(url('tcp'))
    assert.deepEqual([returnCode, sessionPresent], [0, false])
    await connect(url('ssl'), { rejectUnauthorized: false })
    await connect(url('ssl'), { ca })
    await connect(url('ssl', 'localhost'), { ca })
    await connect(url('ws'))
    await connect(url('wss'), { rejectUnauthorized: false })
    await connect(url('wss', 'localhost'), { ca })
    await assert.rejects(connect(url('ssl')), 'a certificate that nobody vouches for')
  })

  test('MQTT.js connects with MQTT 5 as well', async () => {
    assert.equal((await connect(url('tcp'), { protocolVersion: 5 })).reasonCode, 0)
  })

  test('broker-ctl plugins load auth_pgsql', async () => {
    const { status, out, err } = await ctl('plugins', 'load', 'auth_pgsql')
    assert.equal(status, 0, err)
    assert.equal(out, 'Start apps: [auth_pgsql]\nPlugin auth_pgsql loaded successfully.\n')
    assert.match(
      (await ctl('plugins', 'list')).out,
      /^Plugin\(auth_pgsql, version=\S+, description=.*PostgreSQL.*, active=true\)$/m
    )
  })

  test('MQTT.js is refused without the right password, and only then', async () => {
    const refused = { message: 'Connection refused: Bad username or password', code: 4 }
    await assert.rejects(connect(url('tcp')), refused)
    await assert.rejects(connect(url('tcp'), { username: 'testuser', password: 'wrong' }), refused)
    await assert.rejects(connect(url('tcp'), { username: "' or 1=1 --", password: '123456' }), refused)
    const right = { username: 'testuser', password: '123456' }
    assert.equal((await connect(url('tcp'), right)).returnCode, 0)
    const five = { protocolVersion: 5 as const }
    await assert.rejects(connect(url('tcp'), { ...five, username: 'testuser', password: 'wrong' }), { code: 0x86 })
    await connect(url('tcp'), { ...five, ...right })
    await connect(url('ssl', 'localhost'), { ca, ...right })
    await connect(url('wss', 'localhost'), { ca, ...right })
  })

  test('mosquitto_pub and mosquitto_sub, plain and over TLS', {
    skip: mosquitto ? false : 'mosquitto-clients is not installed'
  }, async () => {
    const cafile = ['--cafile', join(home, 'etc/certs/cacert.pem')]
    for (const [listener, more, version] of [
      ['tcp', [], 'mqttv311'],
      ['tcp', [], 'mqttv5'],
      ['ssl', cafile, 'mqttv5']
    ] as const) {
      const host = listener === 'tcp' ? '127.0.0.1' : 'localhost'
      const to = ['-V', version, '-h', host, '-p', String(ports[listener]), ...more]
      const login = ['-u', 'testuser', '-P', '123456']
      const sub = run('mosquitto_sub', [...to, ...login, '-t', 'walk/#', '-q', '1', '-C', '1', '-W', '60', '-v'])
      await untilSubscribed(listener)
      const pub = await run('mosquitto_pub', [...to, ...login, '-t', 'walk/a', '-m', `over ${listener}`, '-q', '1'])
      assert.deepEqual([pub.status, pub.err], [0, ''])
      assert.equal((await sub).out, `walk/a over ${listener}\n`)
      const refused = await run('mosquitto_pub', [...to, '-t', 'walk/a', '-m', 'x'])
      assert.notEqual(refused.status, 0)
    }

    async function untilSubscribed(listener: string): Promise<void> {
      const rows = async (list: string): Promise<Record<string, string>[]> =>
        JSON.parse((await ctl(list, 'list', '--json')).out) as Record<string, string>[]
      await until('it has subscribed', async () => {
        const [clients, subscriptions] = [await rows('clients'), await rows('subscriptions')]
        const here = clients.filter(c => c['listener'] === `${listener}:external`).map(c => c['client_id'])
        return subscriptions.some(s => s['topic'] === 'walk/#' && here.includes(s['client_id']))
      })
    }
  })

  test('broker restart: the plugin is remembered, and judges from the first connection on', async () => {
    assert.deepEqual(await broker('restart'), { status: 0, out: 'ok\n', err: '' })
    const { out } = await ctl('listeners', '--json')
    for (const { name, listen } of JSON.parse(out) as { name: string; listen: string }[]) {
      ports[name.split(':')[0]!] = Number(listen.split(':').at(-1))
    }
    await assert.rejects(connect(url('tcp')), { code: 4 })
    await connect(url('tcp'), { username: 'testuser', password: '123456' })
  })

  test("the plugin answers to the tutorial's own spelling, echoed as typed", async () => {
    assert.deepEqual(
      (await ctl('plugins', 'unload', 'emq_auth_pgsql')).out,
      'Plugin emq_auth_pgsql unloaded successfully.\n'
    )
    await connect(url('tcp'))
    assert.deepEqual(
      (await ctl('plugins', 'load', 'emq_auth_pgsql')).out,
      'Start apps: [emq_auth_pgsql]\nPlugin emq_auth_pgsql loaded successfully.\n'
    )
  })

  test('the database goes: logins are refused with 3, the connected stay, and it is found again', async () => {
    const right = { username: 'testuser', password: '123456' }
    const inside = await mqtt.connectAsync(url('tcp'), { reconnectPeriod: 0, ...right })
    try {
      await postgres.stop()
      await assert.rejects(connect(url('tcp'), right), { code: 3 })
      assert.match((await ctl('plugins', 'list')).out, /auth_pgsql.*active=true, trouble=/)
      assert.equal(inside.connected, true)
      await postgres.restart()
      await connect(url('tcp'), right)
      await until('no trouble', async () => !(await ctl('plugins', 'list')).out.includes('trouble'))
    } finally {
      await inside.endAsync(true)
    }
  })

  test('broker stop says ok and leaves nothing behind', async () => {
    assert.deepEqual(await broker('stop'), { status: 0, out: 'ok\n', err: '' })
    assert(!existsSync(join(home, 'data/admin.sock')))
    assert(!existsSync(join(home, 'data/pm2')))
    const processes = execFileSync('ps', ['-A', '-o', 'command='], { encoding: 'utf8' })
    assert(!processes.includes(home))
    assert.equal((await ctl('status')).status, 3)
  })
})
