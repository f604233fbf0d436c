import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bindQuery, postgresql, type SqlDialect, sqlQuery } from '../../src/plugins/kit/sql.js'
import { clientOf } from '../support/acl-rows.js'

const bindings: readonly [query: string, text: string, values: (string | null)[]][] = [
  ["where a = '%u'", 'where a = $1', ['u']],
  ["a = '%a' or u = '%u' or c = '%c'", 'a = $1 or u = $2 or c = $3', ['a', 'u', 'c']],
  ["u = '%u' or m = '%u'", 'u = $1 or m = $2', ['u', 'u']],
  ['u = %u and c=%c', 'u = $1 and c=$2', ['u', 'c']],
  ["f('%u','%u')", 'f($1,$2)', ['u', 'u']],
  ["'%u'::int, %u::int", '$1::int, $2::int', ['u', 'u']],
  ["like'%u'and 1", 'like $1 and 1', ['u']],
  ["u = E'%u' or u = n'%u'", 'u = $1 or u = $2', ['u', 'u']],
  // Everything else with a %-sign is the query's own.
  ["u like '%cat' and u like 'a%'", "u like '%cat' and u like 'a%'", []],
  ["u = '%u%' or u = 'x%u' or u = '%u '", "u = '%u%' or u = 'x%u' or u = '%u '", []],
  ["u = '%u''s' or u = 'it''s %u'", "u = '%u''s' or u = 'it''s %u'", []],
  ["u = E'\\'%u' || '%u'", "u = E'\\'%u' || $1", ['u']],
  ["u = '\\' || '%u'", "u = '\\' || $1", ['u']],
  ["u = '' and c = '%c'", "u = '' and c = $1", ['c']],
  ['id %username and id % 2 and id %x and %', 'id %username and id % 2 and id %x and %', []],
  ['"%u" = \'%u\'', '"%u" = $1', ['u']],
  ["'%U' '%P' %p", "'%U' '%P' %p", []],
  ["/* '%u' */ '%u' -- '%c'", "/* '%u' */ $1 -- '%c'", ['u']],
  ["$$ '%u' $1 $$ '%u' $t$ %c $$ $t$", "$$ '%u' $1 $$ $1 $t$ %c $$ $t$", ['u']],
  ["foo$1 = '%u'", 'foo$1 = $1', ['u']]
]

test('bindQuery() for PostgreSQL binds each variable that stands alone, and leaves every other %-sign', () => {
  const client = { ...clientOf('u', 'c'), peer: { address: 'a', port: 1 } }
  for (const [query, text, values] of bindings) {
    const bound = bindQuery(query, postgresql)
    assert.equal(bound.text, text)
    assert.deepEqual(bound.values(client), values, query)
  }
})

test('bindQuery() gives NULL for the name of a client without one, which equals no column', () => {
  assert.deepEqual(bindQuery("'%u' '%c'", postgresql).values(clientOf(undefined)), [null, 'c1'])
})

test('bindQuery() finds the place in the text of the operator that PostgreSQL complains about', () => {
  for (const query of ["select '%u' frm x", 'select %u, %c, frm x', "frm '%u'", "a '%u''%c' '%u' , '%c' frm"]) {
    const bound = bindQuery(query, postgresql)
    assert.equal(bound.origin(bound.text.indexOf('frm') + 1), query.indexOf('frm') + 1, query)
  }
})

test('bindQuery() takes another dialect for its pieces and its placeholders', () => {
  const mysql: SqlDialect = {
    aside: /-- [^\n]*|#[^\n]*|\/\*.*?\*\/|`[^`]*`/,
    quote: /'/,
    string: /'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"/,
    word: /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*/,
    parameter: /\?/,
    placeholder: () => '?'
  }
  const query = "select `%u` from t where u = '%u' and p != \"'%c'\" # '%a'\nand c='%c'or 'it\\'s %u'"
  const bound = bindQuery(query, mysql)
  assert.equal(bound.text, "select `%u` from t where u = ? and p != \"'%c'\" # '%a'\nand c=? or 'it\\'s %u'")
  assert.deepEqual(bound.values(clientOf('u', 'c')), ['u', 'c'])
  assert.throws(() => bindQuery('select ?', mysql), {
    name: 'SyntaxError',
    message: `expected '%u', '%c' or '%a' where a value goes, got "?"`
  })
})

test('sqlQuery() is a key whose value is a bound query', () => {
  assert.equal(sqlQuery(postgresql).parse("select '%u'").text, 'select $1')
  assert.throws(() => sqlQuery(postgresql).parse(' '), { name: 'SyntaxError', message: /^expected an SQL query/ })
})
