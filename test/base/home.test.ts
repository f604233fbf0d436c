import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { findHome, Home, packageRoot, version } from '../../src/base/home.js'

function temporary(t: TestContext, prefix = 'broker-home-'): string {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), prefix)))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

function home(t: TestContext): string {
  const dir = temporary(t)
  mkdirSync(join(dir, 'etc'))
  writeFileSync(join(dir, 'etc/broker.conf'), '')
  return dir
}

test('findHome() takes --home, BROKER_HOME, the nearest etc/broker.conf, the package, in this order', t => {
  const [a, b, c, bare] = [home(t), home(t), home(t), temporary(t)]
  mkdirSync(join(c, 'deep/er'), { recursive: true })
  const found = (options: Parameters<typeof findHome>[0]): string => findHome({ env: {}, ...options }).root
  assert.equal(found({ home: a, env: { BROKER_HOME: b }, cwd: c }), a)
  assert.equal(found({ env: { BROKER_HOME: b }, cwd: c }), b)
  assert.equal(found({ cwd: c }), c)
  assert.equal(found({ cwd: join(c, 'deep/er') }), c)
  assert.equal(found({ cwd: join(c, 'etc') }), c)
  assert.equal(found({ cwd: bare }), new Home(packageRoot).root)
  assert.equal(found({ home: '', env: { BROKER_HOME: '' }, cwd: c }), c, 'an empty name is none')
  assert.equal(found({ home: 'er', cwd: join(c, 'deep') }), join(c, 'deep/er'), 'relative to the current directory')
  assert.equal(found({ home: '../not-there', cwd: c }), join(c, '../not-there'), 'also one that is not there')
})

test('findHome() works where the current directory has been removed', t => {
  const dir = temporary(t)
  const script = `import { findHome } from ${JSON.stringify(new URL('../../src/base/home.js', import.meta.url).href)}
    import { rmdirSync } from 'node:fs'
    rmdirSync(process.cwd())
    console.log(findHome({ env: {} }).root)`
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    cwd: dir,
    encoding: 'utf8'
  })
  assert.deepEqual([stdout.trim(), stderr], [new Home(packageRoot).root, ''])
})

test('the package knows its own directory and version', () => {
  const { name, version: given } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8'))
  assert.deepEqual([name, given], ['tsmqttd', version])
})

test('a home is one place, through whatever link it is reached', t => {
  const dir = home(t)
  const link = join(temporary(t), 'link')
  symlinkSync(dir, link)
  assert.equal(new Home(link).root, dir)
  assert.equal(new Home(link).adminSocket, join(dir, 'data/admin.sock'))
  assert.equal(new Home(dir).path('log/x'), join(dir, 'log/x'))
  assert.equal(new Home(dir).path('/var/log/x'), '/var/log/x')
})

test('sockets stand in data/ while their paths fit, and in a short private directory when they do not', t => {
  const near = new Home(temporary(t))
  near.makeSocketDir()
  assert.equal(near.adminSocket, join(near.root, 'data/admin.sock'))
  assert.equal(existsSync(near.shortDirRecord), false)

  const far = new Home(temporary(t, `${'long-'.repeat(25)}-`))
  t.after(() => rmSync(far.shortDir, { recursive: true, force: true }))
  far.makeSocketDir()
  far.makeSocketDir()
  assert.match(far.adminSocket, /^\/tmp\/broker-\d+\/[0-9a-f]{12}\/admin\.sock$/)
  assert.equal(readFileSync(far.shortDirRecord, 'utf8'), `${far.shortDir}\n`)
  assert.equal(statSync(far.shortDir).mode & 0o777, 0o700)

  // For whoever is not the user who runs the broker, the record counts; that of another home does not.
  const elsewhere = far.shortDir.replace(/broker-\d+/, 'broker-4711')
  writeFileSync(far.shortDirRecord, `${elsewhere}\n`)
  assert.equal(far.shortDir, elsewhere)
  writeFileSync(far.shortDirRecord, '/tmp/broker-4711/0123456789ab\n')
  assert.match(far.shortDir, new RegExp(`^/tmp/broker-${process.getuid?.()}/`))
})

test('makeSocketDir() refuses a directory that others can enter', t => {
  const far = new Home(temporary(t, `${'long-'.repeat(25)}-`))
  const { shortDir } = far
  t.after(() => rmSync(shortDir, { recursive: true, force: true }))
  mkdirSync(shortDir, { recursive: true, mode: 0o700 })
  rmSync(shortDir, { recursive: true })
  const target = temporary(t)
  symlinkSync(target, shortDir)
  assert.throws(() => far.makeSocketDir(), { code: 'EEXIST', message: /is not a directory of this user alone/ })
  assert.ok(lstatSync(shortDir).isSymbolicLink())
  rmSync(shortDir)
  mkdirSync(shortDir, { mode: 0o755 })
  assert.throws(() => far.makeSocketDir(), { code: 'EEXIST' })
})
