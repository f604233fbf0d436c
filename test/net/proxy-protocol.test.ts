import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer as createHttpServer } from 'node:http'
import { connect, createServer, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { describe, type TestContext, test } from 'node:test'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { connect as connectTls, createServer as createTlsServer } from 'node:tls'
import fc from 'fast-check'
import { ensureCertificates } from '../../src/net/certificates.js'
import { type ProxyHeader, parseProxyHeader, readProxyHeader } from '../../src/net/proxy-protocol.js'
import { hangMs } from '../support/server.js'

const SIGNATURE = '0d0a0d0a000d0a515549540a'
const IPV4 = 'c6336407' + '0a000001' + 'dbf4' + '075b' // 198.51.100.7:56308 to 10.0.0.1:1883
const IPV6 = '20010db8000000000000000000000001' + '00000000000000000000000000000001' + 'dbf4' + '075b'

/** A version 2 header of hex parts; its length field is right unless given. */
function v2(command: string, family: string, rest = '', length = rest.length / 2): Buffer {
  return Buffer.from(SIGNATURE + command + family + length.toString(16).padStart(4, '0') + rest, 'hex')
}
const tlv = (type: string, value: string): string => type + (value.length / 2).toString(16).padStart(4, '0') + value
const hex = (text: string): string => Buffer.from(text).toString('hex')
const ssl = (client: string, verify: string, ...sub: string[]): string => tlv('20', client + verify + sub.join(''))
const certified = (client: string, verify: string, name = 'meter-7'): Buffer =>
  v2('21', '11', IPV4 + tlv('04', '00') + ssl(client, verify, tlv('21', hex('TLSv1.3')), tlv('22', hex(name))))

const from = (address: string, port: number): ProxyHeader['source'] => ({ address, port })
const client = from('198.51.100.7', 56308)

const good: readonly [string, Buffer, ProxyHeader['source'], string?][] = [
  ['v1 TCP4', Buffer.from('PROXY TCP4 198.51.100.7 10.0.0.1 56308 1883\r\n'), client],
  ['v1 TCP4, ports at the edges', Buffer.from('PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n'), from('0.0.0.0', 0)],
  ['v1 TCP6', Buffer.from('PROXY TCP6 2001:db8::1 ::1 56308 1883\r\n'), from('2001:db8::1', 56308)],
  [
    'v1 TCP6 in its longest spelling',
    Buffer.from(`PROXY TCP6 2001:0DB8:${'0000:'.repeat(5)}0001 ${'ffff:'.repeat(7)}ffff 65535 65535\r\n`),
    from('2001:db8::1', 65535)
  ],
  ['v1 TCP6 with a mapped IPv4 address', Buffer.from('PROXY TCP6 ::ffff:1.2.3.4 ::1 5 6\r\n'), from('1.2.3.4', 5)],
  ['v1 TCP6 with it in hex', Buffer.from('PROXY TCP6 0:0:0:0:0:FFFF:0102:0304 ::1 5 6\r\n'), from('1.2.3.4', 5)],
  ['v1 UNKNOWN', Buffer.from('PROXY UNKNOWN\r\n'), undefined],
  ['v1 UNKNOWN with anything after it', Buffer.from('PROXY UNKNOWN what ever  65536\r\n'), undefined],
  ['v1 UNKNOWN of 107 bytes', Buffer.from(`PROXY UNKNOWN ${'x'.repeat(91)}\r\n`), undefined],
  ['v2 TCP over IPv4', v2('21', '11', IPV4), client],
  ['v2 UDP over IPv4', v2('21', '12', IPV4), client],
  ['v2 TCP over IPv6', v2('21', '21', IPV6), from('2001:db8::1', 56308)],
  [
    'v2 with a mapped IPv4 address',
    v2('21', '21', `${'0'.repeat(20)}ffff01020304${IPV6.slice(32)}`),
    from('1.2.3.4', 56308)
  ],
  ['v2 over AF_UNIX', v2('21', '31', '00'.repeat(216)), undefined],
  [
    'v2 over AF_UNIX with a certificate',
    v2('21', '31', '00'.repeat(216) + ssl('03', '00000000', tlv('22', '61'))),
    undefined,
    'a'
  ],
  ['v2 UNSPEC', v2('21', '00'), undefined],
  ['v2 UNSPEC with bytes of unknown meaning', v2('21', '00', 'ffffff'), undefined],
  ['v2 IPv4 with an unspecified transport', v2('21', '10', 'ffffff'), undefined],
  ['v2 LOCAL', v2('20', '00'), undefined],
  ['v2 LOCAL, whatever follows', v2('20', 'ff', 'ffffff'), undefined],
  ['v2 LOCAL with the addresses of a client', v2('20', '11', IPV4), undefined],
  ['v2 of the greatest length', v2('21', '11', IPV4 + tlv('04', '00'.repeat(4096 - 15))), client],
  ['v2 with TLVs of no interest', v2('21', '11', IPV4 + tlv('01', hex('mqtt')) + tlv('ee', '')), client],
  ['v2 with a verified certificate', certified('03', '00000000'), client, 'meter-7'],
  ['v2 with one verified in its session', certified('05', '00000000'), client, 'meter-7'],
  ['v2 with a name beyond ASCII', certified('07', '00000000', 'Zähler'), client, 'Zähler'],
  ['v2 with a certificate that failed', certified('03', '00000012'), client],
  ['v2 with a name but no certificate', certified('01', '00000000'), client],
  ['v2 with an empty name', certified('03', '00000000', ''), client],
  ['v2 with TLS but no name', v2('21', '11', IPV4 + ssl('03', '00000000')), client],
  ['v2 with a name outside PP2_TYPE_SSL', v2('21', '11', IPV4 + tlv('22', hex('root'))), client]
]

for (const [name, bytes, source, certificateName] of good) {
  test(`parseProxyHeader() reads ${name}`, () => {
    const header = { source, certificateName, length: bytes.length }
    assert.deepEqual(parseProxyHeader(bytes), header)
    assert.deepEqual(parseProxyHeader(Buffer.concat([bytes, Buffer.from('\x10\x0c\r\nPROXY ')])), header)
  })
}

test('parseProxyHeader() asks for more at every cut of every good header', () => {
  for (const [name, bytes] of good) {
    for (let n = 0; n < bytes.length; n++)
      assert.equal(parseProxyHeader(bytes.subarray(0, n)), undefined, `${name}: ${n}`)
  }
})

const line = (text: string): Buffer => Buffer.from(`PROXY ${text}\r\n`)
const malformed: readonly [string, Buffer, RegExp][] = [
  ['MQTT', Buffer.from('100c00044d515454', 'hex'), /^expected a PROXY header, got the bytes 10 0c 00 04 4d 51 54 54$/],
  ['one wrong byte', Buffer.from([0x16]), /got the bytes 16$/],
  ['a v1 signature that goes wrong', Buffer.from('PROX1'), /got the bytes 50 52 4f 58 31$/],
  ['a v2 signature that goes wrong', Buffer.from('0d0a0d0a01', 'hex'), /got the bytes 0d 0a 0d 0a 01$/],
  ['lower case', Buffer.from('proxy TCP4'), /expected a PROXY header/],
  ['an unknown protocol', line('UDP4 1.2.3.4 5.6.7.8 1 2'), /TCP4 or TCP6/],
  ['UNKNOWN with a tail', line('UNKNOWNS'), /TCP4 or TCP6/],
  ['a missing port', line('TCP4 1.2.3.4 5.6.7.8 1'), /two ports/],
  ['one word too many', line('TCP4 1.2.3.4 5.6.7.8 1 2 3'), /two ports/],
  ['two spaces', line('TCP4  1.2.3.4 5.6.7.8 1 2'), /two ports/],
  ['a space at the end', line('TCP4 1.2.3.4 5.6.7.8 1 2 '), /two ports/],
  ['a number above 255', line('TCP4 1.2.3.256 5.6.7.8 1 2'), /^expected an IPv4 address, got "1.2.3.256"$/],
  ['a leading zero', line('TCP4 01.2.3.4 5.6.7.8 1 2'), /IPv4 address, got "01.2.3.4"/],
  ['a bad destination', line('TCP4 1.2.3.4 host 1 2'), /IPv4 address, got "host"/],
  ['IPv6 under TCP4', line('TCP4 ::1 ::1 1 2'), /IPv4 address, got "::1"/],
  ['IPv4 under TCP6', line('TCP6 1.2.3.4 ::1 1 2'), /IPv6 address, got "1.2.3.4"/],
  ['an IPv6 zone', line('TCP6 fe80::1%eth0 ::1 1 2'), /IPv6 address, got "fe80::1%eth0"/],
  ['a port above 65535', line('TCP4 1.2.3.4 5.6.7.8 65536 2'), /^expected a port from 0 to 65535, got "65536"$/],
  ['a destination port above 65535', line('TCP4 1.2.3.4 5.6.7.8 1 99999'), /got "99999"/],
  ['a negative port', line('TCP4 1.2.3.4 5.6.7.8 -1 2'), /got "-1"/],
  ['a port with a leading zero', line('TCP4 1.2.3.4 5.6.7.8 01 2'), /got "01"/],
  ['bytes beyond ASCII', line('TCP4 1.2.3.4 5.6.7.8 ١ 2'), /expected a port/],
  ['LF alone', Buffer.from('PROXY UNKNOWN\n'), /expected CRLF/],
  ['CR alone', Buffer.from('PROXY UNKNOWN\rx'), /expected CRLF/],
  ['a line of 108 bytes', line(`UNKNOWN ${'x'.repeat(92)}`), /at most 107 bytes/],
  ['107 bytes without an end', Buffer.from(`PROXY UNKNOWN ${'x'.repeat(93)}`), /at most 107 bytes/],
  [
    'version 1 in binary',
    Buffer.from(`${SIGNATURE}11`, 'hex'),
    /^expected version 2 of the PROXY header, got version 1$/
  ],
  ['an unknown command', Buffer.from(`${SIGNATURE}22`, 'hex'), /LOCAL \(0\) or PROXY \(1\), got 2/],
  ['an unknown family', Buffer.from(`${SIGNATURE}2141`, 'hex'), /address family and transport.*got 0x41/],
  ['an unknown transport', Buffer.from(`${SIGNATURE}2113`, 'hex'), /got 0x13/],
  ['an unreasonable length', v2('21', '11', '', 4097), /at most 4096 bytes, got 4097/],
  ['an unreasonable length of LOCAL', v2('20', '00', '', 65535), /at most 4096 bytes, got 65535/],
  ['IPv4 addresses cut short', v2('21', '11', '', 11), /^expected 12 bytes of addresses.*got 11$/],
  ['IPv6 addresses cut short', v2('21', '21', IPV4), /expected 36 bytes of addresses.*got 12/],
  ['UNIX addresses cut short', v2('21', '31', IPV6), /expected 216 bytes of addresses/],
  ['a TLV without its length', v2('21', '11', `${IPV4}0100`), /a TLV of type 0x01 runs past the end/],
  ['a TLV that runs past the end', v2('21', '11', `${IPV4}01000261`), /type 0x01 runs past the end/],
  ['PP2_TYPE_SSL cut short', v2('21', '11', IPV4 + tlv('20', '03000000')), /at least 5 bytes of PP2_TYPE_SSL, got 4/],
  [
    'a sub-TLV that runs past its parent',
    v2('21', '11', `${IPV4 + ssl('03', '00000000', '22000561')}${tlv('04', '0000')}`),
    /type 0x22 runs past/
  ],
  ['a name that is not UTF-8', v2('21', '11', IPV4 + ssl('03', '00000000', tlv('22', 'c328'))), /in UTF-8/]
]

for (const [name, bytes, message] of malformed) {
  test(`parseProxyHeader() refuses ${name}`, () => {
    assert.throws(() => parseProxyHeader(bytes), { name: 'SyntaxError', message })
  })
}

test('parseProxyHeader() meets any bytes with a header, a question for more or a SyntaxError', () => {
  const binary = fc
    .tuple(fc.constantFrom('20', '21'), fc.constantFrom('00', '11', '21', '31'), fc.uint8Array({ maxLength: 300 }))
    .map(([command, family, rest]) => v2(command, family, Buffer.from(rest).toString('hex')))
  const text = fc.string({ unit: 'binary-ascii', maxLength: 120 }).map(s => Buffer.from(`PROXY ${s}\r\n`))
  const anything = fc.uint8Array({ maxLength: 200 }).map(b => Buffer.from(b))
  fc.assert(
    fc.property(fc.oneof(binary, text, anything), bytes => {
      try {
        const header = parseProxyHeader(bytes)
        assert.ok(header === undefined || header.length <= bytes.length)
      } catch (err) {
        assert.ok(err instanceof SyntaxError, `${err}`)
      }
    }),
    { numRuns: 500 }
  )
})

const tcp4 = Buffer.from('PROXY TCP4 198.51.100.7 10.0.0.1 56308 1883\r\n')
const binary = certified('03', '00000000')

/** A server that takes the header off and hands the socket on; `read` settles with what became of the header. */
async function proxied(t: TestContext, use: (socket: Socket, header: ProxyHeader) => void, timeoutMs = hangMs) {
  let settle: (outcome: Promise<{ header: ProxyHeader; socket: Socket }>) => void
  const read = new Promise<{ header: ProxyHeader; socket: Socket }>(resolve => {
    settle = resolve
  })
  const sockets: Socket[] = []
  const server = createServer({ pauseOnConnect: true }, socket => {
    sockets.push(socket)
    settle(
      readProxyHeader(socket, timeoutMs).then(header => {
        assert.deepEqual(listeners(socket), [])
        use(socket, header)
        return { header, socket }
      })
    )
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const peer = connect({ port, host: '127.0.0.1', noDelay: true }).on('error', () => {})
  await once(peer, 'connect')
  t.after(() => {
    for (const socket of [peer, ...sockets]) socket.destroy()
    server.close()
  })
  read.catch(() => {})
  return { peer, read, sockets }
}

const listeners = (socket: Socket): string[] =>
  ['readable', 'data', 'error', 'close'].filter(name => socket.listenerCount(name) > 0)

/** Each part in a segment of its own, as far as a test can tell. */
async function send(peer: Socket, parts: Iterable<Buffer>): Promise<void> {
  for (const part of parts) {
    peer.write(part)
    await setImmediate()
  }
}
const byteByByte = (bytes: Buffer): Buffer[] => Array.from(bytes, byte => Buffer.of(byte))

/** A connection whose first write goes out with `header` in front of it. */
function behind(peer: Socket, header: Buffer, split: (bytes: Buffer) => Iterable<Buffer>): Duplex {
  let sent = false
  const duplex = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      const bytes = sent ? chunk : Buffer.concat([header, chunk])
      sent = true
      send(peer, split(bytes)).then(() => done(), done)
    }
  })
  peer.on('data', chunk => duplex.push(chunk)).on('close', () => duplex.destroy())
  return duplex
}

const ways: readonly [string, (bytes: Buffer) => Iterable<Buffer>][] = [
  ['one segment', bytes => [bytes]],
  ['byte by byte', byteByByte]
]

describe('readProxyHeader()', { concurrency: true }, () => {
  for (const [way, split] of ways) {
    test(`leaves a data listener exactly what follows, ${way}`, async t => {
      const payload = Buffer.from('\x10\x0c\0\x04MQTT\x04\x02\0<\0\0PROXY TCP4')
      const got: Buffer[] = []
      const { peer, read } = await proxied(t, socket => socket.on('data', chunk => got.push(chunk)))
      await send(peer, split(Buffer.concat([binary, payload])))
      peer.end()
      const { header, socket } = await read
      assert.deepEqual(header, { source: client, certificateName: 'meter-7', length: binary.length })
      await once(socket, 'end')
      assert.deepEqual(Buffer.concat(got), payload)
    })

    test(`leaves http.Server exactly what follows, ${way}`, async t => {
      const http = createHttpServer(async (request, response) => {
        const body: Buffer[] = []
        for await (const chunk of request) body.push(chunk)
        response.end(`${request.method} ${request.url} ${Buffer.concat(body)}`)
      })
      const { peer } = await proxied(t, socket => http.emit('connection', socket))
      const request = 'POST /mqtt HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello'
      const answer = peer.setEncoding('utf8').toArray()
      await send(peer, split(Buffer.concat([tcp4, Buffer.from(request)])))
      assert.match((await answer).join(''), /^HTTP\/1.1 200 OK.*POST \/mqtt hello/s)
    })

    test(`leaves tls.Server exactly what follows, ${way}`, async t => {
      const dir = await mkdtemp(join(tmpdir(), 'proxy-protocol-'))
      t.after(() => rm(dir, { recursive: true }))
      await ensureCertificates(dir, { hostname: 'localhost' })
      const [key, cert, ca] = await Promise.all(['key.pem', 'cert.pem', 'cacert.pem'].map(f => readFile(join(dir, f))))
      const tls = createTlsServer({ key: key!, cert: cert! }, socket => socket.pipe(socket))
      const { peer, read } = await proxied(t, socket => tls.emit('connection', socket))
      const secure = connectTls({ socket: behind(peer, tcp4, split), ca: ca!, servername: 'localhost' })
      secure.write('hello')
      const [echo] = await once(secure, 'data')
      assert.equal(String(echo), 'hello')
      assert.equal(secure.authorized, true)
      assert.deepEqual((await read).header.source, client)
      secure.destroy()
    })
  }

  test('leaves what comes later to a listener that is attached later', async t => {
    const { peer, read } = await proxied(t, () => {})
    await send(peer, [Buffer.concat([tcp4, Buffer.from('on')])])
    const { socket } = await read
    await send(peer, [Buffer.from('e t')])
    await setTimeout(20)
    peer.end('wo')
    assert.equal((await socket.setEncoding('utf8').toArray()).join(''), 'one two')
  })

  test('keeps what a peer sent before it closed, until somebody listens', async t => {
    const { peer, read } = await proxied(t, () => {})
    peer.end(Buffer.concat([tcp4, Buffer.from('last words')]))
    const { socket } = await read
    await setTimeout(30)
    assert.equal((await socket.setEncoding('utf8').toArray()).join(''), 'last words')
  })

  test('a peer that closes right after its header is still heard to close', async t => {
    const { peer, read } = await proxied(t, () => {})
    peer.end(tcp4)
    const { socket } = await read
    await once(socket.resume(), 'close')
  })

  const failures: readonly [string, (peer: Socket, sockets: Socket[]) => unknown, RegExp][] = [
    ['a malformed header', peer => peer.write('PROXY TCP5 \r\n'), /TCP4 or TCP6/],
    ['anything else at its first byte', peer => peer.write('\x10'), /^expected a PROXY header, got the bytes 10$/],
    ['an end without a byte', peer => peer.end(), /^the connection closed before its PROXY header$/],
    ['an early end', peer => peer.end('PROXY TCP4'), /^the connection closed after 10 bytes of its PROXY header$/],
    ['a reset', peer => peer.resetAndDestroy(), /^the connection failed before its PROXY header: .*ECONNRESET/],
    ['a close on this side', async (_peer, sockets) => sockets[0]!.destroy(), /^the connection closed before/]
  ]
  for (const [name, fail, message] of failures) {
    test(`rejects on ${name} and takes its listeners with it`, async t => {
      const { peer, read, sockets } = await proxied(t, () => {})
      while (sockets.length === 0) await setImmediate()
      await fail(peer, sockets)
      await assert.rejects(read, { message })
      assert.deepEqual(listeners(sockets[0]!), [])
    })
  }

  test('rejects when no header comes in time, and leaves the socket open', async t => {
    const { peer, read, sockets } = await proxied(t, () => {}, 30)
    peer.write('PROXY TCP4')
    await assert.rejects(read, { message: 'no PROXY header within 30 ms' })
    assert.equal(sockets[0]!.destroyed, false)
    assert.deepEqual(listeners(sockets[0]!), [])
  })

  test('rejects a socket that is gone already', async () => {
    const socket = new Socket()
    socket.destroy()
    await assert.rejects(readProxyHeader(socket, 1000), { message: 'the connection closed before its PROXY header' })
  })
})

test('readProxyHeader() finds the same header however it is split', async () => {
  const index = fc.nat({ max: good.length - 1 })
  await fc.assert(
    fc.asyncProperty(
      index,
      fc.array(fc.nat({ max: 250 }), { maxLength: 6 }),
      fc.string({ maxLength: 20 }),
      async (i, cuts, rest) => {
        const [, bytes, source, certificateName] = good[i]!
        const all = Buffer.concat([bytes, Buffer.from(rest)])
        const chunks: Buffer[] = []
        let at = 0
        for (const cut of [...cuts.filter(c => c < all.length).sort((a, b) => a - b), all.length]) {
          if (cut > at) chunks.push(all.subarray(at, cut))
          at = cut
        }
        // A stream is all that it needs of a socket.
        const stream = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
        const header = readProxyHeader(stream as Socket, hangMs)
        for (const chunk of chunks) {
          stream.push(chunk)
          await setImmediate()
        }
        stream.push(null)
        assert.deepEqual(await header, { source, certificateName, length: bytes.length })
        const left = Buffer.concat(stream.readableEnded ? [] : await stream.toArray())
        assert.deepEqual(left, Buffer.from(rest))
      }
    ),
    { numRuns: 60 }
  )
})
