import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type AclRow, decideRows } from '../../src/plugins/kit/acl-rows.js'
import { clientOf, sample, sampleVerdicts, type Verdict } from '../support/acl-rows.js'

const noProblem = (what: string): never => assert.fail(what)

test('decideRows() answers as the sample table of emqttd means', () => {
  for (const [user, address, action, topic, verdict] of sampleVerdicts) {
    const client = clientOf(user, 'c1', address)
    assert.equal(decideRows(sample, client, action, topic, noProblem), verdict, `${user} ${address} ${action} ${topic}`)
  }
})

const rowVerdicts: readonly [row: AclRow, action: 'publish' | 'subscribe', topic: string, Verdict][] = [
  // allow and access in every type a column may have
  [[1, null, 'u', null, 2, 'a'], 'publish', 'a', 'allow'],
  [[true, null, 'u', null, '3', 'a'], 'publish', 'a', 'allow'],
  [['true', null, 'u', null, '3', 'a'], 'subscribe', 'a', 'allow'],
  [['t', null, 'u', null, 1, 'a'], 'subscribe', 'a', 'allow'],
  [[0, null, 'u', null, 2, 'a'], 'publish', 'a', 'deny'],
  [[false, null, 'u', null, '2', 'a'], 'publish', 'a', 'deny'],
  [['f', null, 'u', null, '2', 'a'], 'publish', 'a', 'deny'],
  [['1', null, 'u', null, '1', 'a'], 'publish', 'a', 'ignore'],
  [['1', null, 'u', null, '2', 'a'], 'subscribe', 'a', 'ignore'],
  // who: all that is set must be true, and '' is not set
  [['1', '', 'u', '', '3', 'a'], 'publish', 'a', 'allow'],
  [['1', null, 'v', null, '3', 'a'], 'publish', 'a', 'ignore'],
  [['1', null, null, 'c', '3', 'a'], 'publish', 'a', 'allow'],
  [['1', null, 'u', 'd', '3', 'a'], 'publish', 'a', 'ignore'],
  [['1', '10.1.2.3', 'u', 'c', '3', 'a'], 'publish', 'a', 'allow'],
  [['1', '10.1.2.4', 'u', 'c', '3', 'a'], 'publish', 'a', 'ignore'],
  [['1', '10.0.0.0/8', null, null, '3', 'a'], 'publish', 'a', 'allow'],
  [['1', '10.0.0.0/16', null, null, '3', 'a'], 'publish', 'a', 'ignore'],
  [['1', '::/0', null, null, '3', 'a'], 'publish', 'a', 'ignore'],
  [['1', null, '$all', null, '3', 'a'], 'publish', 'a', 'allow'],
  [['1', null, '$all', 'd', '3', 'a'], 'publish', 'a', 'ignore'],
  // an allow row covers what is asked for, a deny row overlaps with it
  [['1', null, 'u', null, '3', 'a/+'], 'subscribe', 'a/#', 'ignore'],
  [['1', null, 'u', null, '3', 'a/#'], 'subscribe', 'a/+', 'allow'],
  [['0', null, 'u', null, '3', 'secret/#'], 'subscribe', '+/x', 'deny'],
  [['0', null, 'u', null, '3', 'eq #'], 'subscribe', '#', 'deny'],
  [['0', null, 'u', null, '3', 'eq #'], 'subscribe', 'a', 'ignore'],
  [['1', null, 'u', null, '3', 'eq a/+'], 'subscribe', 'a/b', 'ignore'],
  // the client's names as levels
  [['1', null, '$all', null, '3', 'home/%u/%c/#'], 'publish', 'home/u/c/x', 'allow'],
  [['1', null, '$all', null, '3', 'home/%u'], 'publish', 'home/v', 'ignore'],
  [['1', null, '$all', null, '3', 'home/x%u'], 'publish', 'home/xu', 'ignore'],
  [['1', null, '$all', null, '3', 'home/x%u'], 'publish', 'home/x%u', 'allow']
]

test('decideRows() reads each column as emqttd did', () => {
  const client = clientOf('u', 'c', '10.1.2.3')
  for (const [row, action, topic, verdict] of rowVerdicts) {
    assert.equal(decideRows([row], client, action, topic, noProblem), verdict, `${row} ${action} ${topic}`)
  }
})

test('decideRows() gives a client nothing for a name that holds a wildcard, a slash or $', () => {
  const allow: AclRow[] = [['1', null, '$all', null, '3', '%c/#']]
  const deny: AclRow[] = [['0', null, '$all', null, '3', 'x/%c']]
  for (const id of ['#', '+', 'a/b', '$SYS', 'a#', '']) {
    const client = clientOf(undefined, id)
    for (const topic of ['#', '+/x', 'a/b', '$SYS/x']) {
      assert.equal(decideRows(allow, client, 'subscribe', topic, noProblem), 'ignore', `${id} ${topic}`)
    }
    assert.equal(decideRows(deny, client, 'publish', 'x/y', noProblem), 'ignore')
  }
  assert.equal(decideRows(deny, clientOf(undefined, '+'), 'subscribe', 'x/#', noProblem), 'deny')
  assert.equal(
    decideRows([['1', null, '$all', null, '3', '%u/#']], clientOf(undefined), 'publish', '%u/x', noProblem),
    'ignore'
  )
})

const unreadable: readonly [row: AclRow, why: string][] = [
  [['1', null, null, null, '2', 'a'], '(1, NULL, NULL, NULL, 2, a) is left out: it is for nobody'],
  [['1', '', '', '', '2', 'a'], '(1, , , , 2, a) is left out: it is for nobody'],
  [['2', null, 'u', null, '2', 'a'], 'expected 1 or 0 as allow'],
  [[null, null, 'u', null, '2', 'a'], 'expected 1 or 0 as allow'],
  [['1', null, 'u', null, '4', 'a'], 'expected 1 (subscribe), 2 (publish) or 3 (both) as access'],
  [['1', null, 'u', null, '2', null], 'expected a topic filter as topic'],
  [['1', null, 'u', null, '2', 'a/#/b'], 'expected a topic filter as topic'],
  [['1', null, 'u', null, '2', '$share/g/a'], 'expected a topic filter as topic'],
  [['1', 'localhost', 'u', null, '2', 'a'], 'expected an IP address or a network such as 10.0.0.0/8, got "localhost"']
]

test('decideRows() leaves out a row it cannot read, says why, and goes on with the others', () => {
  for (const [row, why] of unreadable) {
    const problems: string[] = []
    const rows: AclRow[] = [['1', null, 'u', null, '2', 'a'], row]
    assert.equal(
      decideRows(rows, clientOf('u'), 'publish', 'a', what => problems.push(what)),
      'allow'
    )
    assert.equal(problems.length, 1)
    assert.ok(problems[0]!.includes(why), problems[0])
  }
})
