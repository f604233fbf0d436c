// acl explain and auth test: what they say is what happens, and they say why.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { misfitOf, parseAcl } from '../../src/access/acl-file.js'
import { type ExplainedRule, Hooks } from '../../src/plugins/hooks.js'
import { begin } from '../support/cli.js'
import { startPostgres } from '../support/postgres.js'
import { client, type Running, startServer } from '../support/server.js'

const acl = `% who reads what
{deny, {user, "bob"}, pubsub, ["#"]}.
{allow, {client, "lamp"}, subscribe, ["hall/lamp"]}.
{allow, {ipaddr, "10.0.0.0/8"}, publish, ["hall/#"]}.
{deny, all, subscribe, ["hall/#"]}.
`

const ctlOf =
  ({ home }: Running) =>
  async (...args: string[]): Promise<string> => {
    const { code, out, err } = await begin('broker-ctl', ['--home', home.root, ...args]).ended
    return `${out}${err}${code}`
  }

test('AclRules.explain() ends with the rule that decide() finds', () => {
  const rules = parseAcl(acl, 'acl.conf')
  for (const username of ['bob', 'alice', undefined]) {
    for (const address of ['10.1.1.1', '127.0.0.1']) {
      for (const action of ['publish', 'subscribe'] as const) {
        for (const topic of ['hall/lamp', 'hall/+', 'kitchen']) {
          const who = { clientId: 'lamp', username, address }
          const said = rules.explain(who, action, topic)
          const decided = rules.decide(who, action, topic)
          if (decided === undefined) assert.equal(said.length, rules.rules.length)
          else assert.equal(said.at(-1)!.rule, decided)
          assert.equal(said.filter(({ misfit }) => misfit === undefined).length, decided === undefined ? 0 : 1)
        }
      }
    }
  }
  assert.equal(misfitOf(true, 'subscribe'), 'another topic, or not all of it')
})

test('broker-ctl acl explain names each rule with its place, and whether a verdict is cached', async t => {
  const running = await startServer(t, { acl })
  const ctl = ctlOf(running)
  const lamp = await client(t, running, { clientId: 'lamp', username: 'alice' })
  const two = `no   etc/acl.conf:2 {deny, {user, "bob"}, pubsub, ["#"]}.: another client
no   etc/acl.conf:3 {allow, {client, "lamp"}, subscribe, ["hall/lamp"]}.: `
  assert.equal(
    await ctl('acl', 'explain', 'lamp', 'subscribe', '$share/g/hall/+'),
    `${two}another topic, or not all of it
no   etc/acl.conf:4 {allow, {ipaddr, "10.0.0.0/8"}, publish, ["hall/#"]}.: another action
yes  etc/acl.conf:5 {deny, all, subscribe, ["hall/#"]}.
denied by etc/acl.conf:5; nothing is cached
0`
  )
  const rest = `another action
no   etc/acl.conf:4 {allow, {ipaddr, "10.0.0.0/8"}, publish, ["hall/#"]}.: another client
no   etc/acl.conf:5 {deny, all, subscribe, ["hall/#"]}.: another action
allowed by mqtt.acl_nomatch = allow; `
  assert.equal(await ctl('acl', 'explain', 'lamp', 'publish', 'hall/x'), `${two}${rest}nothing is cached\n0`)
  await lamp.publishAsync('hall/x', '', { qos: 1 })
  assert.equal(await ctl('acl', 'explain', 'lamp', 'publish', 'hall/x'), `${two}${rest}allowed is cached\n0`)
  assert.equal(
    await ctl('acl', 'explain', '--user', 'carol', '--ip', '10.2.3.4', 'publish', 'hall/x'),
    `${two}another action
yes  etc/acl.conf:4 {allow, {ipaddr, "10.0.0.0/8"}, publish, ["hall/#"]}.
allowed by etc/acl.conf:4; nothing is cached
0`
  )
  assert.equal(
    await ctl('acl', 'explain', 'lamp', 'publish', '$SYS/x'),
    "denied by $SYS is the broker's own; nothing is cached\n0"
  )
  assert.equal(
    await ctl('acl', 'explain', 'nobody', 'publish', 'x'),
    'nobody is not connected; say who it would be with --user and --ip\n1'
  )
  assert.equal(await ctl('acl', 'explain', 'lamp', 'read', 'x'), 'expected [clientId] publish | subscribe <topic>\n2')
  assert.equal(await ctl('acl', 'explain', 'publish', 'x'), 'whose? Give a client id, or --user and --ip\n2')
  assert.equal(await ctl('acl', 'explain', '--ip', 'here', 'publish', 'x'), 'expected an IP address, got "here"\n2')
})

test('a plugin’s rules come first, and a superuser’s are none; what explain() says changes nothing', async t => {
  const running = await startServer(t, { acl })
  const hooks = running.server.hooks.scope('houses')
  const rules: ExplainedRule[] = [
    { text: 'house 1', matched: false, why: 'another street' },
    { text: 'house 2', matched: true }
  ]
  hooks.on('client.authorize', (_client, _action, topic) => (topic === 'a' ? 'deny' : 'ignore'), {
    explain: (_client, _action, topic) =>
      topic === 'a' ? { answer: 'deny', rules } : { answer: 'ignore', why: 'no such house' }
  })
  running.server.hooks.scope('mute').on('client.authorize', () => 'ignore')
  hooks.on('client.authenticate', ({ username }) => (username === 'root' ? 'superuser' : 'allow'))
  await client(t, running, { clientId: 'lamp', username: 'alice' })
  await client(t, running, { clientId: 'boss', username: 'root' })
  const ctl = ctlOf(running)
  assert.equal(
    await ctl('acl', 'explain', 'lamp', 'publish', 'a'),
    `no   houses house 1: another street
yes  houses house 2
denied by houses; nothing is cached
0`
  )
  const said = (await ctl('acl', 'explain', 'lamp', 'publish', 'b')).replace(/\d+\.\d ms/g, 'N ms')
  assert.match(
    said,
    /^no {3}houses ignores it, N ms: no such house\nno {3}mute ignores it, N ms\nno {3}etc\/acl\.conf:2 /
  )
  assert.equal(await ctl('acl', 'explain', 'boss', 'publish', 'a'), 'allowed by superuser; nothing is cached\n0')
  const failing = running.server.hooks.scope('away')
  failing.on('client.authorize', () => 'ignore', {
    priority: 9,
    explain: () => {
      throw new Error('no connection')
    }
  })
  const away = (await ctl('acl', 'explain', 'lamp', 'publish', 'b')).replace(/\d+\.\d ms/g, 'N ms')
  assert.equal(away, 'yes  away failed, N ms: no connection\ndenied by away; nothing is cached\n0')
})

test('Hooks.explain() asks in the order of ask(), to the one that decides', async () => {
  const hooks = new Hooks({} as never)
  hooks.scope('late').on('client.authorize', () => 'allow')
  hooks.scope('early').on('client.authorize', () => 'ignore', { priority: 1 })
  hooks.scope('never').on('client.authorize', () => assert.fail('it is asked'))
  const said = await hooks.explain('client.authorize', {} as never, 'publish', 'a')
  assert.deepEqual(
    said.map(({ owner, answer }) => [owner, answer]),
    [
      ['early', 'ignore'],
      ['late', 'allow']
    ]
  )
})

test('broker-ctl auth test says who answered what, and the CONNACK that would come of it', async t => {
  const running = await startServer(t)
  const ctl = ctlOf(running)
  const test = async (...args: string[]): Promise<string> =>
    (await ctl('auth', 'test', ...args)).replace(/\d+\.\d ms/g, 'N ms')
  assert.equal(
    await test('-u', 'alice'),
    'mqtt.allow_anonymous = local: allow, this host (N ms)\nlet in: CONNACK 0, in MQTT 5 0x00 SUCCESS\n0'
  )
  assert.equal(
    await test('--ip', '10.0.0.1'),
    'mqtt.allow_anonymous = local: deny, another host (N ms)\nrefused: CONNACK 4, in MQTT 5 0x86 BAD_USER_NAME_OR_PASSWORD\n0'
  )
  const one = running.server.hooks.scope('one')
  one.on('client.authenticate', ({ username }) => (username === 'carol' ? 'deny' : 'ignore'))
  running.server.hooks.scope('two').on('client.authenticate', (_client, password) => {
    if (password === undefined) throw new Error('the database is away')
    return String(password) === 'right' ? 'superuser' : 'deny'
  })
  assert.equal(
    await test('-u', 'alice', '-P', 'right'),
    'one: ignore (N ms)\ntwo: superuser (N ms)\nlet in as a superuser: CONNACK 0, in MQTT 5 0x00 SUCCESS\n0'
  )
  assert.equal(
    await test('-u', 'carol', '-P', 'right'),
    'one: deny (N ms)\nrefused: CONNACK 4, in MQTT 5 0x86 BAD_USER_NAME_OR_PASSWORD\n0'
  )
  assert.equal(
    await test('-u', 'alice'),
    'one: ignore (N ms)\ntwo: failed, the database is away (N ms)\nrefused: CONNACK 3, in MQTT 5 0x88 SERVER_UNAVAILABLE\n0'
  )
  await running.admin.call('banned add', { as: 'username', who: 'alice' })
  assert.equal(
    await test('-u', 'alice', '-P', 'right'),
    'banned: username alice\nrefused: CONNACK 5, in MQTT 5 0x8a BANNED\n0'
  )
  assert(!running.log.some(line => line.includes('right')))
})

test('broker-ctl auth test -P without a password reads it from standard input', async t => {
  const running = await startServer(t)
  let seen = ''
  running.server.hooks.scope('one').on('client.authenticate', (_client, password) => {
    seen = String(password)
    return 'allow'
  })
  const args = ['--home', running.home.root, 'auth', 'test', '-u', 'alice', '-P']
  const { code } = await begin('broker-ctl', args, { input: 'from stdin\n' }).ended
  assert.deepEqual([code, seen], [0, 'from stdin'])
})

test('auth_pgsql shows its rows, the last first, and why a login fails', async t => {
  const postgres = await startPostgres({ after })
  await postgres.query(`
    create table mqtt_user (username text, password text, is_superuser boolean);
    insert into mqtt_user values ('alice', 'right', false), ('nopass', null, false);
    create table mqtt_acl (id serial, allow int, ipaddr text, username text, clientid text, access int, topic text);
    insert into mqtt_acl (allow, ipaddr, username, clientid, access, topic) values
      (1, null, '$all', null, 2, 'open/#'), (9, null, '$all', null, 2, '#'),
      (0, null, '$all', null, 3, 'secret/#'), (1, null, 'alice', null, 3, 'secret/%u/#')`)
  const { host, port, username, password, database } = postgres
  const running = await startServer(t, {
    acl: '{allow, all}.',
    plugins: {
      'auth-pgsql': [
        `auth.pgsql.server = ${host}:${port}`,
        `auth.pgsql.username = ${username}`,
        `auth.pgsql.password = ${password}`,
        `auth.pgsql.database = ${database}`,
        'auth.pgsql.pool = 1',
        'auth.pgsql.password_hash = plain',
        "auth.pgsql.auth_query = select password from mqtt_user where username = '%u'",
        'auth.pgsql.acl_query = select allow, ipaddr, username, clientid, access, topic from mqtt_acl order by id'
      ].join('\n')
    }
  })
  await running.admin.call('plugins load', { plugin: 'auth_pgsql' })
  const ctl = ctlOf(running)
  assert.equal(
    await ctl('acl', 'explain', '--user', 'alice', 'publish', 'secret/bob'),
    `no   auth_pgsql row (1, NULL, alice, NULL, 3, secret/%u/#): another topic
yes  auth_pgsql row (0, NULL, $all, NULL, 3, secret/#)
denied by auth_pgsql; nothing is cached
0`
  )
  const said = (await ctl('acl', 'explain', '--user', 'bob', 'publish', 'other')).replace(/\d+\.\d ms/g, 'N ms')
  assert.equal(
    said,
    `no   auth_pgsql row (1, NULL, alice, NULL, 3, secret/%u/#): another user
no   auth_pgsql row (0, NULL, $all, NULL, 3, secret/#): another topic
no   auth_pgsql row (9, NULL, $all, NULL, 2, #): left out: expected 1 or 0 as allow
no   auth_pgsql row (1, NULL, $all, NULL, 2, open/#): another topic
no   auth_pgsql ignores it, N ms
yes  etc/acl.conf:1 {allow, all}.
allowed by etc/acl.conf:1; nothing is cached
0`
  )
  for (const [args, answer] of [
    [['-u', 'alice', '-P', 'right'], 'allow'],
    [['-u', 'alice', '-P', 'wrong'], 'deny, wrong password'],
    [['-u', 'nopass', '-P', 'x'], 'deny, the user has no password'],
    [['-u', 'alice'], 'deny, no password'],
    [['-u', 'nobody', '-P', 'x'], 'ignore, no such user'],
    [[], 'ignore, no user name']
  ] as const) {
    const out = await ctl('auth', 'test', ...args)
    assert.match(out, new RegExp(`^auth_pgsql: ${answer} \\(\\d+\\.\\d ms\\)\n`), args.join(' '))
  }
  await postgres.stop()
  const out = await ctl('auth', 'test', '-u', 'alice', '-P', 'right')
  assert.match(out, /^auth_pgsql: failed, .*\nrefused: CONNACK 3, in MQTT 5 0x88 SERVER_UNAVAILABLE\n0$/)
})
