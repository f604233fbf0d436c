import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { TLSSocket } from 'node:tls'
import bcrypt from 'bcrypt'
import type { ClientInfo } from '../../src/base/client-info.js'
import type { Log } from '../../src/base/log/log.js'
import { parseConfig } from '../../src/config/schema.js'
import { ensureCertificates } from '../../src/net/certificates.js'
import plugin from '../../src/plugins/auth-pgsql/plugin.js'
import { Hooks } from '../../src/plugins/hooks.js'
import { PluginStorage } from '../../src/store/plugin-storage.js'
import { clientOf, sampleVerdicts } from '../support/acl-rows.js'
import { startPostgres } from '../support/postgres.js'
import { hangMs, until as untilDone } from '../support/server.js'

// ---- the configuration

const conf = readFileSync(new URL('../../../etc/plugins/auth-pgsql.conf', import.meta.url), 'utf8')
const parse = (text: string) =>
  parseConfig(text, plugin.options, { file: 'auth-pgsql.conf', prefix: plugin.prefix, check: plugin.validate! })

test('etc/plugins/auth-pgsql.conf has what the tutorial needs in force, and no ACL', () => {
  const { authQuery, superQuery, aclQuery, ...rest } = parse(conf)
  const { server, username, password, database, passwordHash } = rest
  assert.deepEqual(server, { host: '127.0.0.1', port: 5432 })
  assert.deepEqual({ username, password, database }, { username: 'mqtt', password: 'mqtt', database: 'mqtt' })
  assert.deepEqual(passwordHash, { kind: 'plain' })
  assert.equal(authQuery?.text, 'select password from mqtt_user where username = $1 limit 1')
  assert.equal(superQuery?.text, 'select is_superuser from mqtt_user where username = $1 limit 1')
  assert.equal(aclQuery, undefined)
})

const wrongLines: readonly [lines: string, problem: string][] = [
  [
    'auth.pgsql.auth_query = select $1',
    `auth.pgsql.auth_query: expected '%u', '%c' or '%a' where a value goes, got "$1"`
  ],
  ['auth.pgsql.acl_query =', 'auth.pgsql.acl_query: expected an SQL query, got ""'],
  ['auth.pgsql.encoding = latin1', 'auth.pgsql.encoding: expected utf8, got "latin1"'],
  ['auth.pgsql.database =', 'auth.pgsql.database: expected a name, got ""'],
  ['auth.pgsql.pool = 0', 'auth.pgsql.pool: expected an integer from 1 to 256, got "0"'],
  ['auth.pgsql.connect_timeout = 0s', 'auth.pgsql.connect_timeout: expected a duration above 0'],
  ['auth.pgsql.query_timeout = 0ms', 'auth.pgsql.query_timeout: expected a duration above 0'],
  [
    'auth.pgsql.ssl_opts.cacertfile = ca.pem',
    'auth.pgsql.ssl_opts.cacertfile: has no effect without auth.pgsql.ssl = true'
  ],
  [
    'auth.pgsql.ssl = true\nauth.pgsql.ssl_opts.keyfile = k.pem',
    'auth.pgsql.ssl_opts.keyfile: needs auth.pgsql.ssl_opts.certfile: a key belongs to a certificate'
  ]
]

test('auth-pgsql reports a wrong key at its line', () => {
  for (const [lines, problem] of wrongLines) {
    assert.throws(
      () => parse(lines),
      (err: Error) => err.message.includes(problem),
      lines
    )
  }
})

// ---- the plugin and its database

const postgres = await startPostgres({ after })
await postgres.query(`
  create table mqtt_user (
    id serial primary key, is_superuser boolean,
    username character varying(100), password character varying(100), salt character varying(40)
  );
  insert into mqtt_user (is_superuser, username, password, salt) values
    (false, 'plain', 'secret', null), (true, 'admin', 'secret', null), (null, 'null super', 'secret', null),
    (true, 'null password', null, null), (false, 'wörld', 'pässword', null);
  create table mqtt_acl (
    id serial primary key, allow integer, ipaddr character varying(60), username character varying(100),
    clientid character varying(100), access integer, topic character varying(100)
  );
  insert into mqtt_acl (id, allow, ipaddr, username, clientid, access, topic) values
    (1, 1, null, '$all', null, 2, '#'), (2, 0, null, '$all', null, 1, '$SYS/#'), (3, 0, null, '$all', null, 1, 'eq #'),
    (5, 1, '127.0.0.1', null, null, 2, '$SYS/#'), (6, 1, '127.0.0.1', null, null, 2, '#'),
    (7, 1, null, 'dashboard', null, 1, '$SYS/#')
`)

const byName = "from mqtt_user where username = '%u' limit 1"
const stockAcl =
  "select allow, ipaddr, username, clientid, access, topic from mqtt_acl where ipaddr = '%a' or username = '%u' or " +
  "username = '$all' or clientid = '%c'"
const inForce = {
  server: `${postgres.host}:${postgres.port}`,
  username: postgres.username,
  password: postgres.password,
  database: postgres.database,
  password_hash: 'plain',
  auth_query: `select password ${byName}`,
  super_query: `select is_superuser ${byName}`
}

/** Neither a slow database nor a slow machine. */
const patient = { connect_timeout: '60s', query_timeout: '60s' }

/** Loads the plugin as its host does, with some keys changed or, as undefined, out of force. */
async function load(t: TestContext, changes: Record<string, string | undefined> = {}, hookMs = hangMs) {
  const lines = Object.entries({ ...patient, ...inForce, ...changes }).flatMap(([key, value]) =>
    value === undefined ? [] : [`auth.pgsql.${key} = ${value}`]
  )
  const logged: { level: string; message: string }[] = []
  const at =
    (level: string) =>
    (message: string, fields?: object): void => {
      logged.push({ level, message: `${message} ${JSON.stringify(fields ?? {})}` })
    }
  const log: Log = {
    debug: at('debug'),
    info: at('info'),
    warning: at('warning'),
    error: at('error'),
    critical: at('critical'),
    child: () => log
  }
  // What the hooks log of a question that failed is not the plugin's.
  const hooks = new Hooks({ ...log, error: () => {} }, { timeoutMs: hookMs })
  let trouble: string | undefined
  const running = await plugin.start({
    options: parse(lines.join('\n')),
    hooks: hooks.scope(plugin.name),
    log,
    path: relative => relative,
    space: new PluginStorage().of('auth-pgsql'),
    trouble: why => {
      trouble = why
    }
  })
  t.after(() => running!.stop!())
  return {
    hooks,
    check: () => running!.probe!(),
    stop: () => running!.stop!(),
    trouble: () => trouble,
    /** All but debug. */
    logged: () => logged.filter(({ level }) => level !== 'debug').map(({ level, message }) => `${level} ${message}`),
    everythingLogged: () => logged,
    login: (username: string | undefined, password?: string | Buffer, clientId?: string) =>
      hooks.ask(
        'client.authenticate',
        clientOf(username, clientId),
        password === undefined ? undefined : Buffer.from(password)
      ),
    may: (client: ClientInfo, action: 'publish' | 'subscribe', topic: string) =>
      hooks.ask('client.authorize', client, action, topic)
  }
}

test('auth-pgsql registers only the hooks whose query is set', async t => {
  const none = await load(t, { auth_query: undefined })
  assert.equal(none.hooks.has('client.authenticate'), false)
  assert.equal(none.hooks.has('client.authorize'), false)
  const acl = await load(t, { acl_query: stockAcl })
  assert.equal(acl.hooks.has('client.authenticate'), true)
  assert.equal(acl.hooks.has('client.authorize'), true)
})

const logins: readonly [who: string | undefined, password: string | undefined, answer: string][] = [
  ['plain', 'secret', 'allow'],
  ['admin', 'secret', 'superuser'],
  ['null super', 'secret', 'allow'],
  ['wörld', 'pässword', 'allow'],
  ['plain', 'Secret', 'deny'],
  ['plain', 'secret\0', 'deny'],
  ['admin', 'wrong', 'deny'],
  ['plain', '', 'deny'],
  ['plain', undefined, 'deny'],
  ['nobody', undefined, 'deny'],
  ['', 'secret', 'deny'],
  ['null password', 'null', 'deny'],
  ['nobody', 'secret', 'ignore'],
  ['Plain', 'secret', 'ignore'],
  [undefined, undefined, 'ignore'],
  [undefined, 'secret', 'ignore'],
  ["' or 1=1 --", 'secret', 'ignore'],
  ["plain'; drop table mqtt_user; --", 'secret', 'ignore'],
  ['%u', 'secret', 'ignore'],
  ['$1', 'secret', 'ignore'],
  ['plain\0', 'secret', 'ignore'],
  ['\ufffd', 'secret', 'ignore'],
  ['x'.repeat(60_000), 'secret', 'ignore'],
  ['plain', 'x'.repeat(60_000), 'deny']
]

test('auth-pgsql lets in who has the right password, and leaves who is unknown to others', async t => {
  const { login, logged, trouble } = await load(t)
  for (const [who, password, answer] of logins) {
    assert.equal(await login(who, password), answer, `${who?.slice(0, 40)} ${password?.slice(0, 40)}`)
  }
  assert.equal(await login('plain', 'secret', 'a\0b'), 'allow')
  assert.deepEqual(logged(), [])
  assert.equal(trouble(), undefined)
})

test('auth-pgsql logs user names at debug only, and passwords never', async t => {
  const { login, everythingLogged } = await load(t)
  await login('plain', 'pass-of-client')
  await login('nobody', 'pass-of-client')
  await postgres.stop()
  await login('plain', 'pass-of-client')
  await postgres.restart()
  for (const { level, message } of everythingLogged()) {
    assert.ok(!/pass-of-client|secret/.test(message), message)
    if (level !== 'debug') assert.ok(!/plain|nobody/.test(message), message)
  }
})

test('auth-pgsql asks nothing when the value of a bound variable holds U+0000', async t => {
  const { login } = await load(t, { auth_query: "select password from mqtt_user where username = '%u' or '%c' = 'x'" })
  assert.equal(await login('plain', 'secret', 'a\0b'), 'ignore')
  assert.equal(await login('plain', 'secret', 'ab'), 'allow')
})

/** Of the password `password` and the salt `salt`, made with Python's hashlib. */
const stored: readonly [form: string, password: string][] = [
  ['plain', 'password'],
  ['md5', '5f4dcc3b5aa765d61d8327deb882cf99'],
  ['sha', '5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8'],
  ['sha256', '5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8'],
  ['salt,sha256', '13601bda4ea78e55a07b98866d2be6be0744e3866f13c00c811cab608a28f322'],
  ['sha256,salt', '7a37b85c8918eac19a9089c0fa5a2ab4dce3f90528dcdeec108b23ddf3607b99'],
  ['pbkdf2,sha256,1000,20', '632c2812e46d4604102ba7618e9d6d7d2f8128f6'],
  ['bcrypt', bcrypt.hashSync('password', 4)],
  ['salt,bcrypt', bcrypt.hashSync('password', 4).replace('$2b$', '$2y$')]
]

for (const [form, password] of stored) {
  test(`auth-pgsql with password_hash = ${form} tells the right password from others`, async t => {
    await postgres.query(`
      delete from mqtt_user where username in ('hashed', 'no salt');
      insert into mqtt_user (username, password, salt) values
        ('hashed', '${password}', 'salt'), ('no salt', '${password}', null)
    `)
    const salted = /salt|pbkdf2/.test(form)
    const columns = salted ? 'password, salt' : 'password'
    const { login, check } = await load(t, { password_hash: form, auth_query: `select ${columns} ${byName}` })
    await check()
    assert.equal(await login('hashed', 'password'), 'allow')
    assert.equal(await login('hashed', 'Password'), 'deny')
    assert.equal(await login('no salt', 'password'), salted && form !== 'salt,bcrypt' ? 'deny' : 'allow')
  })
}

test('auth-pgsql takes the columns as they are: blank-padded, a salt of digits, a number as password', async t => {
  await postgres.query(`
    create table padded (username text, password char(64), salt integer);
    insert into padded values ('u', encode(sha256('0042x'), 'hex'), 42), ('p', '007', null)
  `)
  const query = "select password, '00' || salt from padded where username = '%u'"
  const salted = await load(t, { auth_query: query, password_hash: 'salt,sha256', super_query: undefined })
  assert.equal(await salted.login('u', 'x'), 'allow')
  const plain = await load(t, { auth_query: query, super_query: undefined })
  assert.equal(await plain.login('p', '007'), 'allow')
  const number = "select 7.50 from padded where username = '%u'"
  assert.equal(await (await load(t, { auth_query: number, super_query: undefined })).login('p', '7.50'), 'allow')
})

test('auth-pgsql makes a superuser of the boolean true only, and of nobody when super_query fails', async t => {
  for (const column of ["'true'", "'t'", '1', 'null::boolean', 'false']) {
    const { login } = await load(t, { super_query: `select ${column} ${byName}` })
    assert.equal(await login('admin', 'secret'), 'allow', column)
  }
  const { login, logged, trouble } = await load(t, { super_query: `select is_super ${byName}` })
  assert.equal(await login('admin', 'secret'), 'allow')
  assert.equal(await login('admin', 'secret'), 'allow')
  const why = 'no such column: "is_super" (auth.pgsql.super_query, character 8)'
  assert.deepEqual(logged(), [`warning ${why} {}`])
  assert.equal(trouble(), why)
  assert.equal(await login('admin', 'wrong'), 'deny')
})

test('auth-pgsql takes a value that a column cannot hold for an unknown user', async t => {
  const changes = { auth_query: "select password from mqtt_user where id = '%u'", super_query: undefined }
  const { login, check, trouble } = await load(t, changes)
  await check()
  assert.equal(await login('1', 'secret'), 'allow')
  for (const name of ['x', '99999999999999999999', '1 or 1=1']) assert.equal(await login(name, 'secret'), 'ignore')
  assert.equal(trouble(), undefined)
})

// ---- the ACL

test('auth-pgsql answers from the sample table of emqttd with its stock acl_query', async t => {
  const { may, check } = await load(t, { acl_query: `${stockAcl} order by id` })
  await check()
  for (const [user, address, action, topic, verdict] of sampleVerdicts) {
    const client = clientOf(user, 'c1', address)
    assert.equal(await may(client, action, topic), verdict, `${user} ${address} ${action} ${topic}`)
  }
})

test('auth-pgsql warns once of an ACL row that is for nobody', async t => {
  const { may, logged } = await load(t, { acl_query: "select '1', null, null, null, 3, 'a'" })
  assert.equal(await may(clientOf('u'), 'publish', 'a'), 'ignore')
  assert.equal(await may(clientOf('u'), 'publish', 'a'), 'ignore')
  assert.equal(logged().length, 1)
  assert.match(logged()[0]!, /^warning the ACL row \(1, NULL, NULL, NULL, 3, a\) is left out: it is for nobody/)
})

test('auth-pgsql lets no name slip past the rows that deny everybody', async t => {
  const query = "select false, null, '$all', null, 3, '#' from mqtt_user where id = '%c' or true"
  const { may } = await load(t, { acl_query: query })
  for (const id of ['1', 'not a number', 'a\0b']) {
    assert.equal(await may(clientOf('u', id), 'publish', 'a'), 'deny', id)
  }
})

// ---- what check() says

const broken: readonly [changes: Record<string, string | undefined>, problem: string | RegExp][] = [
  [{ auth_query: `select password from users` }, 'no such table: "users" (auth.pgsql.auth_query, character 22)'],
  [{ super_query: `select super ${byName}` }, 'no such column: "super" (auth.pgsql.super_query, character 8)'],
  [
    { auth_query: "select password from mqtt_user where username = '%u' limt 1" },
    'syntax error at or near "limt" (auth.pgsql.auth_query, character 54)'
  ],
  [{ auth_query: 'select 1; select 2' }, /multiple commands .*\(auth\.pgsql\.auth_query/],
  [
    { auth_query: `select '%u' is null` },
    /could not determine data type .*: give it a type, as in '%u'::text \(auth\.pgsql\.auth_query\)/
  ],
  [
    { password_hash: 'salt,sha256' },
    'expected 2 columns, password and salt, which auth.pgsql.password_hash needs, got 1 (auth.pgsql.auth_query)'
  ],
  [
    { acl_query: 'select allow, topic from mqtt_acl' },
    'expected 6 columns, allow, ipaddr, username, clientid, access and topic, got 2 (auth.pgsql.acl_query)'
  ],
  [{ acl_query: 'select * from mqtt_acl' }, /^expected 6 columns, .*, got 7 \(auth\.pgsql\.acl_query\)$/],
  [{ auth_query: 'update mqtt_user set salt = salt where false' }, /^expected a column, password, got 0/],
  [
    { auth_query: 'select password from users', super_query: 'select 1 from users' },
    'no such table: "users" (auth.pgsql.auth_query, character 22)\nno such table: "users" (auth.pgsql.super_query, character 15)'
  ],
  [{ server: '127.0.0.1:1' }, 'nothing listens at 127.0.0.1:1: is PostgreSQL running? (auth.pgsql.server)'],
  [{ server: 'localhost:1' }, 'nothing listens at localhost:1: is PostgreSQL running? (auth.pgsql.server)'],
  [{ server: 'db.invalid' }, 'there is no host "db.invalid" (auth.pgsql.server)'],
  [{ ssl: 'true' }, `PostgreSQL at ${inForce.server} does not offer TLS (auth.pgsql.ssl)`],
  [
    { ssl: 'true', 'ssl_opts.cacertfile': 'missing.pem' },
    'cannot read missing.pem: no such file (auth.pgsql.ssl_opts.cacertfile)'
  ]
]

test('auth-pgsql check() says what is wrong and which key to change', async t => {
  for (const [changes, problem] of broken) {
    const { check, trouble } = await load(t, changes)
    await assert.rejects(check(), { code: 'PLUGIN_FAILED', message: problem })
    assert.notEqual(trouble(), undefined)
  }
})

test('auth-pgsql check() passes with every query, and warns of a super_query that answers no boolean', async t => {
  const { check, logged } = await load(t, { acl_query: stockAcl, super_query: `select 1 ${byName}` })
  await check()
  assert.deepEqual(logged(), [
    'warning nobody is a superuser: auth.pgsql.super_query answers no boolean, and only true counts {}'
  ])
})

/** Answers a client that asks for TLS, then speaks plainly with PostgreSQL. */
async function startTls(t: TestContext, { key, cert }: { key: Buffer; cert: Buffer }): Promise<number> {
  const server = createServer(socket => {
    socket.on('error', () => {})
    socket.once('data', () => {
      socket.write('S')
      const secure = new TLSSocket(socket, { isServer: true, key, cert })
      const upstream = connect(postgres.port, postgres.host)
      secure.on('error', () => upstream.destroy())
      upstream.on('error', () => secure.destroy())
      secure.pipe(upstream).pipe(secure)
    })
  })
  t.after(() => {
    server.close()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

test('auth-pgsql with ssl = true trusts the authority of cacertfile, and no other certificate', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'auth-pgsql-'))
  t.after(() => rmSync(dir, { recursive: true }))
  await ensureCertificates(dir, { hostname: 'localhost' })
  const port = await startTls(t, { key: readFileSync(join(dir, 'key.pem')), cert: readFileSync(join(dir, 'cert.pem')) })
  const server = `127.0.0.1:${port}`
  const cacertfile = join(dir, 'cacert.pem')

  const good = await load(t, { server, ssl: 'true', 'ssl_opts.cacertfile': cacertfile })
  await good.check()
  assert.equal(await good.login('plain', 'secret'), 'allow')
  await (await load(t, { server, ssl: 'true', 'ssl_opts.verify': 'verify_none' })).check()
  const withKey = { 'ssl_opts.keyfile': join(dir, 'client-key.pem'), 'ssl_opts.certfile': join(dir, 'client-cert.pem') }
  await (await load(t, { server, ssl: 'true', 'ssl_opts.cacertfile': cacertfile, ...withKey })).check()

  const untrusted = await load(t, { server, ssl: 'true' })
  const why =
    /^the certificate of PostgreSQL at 127\.0\.0\.1:\d+ is not trusted: .* \(auth\.pgsql\.ssl_opts\.cacertfile, /
  await assert.rejects(untrusted.check(), { message: why })
  assert.equal(await untrusted.login('plain', 'secret'), 'failed')

  writeFileSync(join(dir, 'rubbish.pem'), 'rubbish')
  const rubbish = { ...withKey, 'ssl_opts.keyfile': join(dir, 'rubbish.pem') }
  await assert.rejects((await load(t, { server, ssl: 'true', ...rubbish })).check(), { message: /PEM/ })
})

// ---- a database that goes away

async function until(done: () => boolean | Promise<boolean>): Promise<void> {
  await untilDone('it is done', done)
}

test('auth-pgsql refuses while the database is away, and works by itself afterwards', async t => {
  const { login, may, logged, trouble } = await load(t, { acl_query: stockAcl })
  assert.equal(await login('plain', 'secret'), 'allow')
  await postgres.stop()
  t.after(() => postgres.restart())
  const away = `nothing listens at ${inForce.server}: is PostgreSQL running? (auth.pgsql.server)`
  await until(() => trouble() === away)
  for (const _ of [1, 2, 3, 4, 5]) {
    assert.equal(await login('plain', 'secret'), 'failed')
    assert.equal(await login('nobody', 'secret'), 'failed')
    assert.equal(await may(clientOf('dashboard'), 'subscribe', '$SYS/#'), 'failed')
  }
  assert.equal(logged().length, 1)
  await postgres.restart()
  assert.equal(await login('plain', 'secret'), 'allow')
  await until(() => trouble() === undefined)
  assert.equal(logged().length, 2)
  assert.equal(logged()[1], `info PostgreSQL at ${inForce.server} is back {}`)
})

test('auth-pgsql notices a lost and a returned database when nobody logs in', async t => {
  const { login, trouble, logged } = await load(t)
  await login('plain', 'secret')
  await postgres.stop()
  await until(() => trouble() !== undefined)
  await postgres.restart()
  await until(() => trouble() === undefined)
  assert.equal(logged().length, 2)
})

test('auth-pgsql says once that a query is wrong, and once that it works again', async t => {
  await postgres.query('create table later (password text)')
  const changes = {
    auth_query: "select * from later where '%u' = 'u'",
    password_hash: 'salt,md5',
    super_query: undefined
  }
  const { login, trouble, logged } = await load(t, changes)
  for (const _ of [1, 2, 3]) assert.equal(await login('u', 'password'), 'failed')
  assert.match(trouble()!, /^expected 2 columns, /)
  await postgres.query('drop table later')
  for (const _ of [1, 2, 3]) assert.equal(await login('u', 'password'), 'failed')
  assert.match(trouble()!, /^no such table: "later"/)
  assert.equal(logged().length, 1)
  await postgres.query(
    "create table later as select '67a1e09bb1f83f5007dc119c14d663aa'::text as password, 'salt'::text as salt"
  )
  await until(async () => (await login('u', 'password')) === 'allow' && trouble() === undefined)
  assert.deepEqual(logged().slice(1), ['info auth.pgsql.auth_query works again {}'])
})

test('auth-pgsql makes nothing of an idle connection that is cut', async t => {
  const { login, trouble, logged } = await load(t)
  await login('plain', 'secret')
  await postgres.restart()
  for (let turn = 0; turn < 10; turn++) await sleep(10) // so that this end has seen it, however late a timer is
  assert.equal(await login('plain', 'secret'), 'allow')
  assert.equal(trouble(), undefined)
  assert.deepEqual(logged(), [])
})

test('auth-pgsql with on_error = ignore leaves ACL questions, and no logins, to others while the database is away', async t => {
  const { login, may } = await load(t, { acl_query: stockAcl, on_error: 'ignore' })
  await postgres.stop()
  t.after(() => postgres.restart())
  assert.equal(await may(clientOf('u'), 'publish', 'a'), 'ignore')
  assert.equal(await login('plain', 'secret'), 'failed')
})

test('auth-pgsql gives up on a server that does not answer', async t => {
  const { login, trouble } = await load(t, { connect_timeout: '2s', query_timeout: '2s' })
  t.after(() => postgres.restart())
  assert.equal(await login('plain', 'secret'), 'allow')
  postgres.freeze()
  const began = performance.now()
  assert.equal(await login('plain', 'secret'), 'failed')
  assert.match(trouble()!, /did not answer within 2000 ms \(auth\.pgsql\.query_timeout\)$/)
  assert.equal(await login('plain', 'secret'), 'failed')
  assert.match(trouble()!, /did not answer within 2000 ms \(auth\.pgsql\.server, auth\.pgsql\.connect_timeout\)$/)
  assert.ok(performance.now() - began >= 3980, 'not before')
  await postgres.restart()
  await until(async () => (await login('plain', 'secret')) === 'allow')
})

test('auth-pgsql stop() ends and leaves no connection, in the middle of a query that is never answered too', async t => {
  const { login, stop } = await load(t, { query_timeout: '1h', connect_timeout: '1h' }, 3000)
  t.after(() => postgres.restart())
  await until(() => postgres.connections() === 0)
  assert.equal(await login('plain', 'secret'), 'allow')
  assert.equal(postgres.connections(), 1)
  postgres.freeze()
  const late = login('plain', 'secret')
  await stop()
  await until(() => postgres.connections() === 0)
  assert.equal(await late, 'failed')
})

test('auth-pgsql keeps a connection whose query failed for a reason of its own', async t => {
  const { login } = await load(t, { auth_query: "select password from mqtt_user where id = '%u'" })
  await until(() => postgres.connections() === 0)
  for (const name of ['x', 'y', '1', 'z']) await login(name, 'secret')
  assert.equal(postgres.connections(), 1)
})

test('auth-pgsql start() opens no connection, and stop() works without one', async t => {
  await until(() => postgres.connections() === 0)
  const { stop } = await load(t)
  await sleep(50)
  assert.equal(postgres.connections(), 0)
  await stop()
})

// ---- what only a real server shows: set TEST_PGSQL_URL to its superuser's URL

const real = { skip: postgres.real ? false : 'needs TEST_PGSQL_URL' }

test('auth-pgsql check() names the refusals of a real server', real, async t => {
  const { username, database } = inForce
  const refused: readonly [changes: Record<string, string>, problem: RegExp][] = [
    [
      { password: 'wrong' },
      new RegExp(`refused user "${username}": wrong password \\(auth.pgsql.username, auth.pgsql.pass`)
    ],
    [{ password: '' }, /asks for a password \(auth\.pgsql\.password\)$/],
    [{ username: 'no_such_role' }, /refused user "no_such_role": /],
    [{ database: `${database}_not` }, new RegExp(`has no database "${database}_not" \\(auth.pgsql.database\\)$`)],
    [
      { auth_query: 'select passwd from pg_shadow' },
      new RegExp(`^user "${username}" may not do this: permission denied for .* \\(auth.pgsql.auth_query\\)$`)
    ],
    [
      { auth_query: 'select pg_sleep(20)::text', query_timeout: '1s' },
      /took longer than 1000 ms \(auth\.pgsql\.query_timeout\) \(auth\.pgsql\.auth_query\)$/
    ]
  ]
  for (const [changes, problem] of refused) {
    const { check, login, stop } = await load(t, changes)
    await assert.rejects(check(), { code: 'PLUGIN_FAILED', message: problem })
    assert.equal(await login('plain', 'secret'), 'failed')
    await stop()
    await until(() => postgres.connections() === 0)
  }
})

test('auth-pgsql answers many logins at once, each with its own, over a pool of 8', real, async t => {
  await postgres.query(`
    insert into mqtt_user (is_superuser, username, password)
    select n % 2 = 0, 'many' || n, 'pass' || n from generate_series(1, 500) n
  `)
  await until(() => postgres.connections() === 0)
  const { login } = await load(t)
  const answers = await Promise.all(
    Array.from({ length: 500 }, (_, i) => login(`many${i + 1}`, i % 5 === 0 ? 'wrong' : `pass${i + 1}`))
  )
  assert.deepEqual(
    answers,
    answers.map((_, i) => (i % 5 === 0 ? 'deny' : (i + 1) % 2 === 0 ? 'superuser' : 'allow'))
  )
  assert.equal(postgres.connections(), 8)
})

test('auth-pgsql takes the hashes that pgcrypto makes', real, async t => {
  await postgres.query(`
    create extension if not exists pgcrypto;
    insert into mqtt_user (username, password) values ('crypt', crypt('secret', gen_salt('bf', 10)))
  `)
  const { login } = await load(t, { password_hash: 'bcrypt' })
  assert.equal(await login('crypt', 'secret'), 'allow')
  assert.equal(await login('crypt', 'Secret'), 'deny')
})
