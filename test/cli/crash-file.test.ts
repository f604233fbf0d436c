import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { capFile } from '../../src/cli/crash-file.js'
import { bookmark } from '../../src/cli/logs.js'
import { instance } from '../support/cli.js'
import { until } from '../support/server.js'

test('capFile() empties a file that another process goes on appending to, and its end is kept', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'broker-crash-'))
  const file = join(dir, 'deep/crash.log')
  capFile(file, 100)
  assert.ok(existsSync(join(dir, 'deep')) && !existsSync(file))
  const writer = spawn('sh', ['-c', 'exec >>"$0"; while read -r line; do echo "$line"; done', file])
  t.after(() => {
    writer.kill()
    rmSync(dir, { recursive: true, force: true })
  })
  const say = async (line: string): Promise<void> => {
    writer.stdin.write(`${line}\n`)
    await until('it is written', () => existsSync(file) && readFileSync(file, 'utf8').endsWith(`${line}\n`))
  }
  await say('a'.repeat(99))
  capFile(file, 100)
  assert.ok(!existsSync(`${file}.1`), 'not over its size')
  const news = bookmark(file)
  await say('b')
  capFile(file, 100)
  assert.equal(readFileSync(`${file}.1`, 'utf8'), `${'a'.repeat(99)}\nb\n`)
  await say('c')
  assert.equal(readFileSync(file, 'utf8'), 'c\n')
  assert.deepEqual(news(), ['b', 'c'], 'a reader has missed nothing')
})

test('the crash file is kept small while the broker runs', async t => {
  const { home, broker } = instance(t, { conf: 'listener.tcp.test = 127.0.0.1:0\nlog.console = both\n' })
  assert.equal((await broker('start')).code, 0)
  const file = home.path('log/crash.log')
  appendFileSync(file, 'x'.repeat(10 * 1024 * 1024 + 1))
  await until('it is emptied', () => statSync(file).size < 1024)
  assert.ok(statSync(`${file}.1`).size > 10 * 1024 * 1024)
})

test('log set-level changes what a running broker writes, until a restart', async t => {
  const { home, broker, ctl } = instance(t)
  assert.equal((await broker('start')).code, 0)
  assert.equal((await ctl('log', 'levels')).out, 'console   : info\nerror     : error\n')
  assert.equal((await ctl('log', 'set-level', 'error')).out, 'console   : error (configured: info)\n')
  await ctl('acl', 'reload')
  const set = await ctl('--json', 'log', 'set-level', 'debug', 'error')
  assert.deepEqual(JSON.parse(set.out), [{ target: 'error', level: 'debug', configured: 'error', format: 'text' }])
  await until('it is in the file', () => readFileSync(home.path('log/error.log'), 'utf8').includes('targets=error'))
  assert.ok(!readFileSync(home.path('log/broker.log'), 'utf8').includes('targets='))
  const wrong = await ctl('log', 'set-level', 'loud')
  assert.deepEqual(
    [wrong.code, wrong.err],
    [2, 'no such level: loud; there are debug, info, warning, error, critical\n']
  )
  const nobody = await ctl('log', 'set-level', 'info', 'syslog')
  assert.deepEqual([nobody.code, nobody.err], [1, 'no such log: syslog; there are console, error\n'])
  assert.equal((await broker('restart')).code, 0)
  assert.equal((await ctl('log', 'levels')).out, 'console   : info\nerror     : error\n')
})
