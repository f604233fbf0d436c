import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { clear, holderOf, isAlive, lock } from '../../src/base/lock.js'
import { until } from '../support/server.js'

const moduleUrl = new URL('../../src/base/lock.js', import.meta.url).href
/** The pid of a process that has ended. */
const deadPid = (): number => spawnSync(process.execPath, ['-e', '']).pid

function lockFile(t: TestContext): { dir: string; file: string } {
  const dir = mkdtempSync(join(tmpdir(), 'broker-lock-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  return { dir, file: join(dir, 'x.lock') }
}

/** A process that runs `script`, which has lock() and holderOf(). */
function child(t: TestContext, script: string, ...args: string[]): ChildProcess {
  const source = `import { lock, holderOf } from ${JSON.stringify(moduleUrl)}
    const [file, ...args] = process.argv.slice(1)
    const sleep = ms => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
    ${script}`
  const process_ = spawn(process.execPath, ['--input-type=module', '-e', source, ...args], {
    stdio: ['ignore', 'pipe', 'inherit']
  })
  t.after(() => void process_.kill('SIGKILL'))
  return process_
}

async function textOf({ stdout }: ChildProcess): Promise<string> {
  let text = ''
  for await (const chunk of stdout!) text += String(chunk)
  return text
}

test('lock() is free, then held by this process, then free', t => {
  const { dir, file } = lockFile(t)
  assert.equal(holderOf(file), undefined)
  const free = lock(file)
  assert.ok(typeof free === 'function')
  assert.equal(holderOf(file), process.pid)
  assert.equal(lock(file), process.pid, 'not twice by the same process either')
  free()
  assert.equal(holderOf(file), undefined)
  free()
  assert.deepEqual(readdirSync(dir), [])
})

test('lock() makes the directory, and throws where it cannot', t => {
  const { dir } = lockFile(t)
  const free = lock(join(dir, 'data/x.lock'))
  assert.ok(typeof free === 'function')
  free()
  writeFileSync(join(dir, 'file'), '')
  assert.throws(() => lock(join(dir, 'file/x.lock')), { code: /ENOTDIR|EEXIST/ })
})

test('lock() names the living holder, and takes over from one that was killed', async t => {
  const { dir, file } = lockFile(t)
  const holder = child(t, "lock(file); console.log('locked'); setInterval(() => {}, 1000)", file)
  await new Promise(resolve => holder.stdout!.once('data', resolve))
  assert.equal(lock(file), holder.pid)
  assert.equal(holderOf(file), holder.pid)
  clear(file)
  assert.equal(holderOf(file), holder.pid, 'clear() leaves what is held')
  holder.kill('SIGKILL')
  await until('its end', () => !isAlive(holder.pid!))
  const free = lock(file)
  assert.ok(typeof free === 'function')
  assert.equal(holderOf(file), process.pid)
  free()
  assert.deepEqual(readdirSync(dir), [])
})

test('lock() takes over what no living process can have left', t => {
  const { dir, file } = lockFile(t)
  const mine = (): string => {
    const free = lock(file)
    assert.ok(typeof free === 'function')
    const text = readFileSync(file, 'utf8')
    free()
    return text
  }
  const started = mine().split('\n')[1]
  const texts = [
    '', // of a host that lost its power
    'rubbish',
    '0\n\n',
    '-1\n\n',
    `${deadPid()}\n${started}\n`,
    `${process.pid}\nanother time\n`, // the pid is somebody else's by now
    `${process.pid}\n`
  ]
  for (const text of texts) {
    writeFileSync(file, text)
    assert.equal(holderOf(file), undefined, JSON.stringify(text))
    mine()
    writeFileSync(file, text)
    clear(file)
    assert.deepEqual(readdirSync(dir), [], JSON.stringify(text))
  }
})

test('lock() clears away what a contender left that was killed', t => {
  const { dir, file } = lockFile(t)
  writeFileSync(`${file}.${deadPid()}`, '')
  writeFileSync(`${file}.heir`, `${deadPid()}\n1\n`)
  writeFileSync(file, `${deadPid()}\n1\n`)
  writeFileSync(join(dir, 'y.lock.1'), '')
  const free = lock(file)
  assert.ok(typeof free === 'function')
  free()
  assert.deepEqual(readdirSync(dir), ['y.lock.1'])
})

test('many contenders: one holder at any time, also when holders are killed', async t => {
  const { file } = lockFile(t)
  const journal = `${file}.journal`
  writeFileSync(journal, '')
  // Whoever has the lock writes that it came and that it went; every third time it leaves the lock as one who was
  // killed would, so that the others must take it over, which is where two could come to hold it.
  const contender = `
    import { appendFileSync, writeFileSync } from 'node:fs'
    const [journal] = args
    for (let turn = 0; turn < 60; ) {
      const free = lock(file)
      if (typeof free === 'number') { sleep(Math.random() * 2); continue }
      appendFileSync(journal, '+' + process.pid + '\\n')
      if (turn % 5 === 0) sleep(1)
      appendFileSync(journal, '-' + process.pid + '\\n')
      if (turn++ % 3 === 0) writeFileSync(file, process.pid + '\\nlong ago\\n')
      else free()
    }`
  const children = Array.from({ length: 5 }, () => child(t, contender, file, journal))
  await Promise.all(children.map(textOf))
  const events = readFileSync(journal, 'utf8').trim().split('\n')
  assert.equal(events.length, 5 * 60 * 2)
  for (let i = 0; i < events.length; i += 2) {
    assert.match(events[i]!, /^\+/)
    assert.equal(events[i + 1], events[i]!.replace('+', '-'), `event ${i}: two hold it`)
  }
})

test('isAlive() knows the living, the dead and, where there is /proc, the zombies', async t => {
  assert.equal(isAlive(process.pid), true)
  assert.equal(isAlive(1), true)
  assert.equal(isAlive(deadPid()), false)
  if (process.platform !== 'linux') return
  // A shell that does not ask for its child has a zombie.
  const parent = spawn('sh', ['-c', 'sleep 0 & echo $!; exec sleep 30'], { stdio: ['ignore', 'pipe', 'ignore'] })
  t.after(() => void parent.kill('SIGKILL'))
  const pid = Number(await new Promise(resolve => parent.stdout.once('data', resolve)))
  await until('the zombie is taken for dead', () => !isAlive(pid))
})
