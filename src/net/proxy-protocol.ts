/**
 * HAProxy's PROXY protocol, versions 1 and 2: what a load balancer writes in
 * front of a connection to say whose it is. Sections cited are those of "The
 * PROXY protocol" (haproxy, doc/proxy-protocol.txt).
 *
 * Whether a listener expects the header is for its configuration to say, never
 * for the first bytes (section 2): a client that may choose to send one chooses
 * its own address. So anything but a header is an error here.
 */
import { isUtf8 } from 'node:buffer'
import { isIPv4, isIPv6, type Socket, SocketAddress } from 'node:net'
import { messageOf } from '../base/errors.js'

export interface ProxyHeader {
  /** Undefined for LOCAL, UNKNOWN and families without an IP address: the connection counts as the proxy's own. */
  readonly source: { readonly address: string; readonly port: number } | undefined
  /** CN of the client's certificate, where the proxy says it has verified one. */
  readonly certificateName: string | undefined
  /** Bytes of the header; what the client sent follows them. */
  readonly length: number
}

type Content = Omit<ProxyHeader, 'length'>

const nothing: Content = { source: undefined, certificateName: undefined }

/**
 * Undefined: more bytes are needed. Throws a SyntaxError for anything else, in the
 * signature at the first wrong byte: a peer that speaks TLS or MQTT here learns at once.
 */
export function parseProxyHeader(bytes: Buffer): ProxyHeader | undefined {
  const signature = bytes[0] === textSignature[0] ? textSignature : binarySignature
  const seen = bytes.subarray(0, signature.length)
  if (!seen.equals(signature.subarray(0, seen.length))) {
    throw new SyntaxError(`expected a PROXY header, got the bytes ${inHex(seen)}`)
  }
  if (seen.length < signature.length) return undefined
  return signature === textSignature ? parseText(bytes) : parseBinary(bytes)
}

const inHex = (bytes: Buffer): string => (bytes.toString('hex').match(/../g) ?? []).join(' ')

// Version 1, section 2.1: one line of text.

const textSignature = Buffer.from('PROXY ')
/** The longest line a sender may write, its CRLF included. */
const maxLine = 107

function parseText(bytes: Buffer): ProxyHeader | undefined {
  const head = bytes.toString('latin1', 0, maxLine)
  const end = head.search(/[\r\n]/)
  const pending = end === -1 || (head[end] === '\r' && end + 1 === bytes.length)
  if (pending && bytes.length < maxLine) return undefined
  if (end === -1 || end + 2 > maxLine) {
    throw new SyntaxError(`expected a PROXY line of at most ${maxLine} bytes, got ${JSON.stringify(head)}`)
  }
  if (head.slice(end, end + 2) !== '\r\n') {
    throw new SyntaxError(`expected CRLF after the PROXY line, got ${JSON.stringify(head.slice(0, end + 2))}`)
  }
  return { ...parseLine(head.slice(0, end)), length: end + 2 }
}

function parseLine(line: string): Content {
  // The receiver must ignore whatever follows UNKNOWN.
  if (/^PROXY UNKNOWN( |$)/.test(line)) return nothing
  const [, family, from, to, fromPort, toPort] = /^PROXY (TCP4|TCP6) (\S+) (\S+) (\S+) (\S+)$/.exec(line) ?? []
  if (family === undefined) {
    throw new SyntaxError(
      `expected "PROXY", TCP4 or TCP6, two addresses and two ports, or "PROXY UNKNOWN", got ${JSON.stringify(line)}`
    )
  }
  const isAddress = family === 'TCP4' ? isIPv4 : (text: string) => isIPv6(text) && !text.includes('%')
  for (const address of [from!, to!]) {
    if (!isAddress(address)) {
      throw new SyntaxError(
        `expected an ${family === 'TCP4' ? 'IPv4' : 'IPv6'} address, got ${JSON.stringify(address)}`
      )
    }
  }
  for (const port of [fromPort!, toPort!]) {
    if (!/^(0|[1-9]\d{0,4})$/.test(port) || Number(port) > 65535) {
      throw new SyntaxError(`expected a port from 0 to 65535, got ${JSON.stringify(port)}`)
    }
  }
  return { source: { address: plain(from!), port: Number(fromPort) }, certificateName: undefined }
}

/** One spelling for each address, so that rules and logs can compare them; IPv4 without its IPv6 dressing. */
function plain(address: string): string {
  if (isIPv4(address)) return address
  const shortest = new SocketAddress({ address, family: 'ipv6' }).address
  const inner = shortest.replace(/^::ffff:/i, '')
  return isIPv4(inner) ? inner : shortest
}

// Version 2, section 2.2: binary.

const binarySignature = Buffer.from('0d0a0d0a000d0a515549540a', 'hex')
const fixedPart = 16
/** Far above what proxies send, far below the 64 KiB that the format allows. */
const maxLength = 4096

/** Bytes of the address block by family and transport; where it is unknown, so is where the TLVs begin. */
const addressBlocks: Readonly<Record<number, number>> = {
  17: 12, // TCP over IPv4
  18: 12, // UDP over IPv4: QUIC in front of the proxy
  33: 36, // TCP over IPv6
  34: 36,
  49: 216, // UNIX stream
  50: 216
}

function parseBinary(bytes: Buffer): ProxyHeader | undefined {
  if (bytes.length < 13) return undefined
  const version = bytes[12]! >> 4
  const command = bytes[12]! & 0x0f
  if (version !== 2) throw new SyntaxError(`expected version 2 of the PROXY header, got version ${version}`)
  if (command > 1) throw new SyntaxError(`expected the PROXY command LOCAL (0) or PROXY (1), got ${command}`)
  const local = command === 0

  if (bytes.length < 14) return undefined
  const family = bytes[13]!
  // Of LOCAL everything is ignored, the family too.
  if (!local && (family >> 4 > 3 || (family & 0x0f) > 2)) {
    throw new SyntaxError(`expected a known address family and transport in the PROXY header, got 0x${hexByte(family)}`)
  }

  if (bytes.length < fixedPart) return undefined
  const length = bytes.readUInt16BE(14)
  if (length > maxLength) throw new SyntaxError(`expected a PROXY header of at most ${maxLength} bytes, got ${length}`)
  const block = local ? undefined : addressBlocks[family]
  if (block !== undefined && length < block) {
    throw new SyntaxError(`expected ${block} bytes of addresses in the PROXY header, got ${length}`)
  }

  const end = fixedPart + length
  if (bytes.length < end) return undefined
  if (block === undefined) return { ...nothing, length: end }
  const addresses = bytes.subarray(fixedPart, fixedPart + block)
  return {
    source: block === 12 ? sourceOf(addresses, 4) : block === 36 ? sourceOf(addresses, 16) : undefined,
    certificateName: certificateName(bytes.subarray(fixedPart + block, end)),
    length: end
  }
}

const hexByte = (byte: number): string => byte.toString(16).padStart(2, '0')

/** Source and destination addresses come first, then the two ports. */
function sourceOf(block: Buffer, size: 4 | 16): ProxyHeader['source'] {
  const address = block.subarray(0, size)
  const text = size === 4 ? address.join('.') : address.toString('hex').match(/.{4}/g)!.join(':')
  return { address: plain(text), port: block.readUInt16BE(2 * size) }
}

/**
 * Section 2.2.6. `verify` is 0 also when there was no certificate at all, so the
 * client bits must say that there was one: on this connection or in its session.
 */
function certificateName(bytes: Buffer): string | undefined {
  const ssl = tlvs(bytes).get(PP2_TYPE_SSL)
  if (ssl === undefined) return undefined
  if (ssl.length < 5) throw new SyntaxError(`expected at least 5 bytes of PP2_TYPE_SSL, got ${ssl.length}`)
  const name = tlvs(ssl.subarray(5)).get(PP2_SUBTYPE_SSL_CN)
  const presented = (ssl[0]! & (PP2_CLIENT_CERT_CONN | PP2_CLIENT_CERT_SESS)) !== 0
  const verified = ssl.readUInt32BE(1) === 0
  if (name === undefined || name.length === 0 || !presented || !verified) return undefined
  // Two names that differ in broken bytes must not become one.
  if (!isUtf8(name)) throw new SyntaxError("expected the certificate's name in UTF-8, got other bytes")
  return name.toString('utf8')
}

const PP2_TYPE_SSL = 0x20
const PP2_SUBTYPE_SSL_CN = 0x22
const PP2_CLIENT_CERT_CONN = 0x02
const PP2_CLIENT_CERT_SESS = 0x04

/** Values by type; of several of one type the first counts. The checksum (0x03) is left to TCP, which has one. */
function tlvs(bytes: Buffer): Map<number, Buffer> {
  const values = new Map<number, Buffer>()
  let at = 0
  while (at < bytes.length) {
    const start = at + 3
    const end = start <= bytes.length ? start + bytes.readUInt16BE(at + 1) : Number.POSITIVE_INFINITY
    if (end > bytes.length) {
      throw new SyntaxError(`a TLV of type 0x${hexByte(bytes[at]!)} runs past the end of the PROXY header`)
    }
    if (!values.has(bytes[at]!)) values.set(bytes[at]!, bytes.subarray(start, end))
    at = end
  }
  return values
}

/**
 * Takes the header off a socket that nobody has read yet (`pauseOnConnect`). What
 * follows stays in it for `tls.Server`, `http.Server` or a data listener.
 *
 * The socket is the caller's in every case: after a failure it still has to be
 * destroyed, and errors that come later are its to hear. A peer that closed right
 * after its header may have ended it already; `close` is still to come.
 */
export async function readProxyHeader(socket: Socket, timeoutMs: number): Promise<ProxyHeader> {
  if (socket.destroyed || socket.readableEnded) throw new Error('the connection closed before its PROXY header')
  let bytes: Buffer = Buffer.alloc(0)
  let undo = (): void => {}
  try {
    return await new Promise<ProxyHeader>((resolve, reject) => {
      const readable = (): void => {
        try {
          const header = take()
          if (header !== undefined) resolve(header)
        } catch (err) {
          undo()
          reject(err)
        }
      }
      const closed = (): void => {
        const seen = bytes.length === 0 ? 'before its PROXY header' : `after ${bytes.length} bytes of its PROXY header`
        reject(new Error(`the connection closed ${seen}`))
      }
      const failed = (cause: Error): void => {
        reject(new Error(`the connection failed before its PROXY header: ${messageOf(cause)}`, { cause }))
      }
      const timer = setTimeout(() => reject(new Error(`no PROXY header within ${timeoutMs} ms`)), timeoutMs)
      undo = () => {
        clearTimeout(timer)
        socket.off('readable', readable).off('end', closed).off('close', closed).off('error', failed)
      }
      socket.on('readable', readable).on('end', closed).on('close', closed).on('error', failed)
    })
  } finally {
    undo()
  }

  function take(): ProxyHeader | undefined {
    for (let chunk = socket.read() as Buffer | null; chunk !== null; chunk = socket.read() as Buffer | null) {
      bytes = Buffer.concat([bytes, chunk])
      const header = parseProxyHeader(bytes)
      if (header === undefined) continue
      // Off first: an unshift tells 'readable'. Now and not later: an 'end' that waits is put off only by bytes.
      undo()
      if (bytes.length > header.length) socket.unshift(bytes.subarray(header.length))
      return header
    }
    return undefined
  }
}
