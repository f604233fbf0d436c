import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test from 'node:test'
import { type AclRules, parseAcl } from '../../src/access/acl-file.js'
import type { ClientRef } from '../../src/base/client-ref.js'
import { ConfigError } from '../../src/config/problem.js'

const alice: ClientRef = { clientId: 'c1', username: 'alice', address: '10.1.2.3' }
const nameless: ClientRef = { ...alice, username: undefined }

const parse = (text: string): AclRules => parseAcl(text, 'acl.conf')

/** `allow`, `deny` or `-`, for the first rule that matches. */
function verdict(rules: string | AclRules, client: ClientRef, action: 'publish' | 'subscribe', topic: string): string {
  const rule = (typeof rules === 'string' ? parse(rules) : rules).decide(client, action, topic)
  return rule === undefined ? '-' : rule.allow ? 'allow' : 'deny'
}

function problems(text: string): string[] {
  try {
    parse(text)
  } catch (err) {
    assert(err instanceof ConfigError)
    return err.problems.map(({ line, column, message }) => `${line}:${column} ${message}`)
  }
  return []
}

// ---- the grammar

const who: readonly [who: string, client: Partial<ClientRef>, fits: boolean][] = [
  ['all', {}, true],
  ['all', { username: undefined }, true],
  ['{user, "alice"}', {}, true],
  ['{user, <<"alice">>}', {}, true],
  ['{\'user\', "alice"}', {}, true],
  ['{user, "Alice"}', {}, false],
  ['{user, "undefined"}', { username: undefined }, false],
  ['{user, ""}', { username: undefined }, false],
  ['{user, all}', {}, true],
  ['{user, all}', { username: undefined }, true],
  ['{user, "all"}', {}, false],
  ['{user, "all"}', { username: 'all' }, true],
  ['{client, "c1"}', {}, true],
  ['{client, "c2"}', {}, false],
  ['{client, all}', {}, true],
  ['{user, "a\\"b\\\\c\\td\\n"}', { username: 'a"b\\c\td\n' }, true],
  ['{user, "50%"}', { username: '50%' }, true],
  ['{user, "it\'s"}', { username: "it's" }, true],
  ['{user, "äß"}', { username: 'äß' }, true],
  ['{ipaddr, "10.1.2.3"}', {}, true],
  ['{ipaddr, "10.1.2.4"}', {}, false],
  ['{ipaddr, "10.0.0.0/8"}', {}, true],
  ['{ipaddr, "10.9.9.9/8"}', {}, true],
  ['{ipaddr, "11.0.0.0/8"}', {}, false],
  ['{ipaddr, "0.0.0.0/0"}', {}, true],
  ['{ipaddr, "0.0.0.0/0"}', { address: 'fd00::1' }, false],
  ['{ipaddr, "0.0.0.0/0"}', { address: '' }, false],
  ['{ipaddr, "::/0"}', {}, false],
  ['{ipaddr, "::/0"}', { address: '' }, false],
  ['{ipaddr, "::/0"}', { address: 'fd00::1' }, true],
  ['{ipaddr, "fd00::/8"}', { address: 'fd12::1' }, true],
  ['{ipaddr, "fd00::/8"}', { address: 'fe80::1' }, false],
  ['{ipaddr, "::1"}', { address: '::1' }, true],
  ['{\'and\', [{user, "alice"}, {client, "c1"}]}', {}, true],
  ['{\'and\', [{user, "alice"}, {client, "c2"}]}', {}, false],
  ['{and, [{user, "alice"}]}', {}, true],
  ["{'and', []}", {}, true],
  ['{\'or\', [{user, "bob"}, {client, "c1"}]}', {}, true],
  ['{\'or\', [{user, "bob"}, {client, "c2"}]}', {}, false],
  ['{or, [all]}', {}, true],
  ["{'or', []}", {}, false],
  ["{'and', [{'or', [{user, \"bob\"}, all]}, {'and', [{ipaddr, \"10.0.0.0/8\"}]}]}", {}, true]
]
for (const [text, client, fits] of who) {
  test(`AclRules.decide() finds that ${text} ${fits ? 'is' : 'is not'} ${JSON.stringify({ ...alice, ...client })}`, () => {
    const want = fits ? 'deny' : '-'
    assert.equal(verdict(`{deny, ${text}, pubsub, "t"}.`, { ...alice, ...client }, 'publish', 't'), want)
  })
}

test('AclRules.decide() goes by access', () => {
  for (const [access, publish, subscribe] of [
    ['publish', 'allow', '-'],
    ['subscribe', '-', 'allow'],
    ['pubsub', 'allow', 'allow']
  ] as const) {
    const rules = parse(`{allow, all, ${access}, ["t"]}.`)
    assert.equal(verdict(rules, alice, 'publish', 't'), publish, access)
    assert.equal(verdict(rules, alice, 'subscribe', 't'), subscribe, access)
  }
})

test('parseAcl() takes topics as a list, binaries, {eq, …} or one alone', () => {
  for (const topics of [
    '["a", "t"]',
    '"t"',
    '<<"t">>',
    '[<<"t">>]',
    '{eq, "t"}',
    '[{eq, <<"t">>}]',
    '[{eq, "x"}, "t"]'
  ]) {
    assert.equal(verdict(`{allow, all, publish, ${topics}}.`, alice, 'publish', 't'), 'allow', topics)
    assert.equal(verdict(`{allow, all, publish, ${topics}}.`, alice, 'publish', 'u'), '-', topics)
  }
  assert.equal(verdict('{allow, all, publish, []}.', alice, 'publish', 't'), '-')
})

test('parseAcl() tolerates comments, white space, CRLF and a BOM, and keeps line numbers', () => {
  const { rules } = parse(
    [
      '\ufeff%% a comment {not, a, rule}.',
      '{allow,all}. % and another',
      '',
      "  { 'deny' , {user,%who",
      '\t\t"a % b" % not "in quotes',
      '}, subscribe, [',
      '    {eq, "#"},   "x  y"',
      ']',
      '} .',
      '{allow, all}.{deny, all}.'
    ].join('\r\n')
  )
  assert.deepEqual(rules, [
    { allow: true, line: 2, text: '{allow,all}.' },
    { allow: false, line: 4, text: '{ \'deny\' , {user, "a % b" }, subscribe, [ {eq, "#"}, "x  y" ] }.' },
    { allow: true, line: 10, text: '{allow, all}.' },
    { allow: false, line: 10, text: '{deny, all}.' }
  ])
})

test('parseAcl() finds no rule in an empty file', () => {
  for (const text of ['', '\ufeff', '\n\n', '% {allow, all}.', '%']) {
    assert.deepEqual(parse(text).rules, [])
    assert.equal(verdict(text, alice, 'publish', 't'), '-')
  }
})

// ---- problems

const pair = 'expected all or a pair such as {user, "name"}'
const filter = 'expected a topic filter (+ and # fill a whole level, # the last)'
const shape = 'expected {allow | deny, all} or {allow | deny, Who, Access, Topics}'
const all = 'expected all (a rule for some is {allow | deny, Who, Access, Topics})'
const network = 'expected an IP address or a network such as 10.0.0.0/8'
for (const [text, ...want] of [
  // words
  ['{alow, all}.', '1:2 expected allow | deny, got alow; did you mean allow?'],
  ['{"allow", all}.', '1:2 expected allow | deny, got "allow"; did you mean allow, without quotes?'],
  ['{Deny, all}.', '1:2 expected allow | deny, got Deny; did you mean deny?'],
  ['{permit, all}.', '1:2 expected allow | deny, got permit'],
  ['{allow, al}.', `1:9 ${all}, got al; did you mean all?`],
  ['{deny, {user, "x"}}.', `1:8 ${all}, got {user, "x"}`],
  ['{allow, all, publsh, "t"}.', '1:14 expected publish | subscribe | pubsub, got publsh; did you mean publish?'],
  ['{allow, all, [publish], "t"}.', '1:14 expected publish | subscribe | pubsub, got [publish]'],
  // who
  [
    '{allow, {usr, "x"}, publish, "t"}.',
    '1:10 expected client | user | ipaddr | and | or, got usr; did you mean user?'
  ],
  ['{allow, al, publish, "t"}.', `1:9 ${pair}, got al; did you mean all?`],
  ['{allow, "all", publish, "t"}.', `1:9 ${pair}, got "all"; did you mean all, without quotes?`],
  ['{allow, {user}, publish, "t"}.', `1:9 ${pair}, got {user}`],
  ['{allow, {user, "a", "b"}, publish, "t"}.', `1:9 ${pair}, got {user, "a", "b"}`],
  ['{allow, {user, bob}, publish, "t"}.', '1:16 expected a user name in double quotes or all, got bob'],
  ['{allow, {client, \'c1\'}, publish, "t"}.', "1:18 expected a client id in double quotes or all, got 'c1'"],
  ['{allow, {ipaddr, "10.0.0.0/33"}, publish, "t"}.', `1:18 ${network}, got "10.0.0.0/33"`],
  ['{allow, {ipaddr, "localhost"}, publish, "t"}.', `1:18 ${network}, got "localhost"`],
  ['{allow, {ipaddr, all}, publish, "t"}.', '1:18 expected an address or a network in double quotes, got all'],
  [
    '{allow, {ipaddr, "::ffff:10.0.0.1"}, publish, "t"}.',
    '1:18 expected an IPv4 network as such: no peer is known in IPv6 dress, got "::ffff:10.0.0.1"'
  ],
  [
    '{allow, {\'or\', {user, "a"}}, publish, "t"}.',
    '1:16 expected a list such as [{user, "name"}, {client, "id"}], got {user, "a"}'
  ],
  [`{allow, {'and', [all, al]}, publish, "t"}.`, `1:23 ${pair}, got al; did you mean all?`],
  // topics
  ['{allow, all, publish, ["a", "a/#/b"]}.', `1:29 ${filter}, got "a/#/b"`],
  ['{allow, all, publish, [<<"a+">>]}.', `1:24 ${filter}, got <<"a+">>`],
  ['{allow, all, publish, ""}.', `1:23 ${filter}, got ""`],
  ['{allow, all, subscribe, [{eq, "a#"}]}.', `1:31 ${filter}, got "a#"`],
  ['{allow, all, subscribe, [{eqq, "a"}]}.', '1:27 expected eq, got eqq; did you mean eq?'],
  ['{allow, all, subscribe, [{eq, a}]}.', '1:31 expected a filter in double quotes, got a'],
  ['{allow, all, subscribe, [a]}.', '1:26 expected a filter in double quotes or {eq, "filter"}, got a'],
  [
    '{deny, all, subscribe, ["$share/g/a/#"]}.',
    '1:25 expected "a/#" (a subscription is judged by its filter without what shares it), got "$share/g/a/#"'
  ],
  ['{deny, all, publish, ["$queue/a/#"]}.'],
  // shapes
  ['{}.', `1:1 ${shape}, got {}`],
  ['{allow, all, publish}.', `1:1 ${shape}, got {allow, all, publish}`],
  // syntax
  ['{allow, all}', '1:13 expected "." at the end of the rule, got the end of the file'],
  ['{allow, all}\n{deny, all}.', '2:1 expected "." at the end of the rule, got "{"'],
  ['{allow, all', '1:12 expected "," or "}", got the end of the file'],
  ['{allow, all].', '1:12 expected "," or "}", got "]"'],
  ['{allow all}.', '1:8 expected "," or "}", got all'],
  ['{allow, all, publish, ["a",]}.', '1:28 expected a word, a string, "{" or "[" after the comma, got "]"'],
  ['{allow, all, publish, [', '1:24 expected a word, a string, "{", "[" or "]", got the end of the file'],
  ['{allow, all, publish, <<a>>}.', '1:25 expected a string in double quotes after <<, got a'],
  ['{allow, all, publish, <<"a"}.', '1:28 expected ">>", got "}"'],
  ['{allow, {user, my-name}, publish, "t"}.', '1:18 expected "," or "}", got "-"'],
  [
    '{allow, all, publish, "t}.\n{deny, al}.',
    '1:23 expected a closing " on this line, got "t}.',
    `2:8 ${all}, got al; did you mean all?`
  ],
  ['{allow, {user, "a\\x"}, publish, "t"}.', '1:18 expected one of \\" \\\\ \\n \\t, got \\x'],
  ['}', '1:1 expected a rule such as {allow, all}, got "}"'],
  ['allow, all.', '1:1 expected a rule such as {allow, all}, got allow'],
  ['# {allow, all}.', '1:1 expected a rule such as {allow, all}, got "#"'],
  ['"{allow, all}.', '1:1 expected a closing " on this line, got "{allow, all}.']
] as const) {
  test(`parseAcl() explains ${JSON.stringify(text)}`, () => {
    assert.deepEqual(problems(text), want)
  })
}

test('parseAcl() reports every problem of every rule, in order', () => {
  const text = [
    '{alow, {usr, "x"}, publsh, ["a/#/b", {eq, b}]}.',
    '{allow, all.',
    '{deny, {ipaddr, "10.0.0.0/99"}, subscribe, [',
    '  "ok",',
    '{eq, "#"}, }',
    ']}.',
    '{allow, all,',
    '  {eq',
    '{deny, nobody}.',
    '{allow, all}.'
  ].join('\r\n')
  assert.deepEqual(
    problems(text).map(problem => problem.split(' ')[0]),
    ['1:2', '1:9', '1:20', '1:29', '1:43', '2:12', '5:12', '9:1', '9:8']
  )
})

test('parseAcl() shows the line with a caret under the place', () => {
  assert.throws(() => parseAcl('{allow, all}.\n{deny, all, publish, "a#"}.\n', '/etc/x/acl.conf'), {
    name: 'ConfigError',
    code: 'CONFIG_INVALID',
    message: `/etc/x/acl.conf:2:22: ${filter}, got "a#"\n  {deny, all, publish, "a#"}.\n                       ^`
  })
})

// ---- what is decided

test('AclRules.decide() takes the first rule that matches', () => {
  const rules = parse('{deny, {user, "bob"}, pubsub, "#"}.\n{allow, all, publish, "a/+"}.\n{deny, all}.')
  assert.equal(rules.decide(alice, 'publish', 'a/b'), rules.rules[1])
  assert.equal(rules.decide({ ...alice, username: 'bob' }, 'publish', 'a/b'), rules.rules[0])
  assert.equal(rules.decide(alice, 'publish', '$SYS/x'), rules.rules[2])
  assert.equal(parse('{deny, all, publish, "#"}.').decide(alice, 'publish', '$SYS/x'), undefined)
})

test('AclRules.decide() lets an allow rule cover a subscription and a deny rule overlap with it', () => {
  for (const [rule, asked, allow, deny] of [
    ['a/#', 'a/+', true, true],
    ['a/#', 'a/#', true, true],
    ['a/#', 'a', true, true],
    ['a/+', 'a/+', true, true],
    ['a/+', 'a/b', true, true],
    ['#', '+/x', true, true],
    ['a/+', 'a/#', false, true],
    ['a/b', 'a/+', false, true],
    ['a/b', '#', false, true],
    ['secret/#', '+/x', false, true],
    ['secret/#', '#', false, true],
    ['+/x', 'a/+', false, true],
    ['a', 'b', false, false],
    ['a/b', '+', false, false],
    ['$SYS/#', '#', false, false],
    ['$SYS/#', '+/x', false, false],
    ['$SYS/#', '$SYS/+', true, true],
    ['#', '$SYS/#', false, false],
    ['#', '$SYS/x', false, false]
  ] as const) {
    const of = (what: string) => verdict(`{${what}, all, subscribe, ["${rule}"]}.`, alice, 'subscribe', asked)
    assert.equal(of('allow'), allow ? 'allow' : '-', `allow ${rule}, asked ${asked}`)
    assert.equal(of('deny'), deny ? 'deny' : '-', `deny ${rule}, asked ${asked}`)
  }
})

test('AclRules.decide() takes {eq, …} literally', () => {
  for (const what of ['allow', 'deny']) {
    const rules = parse(`{${what}, all, pubsub, [{eq, "a/+"}, {eq, "%u"}]}.`)
    assert.equal(verdict(rules, alice, 'subscribe', 'a/+'), what)
    assert.equal(verdict(rules, alice, 'subscribe', '%u'), what)
    for (const asked of ['a/b', 'a/#', '#', 'alice']) assert.equal(verdict(rules, alice, 'subscribe', asked), '-')
    assert.equal(verdict(rules, alice, 'publish', 'a/b'), '-')
  }
})

test('AclRules.decide() fills in %u and %c where they are a whole level', () => {
  const rules = parse('{allow, all, pubsub, ["u/%u/#", "c/%c", "%u", "x%u/%c%c", "both/%u/%c"]}.')
  for (const [topic, want] of [
    ['u/alice/x', 'allow'],
    ['u/alice', 'allow'],
    ['u/alice/+', 'allow'],
    ['u/bob/x', '-'],
    ['u/+/x', '-'],
    ['u/%u/x', '-'],
    ['c/c1', 'allow'],
    ['c/c2', '-'],
    ['alice', 'allow'],
    ['both/alice/c1', 'allow'],
    ['both/c1/alice', '-'],
    ['xalice/c1c1', '-'],
    ['x%u/%c%c', 'allow']
  ] as const) {
    assert.equal(verdict(rules, alice, 'subscribe', topic), want, topic)
    if (!topic.includes('+')) assert.equal(verdict(rules, alice, 'publish', topic), want, topic)
  }
})

test('AclRules.decide() has no rule with %u for a client without a user name', () => {
  for (const username of [undefined, '']) {
    for (const what of ['allow', 'deny']) {
      const rules = parse(`{${what}, all, pubsub, ["u/%u", "%u", "%u/#", "open"]}.`)
      for (const topic of ['u/%u', 'u/', 'u/undefined', '%u', '/x', 'undefined']) {
        assert.equal(verdict(rules, { ...alice, username }, 'publish', topic), '-', topic)
        assert.equal(verdict(rules, { ...alice, username }, 'subscribe', topic), '-', topic)
      }
      assert.equal(verdict(rules, { ...alice, username }, 'publish', 'open'), what)
    }
  }
  assert.equal(verdict('{allow, all, publish, ["c/%c"]}.', nameless, 'publish', 'c/c1'), 'allow')
})

test('AclRules.decide() gives nothing for a name that would act as a wildcard, as more levels or as $SYS', () => {
  const rules = parse('{allow, all, pubsub, ["u/%u/#", "c/%c/x", "%u/#", "%c/#", "v/%u"]}.')
  for (const name of ['#', '+', 'a/b', '/', 'a+', '+/+', '#/', '$SYS', '$SYS/broker']) {
    const client = { clientId: name, username: name, address: '' }
    const topics = ['u/x/y', 'c/x/x', 'x', 'a/b', 'a/b/c', 'u/a/b', 'c/a/b/x', '$SYS/broker', '$SYS', 'v/a', 'v/a/b']
    for (const topic of topics) assert.equal(verdict(rules, client, 'publish', topic), '-', `${name} ${topic}`)
    for (const asked of [...topics, '#', '+', '+/x', 'u/#', 'u/+', 'u/+/#', 'c/+/x', '$SYS/#', 'a/b/#', 'v/+', 'v/#']) {
      assert.equal(verdict(rules, client, 'subscribe', asked), '-', `${name} ${asked}`)
    }
  }
  // A $ behind the first level is like any other character.
  const dollar = { ...alice, username: '$x' }
  assert.equal(verdict(rules, dollar, 'publish', 'u/$x/y'), 'allow')
})

test('AclRules.decide() does not fill in what was filled in', () => {
  const rules = parse('{allow, all, publish, ["u/%u/%c"]}.')
  const client = { ...alice, username: '%c', clientId: '%u' }
  assert.equal(verdict(rules, client, 'publish', 'u/%c/%u'), 'allow')
  assert.equal(verdict(rules, client, 'publish', 'u/%u/%c'), '-')
})

test('AclRules.decide() still denies a client with an odd name, and no more than its own topics', () => {
  const rules = parse('{deny, all, pubsub, ["u/%u/x"]}.')
  for (const [username, topic, want] of [
    ['a/b', 'u/a/b/x', 'deny'],
    ['+', 'u/a/x', '-'],
    ['+', 'u/+/x', 'deny'],
    ['+', 'u/#', 'deny'],
    ['#', 'u/a/x', '-'],
    ['#', 'u/+/x', 'deny'],
    ['#', 'u/a/b', '-'],
    ['alice', 'u/+/x', 'deny'],
    ['alice', 'u/bob/x', '-']
  ] as const) {
    assert.equal(verdict(rules, { ...alice, username }, 'subscribe', topic), want, `${username} ${topic}`)
  }
})

// ---- the shipped file

const shipped = readFileSync(new URL('../../../etc/acl.conf', import.meta.url), 'utf8')

test('etc/acl.conf keeps $SYS and # to the dashboard and this host, and is open otherwise', () => {
  const rules = parse(shipped)
  assert.deepEqual(
    rules.rules.map(({ text }) => text),
    [
      '{allow, {user, "dashboard"}, subscribe, ["$SYS/#"]}.',
      '{allow, {ipaddr, "127.0.0.1"}, pubsub, ["$SYS/#", "#"]}.',
      '{allow, {ipaddr, "::1"}, pubsub, ["$SYS/#", "#"]}.',
      '{deny, all, subscribe, ["$SYS/#", {eq, "#"}]}.'
    ]
  )
  const here = { ...nameless, address: '127.0.0.1' }
  for (const [client, action, topic, want] of [
    [alice, 'subscribe', '#', 'deny'],
    [alice, 'subscribe', '$SYS/broker/uptime', 'deny'],
    [alice, 'subscribe', '$SYS/#', 'deny'],
    [alice, 'subscribe', '+/#', '-'],
    [alice, 'subscribe', 'a/#', '-'],
    [alice, 'publish', 'a', '-'],
    [here, 'subscribe', '#', 'allow'],
    [here, 'subscribe', '$SYS/#', 'allow'],
    [here, 'publish', 'a', 'allow'],
    [{ ...here, address: '::1' }, 'subscribe', '#', 'allow'],
    [{ ...alice, username: 'dashboard' }, 'subscribe', '$SYS/#', 'allow'],
    [{ ...alice, username: 'dashboard' }, 'subscribe', '#', 'deny']
  ] as const) {
    assert.equal(verdict(rules, client, action, topic), want, `${client.address} ${action} ${topic}`)
  }
})

test('etc/acl.conf explains itself with rules that can be used', () => {
  const examples = [...shipped.matchAll(/^%% {3}(\{.*)$/gm)].map(([, rule]) => rule!)
  assert(examples.length > 12)
  assert.equal(parse(examples.join('\n')).rules.length, examples.length)
  for (const word of [
    'client',
    'user',
    'ipaddr',
    "'and'",
    "'or'",
    'eq',
    'publish',
    'subscribe',
    'pubsub',
    '%u',
    '%c'
  ]) {
    assert(
      examples.some(rule => rule.includes(word)),
      word
    )
  }
})

test('etc/acl.conf says truly which filters a rule covers and which it overlaps', () => {
  const allow = '{allow, all, subscribe, ["home/+/light"]}.'
  const deny = '{deny, all, subscribe, ["home/safe/#"]}.'
  assert(shipped.includes(`%%   ${allow}`) && shipped.includes(`%%   ${deny}`))
  for (const asked of ['home/hall/light', 'home/+/light'])
    assert.equal(verdict(allow, alice, 'subscribe', asked), 'allow')
  assert.equal(verdict(allow, alice, 'subscribe', 'home/#'), '-')
  for (const asked of ['home/safe/door', 'home/#', '+/+/door', 'home/+/light']) {
    assert.equal(verdict(deny, alice, 'subscribe', asked), 'deny')
  }
})

test('parseAcl() names brackets without end as a problem, and reads the next rule', () => {
  const deep = `{allow, ${"{'and', [".repeat(5000)}`
  assert.throws(
    () => parseAcl(`${deep}\n{allow, alll}.\n`, 'acl.conf'),
    (err: unknown) => {
      assert(err instanceof ConfigError)
      assert.match(err.message, /acl\.conf:1:\d+: expected at most 100 brackets in each other/)
      assert.match(err.message, /acl\.conf:2:9: .*did you mean all\?/)
      return true
    }
  )
})
