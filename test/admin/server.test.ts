import assert from 'node:assert/strict'
import { existsSync, statSync, writeFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import net from 'node:net'
import { type TestContext, test } from 'node:test'
import { AdminClient } from '../../src/admin/client.js'
import type { BrokerError } from '../../src/base/errors.js'
import type { Home } from '../../src/base/home.js'
import { createLog } from '../../src/base/log/log.js'
import { Server } from '../../src/server/server.js'
import { readSettings } from '../../src/server/settings.js'
import { client, makeHome, startServer, until } from '../support/server.js'

interface Answer {
  status: number
  body: any
}

async function ask(home: Home, path: string, body = '', method = 'POST'): Promise<Answer> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request({ socketPath: home.adminSocket, path, method, agent: false }, resolve).on('error', reject).end(body)
  })
  let text = ''
  for await (const chunk of response) text += String(chunk)
  return { status: response.statusCode!, body: JSON.parse(text) }
}

test('a command is a POST to its words; the answer is what it returns or why it did not', async t => {
  const running = await startServer(t)
  const { home } = running
  await client(t, running, { clientId: 'lamp/1 ü' })
  for (const [path, body, status, expected] of [
    ['/clients/kick', '{"clientId":"nobody"}', 404, { error: { code: 'NOT_FOUND', message: 'Not Found.' } }],
    ['/clients/kick', '{}', 400, { error: { code: 'BAD_REQUEST', message: 'missing argument "clientId"' } }],
    ['/clients/kick', '', 400, { error: { code: 'BAD_REQUEST', message: 'missing argument "clientId"' } }],
    ['/clients/kick', 'null', 400, { error: { code: 'BAD_REQUEST', message: 'missing argument "clientId"' } }],
    [
      '/clients/kick',
      '{"clientId":7}',
      400,
      { error: { code: 'BAD_REQUEST', message: 'argument "clientId" is not text' } }
    ],
    ['/clients/kick', '{"clientId":', 400, { error: { code: 'BAD_REQUEST', message: 'request is not JSON' } }],
    [
      '/clients/kick',
      `"${'x'.repeat(70_000)}"`,
      400,
      { error: { code: 'BAD_REQUEST', message: 'request is over 65536 bytes' } }
    ],
    ['/no/such', '{}', 400, { error: { code: 'BAD_REQUEST', message: 'no command "no such"' } }],
    ['/constructor', '{}', 400, { error: { code: 'BAD_REQUEST', message: 'no command "constructor"' } }],
    ['//', '{}', 400, { error: { code: 'BAD_REQUEST', message: 'no command " "' } }],
    ['/%', '{}', 400, { error: { code: 'BAD_REQUEST', message: 'not a path: /%' } }],
    ['/clients/kick', '{"clientId":"lamp/1 ü"}', 200, { client_id: 'lamp/1 ü' }],
    ['/clients/list', '', 200, []]
  ] as const) {
    assert.deepEqual(await ask(home, path, body), { status, body: expected }, `${path} ${body.slice(0, 40)}`)
  }
  assert.equal((await ask(home, '/status', '', 'GET')).status, 400)
})

test('the socket is the operator’s alone from its first moment, and gone after the stop', async t => {
  const { home, server } = await startServer(t)
  assert.equal(statSync(home.adminSocket).mode & 0o777, 0o600)
  assert.equal(process.umask(), process.umask(process.umask()), 'the umask is as it was')
  assert.notEqual(process.umask(), 0o177)
  await server.stop('fast')
  assert.equal(existsSync(home.adminSocket), false)
})

test('a socket file that a killed broker left is replaced', async t => {
  const home = makeHome(t)
  home.makeSocketDir()
  writeFileSync(home.adminSocket, '')
  const server = await Server.start({ home, settings: readSettings(home, {}), log: createLog() })
  t.after(() => server.stop('fast'))
  assert.equal((await ask(home, '/node/ping')).body.phase, 'running')
})

test('AdminClient tells nobody there from one who does not answer', async t => {
  const home = makeHome(t)
  const admin = new AdminClient(home.adminSocket, 100)
  await assert.rejects(admin.call('status', {}), { code: 'UNREACHABLE', message: /ENOENT/ })
  home.makeSocketDir()
  const dumb = net.createServer(() => {}).listen(home.adminSocket)
  t.after(() => void dumb.close())
  await assert.rejects(admin.call('status', {}), (err: BrokerError) => {
    assert.equal(err.code, 'UNREACHABLE')
    assert.equal((err.cause as NodeJS.ErrnoException).code, 'ETIMEDOUT')
    return true
  })
})

test('AdminClient: a broker that ends in the middle of its answer is not there', async t => {
  const home = makeHome(t)
  home.makeSocketDir()
  const half = net
    .createServer(socket => {
      socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"half":'))
    })
    .listen(home.adminSocket)
  t.after(() => void half.close())
  await assert.rejects(new AdminClient(home.adminSocket).call('status', {}), { code: 'UNREACHABLE' })
})

async function follow(t: TestContext, home: Home, level = 'info') {
  const over = new AbortController()
  t.after(() => over.abort())
  const lines: string[] = []
  const options = { format: 'text', level, signal: over.signal } as const
  const ended = new AdminClient(home.adminSocket).followLog(options, line => void lines.push(line))
  return { lines, ended, over }
}

test('followLog() hears what is logged from then on, until it is aborted or the broker stops', async t => {
  const { home, server } = await startServer(t)
  const [one, other] = [await follow(t, home), await follow(t, home, 'error')]
  await until('they listen', () => {
    server.log.info('hello')
    server.log.error('alas')
    return one.lines.some(l => l.includes('hello')) && other.lines.some(l => l.includes('alas'))
  })
  assert.ok(!other.lines.some(l => l.includes('hello')))
  other.over.abort()
  await other.ended
  await server.stop('fast')
  await one.ended
  assert.match(one.lines.join('\n'), /broker is stopping/)
})

test('followLog() that is aborted before it began ends', async t => {
  const { home } = await startServer(t)
  const { ended, over } = await follow(t, home)
  over.abort()
  await ended
})

test('a follower that does not read does not fill the broker’s memory, and is told what it missed', async t => {
  const { home, server } = await startServer(t)
  const socket = net.connect(home.adminSocket)
  t.after(() => void socket.destroy())
  socket.write('GET /log HTTP/1.1\r\nhost: admin\r\n\r\n')
  await new Promise(resolve => socket.once('data', resolve))
  socket.pause()
  for (let i = 0; i < 1000; i++) server.log.info(`${i}${'x'.repeat(100_000)}`)
  let seen = ''
  socket.on('data', chunk => {
    seen = (seen + String(chunk)).slice(-10_000)
  })
  socket.resume()
  await until('it is told', () => {
    server.log.info('later')
    return /… \d+ lines left out/.test(seen)
  })
  const [, count] = /… (\d+) lines left out: they were not read in time\n/.exec(seen)!
  assert.ok(Number(count) > 900, `${count} of 1000 left out`)
})
