/**
 * MQTT over WebSocket: an HTTP server that answers the request for an upgrade, and makes the stream of bytes that MQTT
 * is spoken on.
 *
 * The server never listens itself: the listener gives it the sockets, after the TLS handshake where there is one. What
 * the request claims is not what it proves: the client's address in a header counts only from a trusted proxy, and a
 * web page that reaches this host from this host's browser is not this host's own program.
 */
import http from 'node:http'
import type net from 'node:net'
import type { Duplex } from 'node:stream'
import { createWebSocketStream, type WebSocket, WebSocketServer } from 'ws'
import type { Peer } from '../base/client-info.js'
import type { WebSocketOptions } from '../config/broker-keys.js'
import { within } from '../config/values.js'
import type { Arrival } from './arrivals.js'
import type { Connection } from './connection.js'
import { addressIn, isLoopback } from './peer.js'

/** What all WebSocket listeners have in common. */
export interface WebSocketLimits {
  /** mqtt.websocket_protocol_header: whether a WebSocket must name an MQTT sub-protocol. */
  readonly needsSubprotocol: boolean
  readonly maxPacketSize: number
}

export interface WebSocketHandlers {
  /** Undefined for a socket that is gone. */
  arrivalOf(socket: net.Socket): Arrival | undefined
  /** Whether the access rules let an address in. */
  isAllowed(address: string): boolean
  /** @param isOwnOrigin false for a web page of another site. */
  establish(stream: Duplex, arrival: Arrival, isOwnOrigin: boolean): Connection
  /** The peer does not speak HTTP; its socket is closed next. */
  failed(err: Error): void
}

export function createWebSocketServer(
  options: WebSocketOptions,
  { needsSubprotocol, maxPacketSize }: WebSocketLimits,
  handlers: WebSocketHandlers
): http.Server {
  const sockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: maxPacketSize + 64 * 1024, // a message may hold many packets, but not end in the middle of memory
    handleProtocols: offered => ['mqtt', 'mqttv3.1'].find(p => offered.has(p)) ?? false
  })
  const server = http.createServer((_request, response) => {
    response.writeHead(426, { connection: 'close', 'content-type': 'text/plain' })
    response.end(`This is an MQTT listener: connect with a WebSocket to ${options.path}\n`)
  })
  server.on('upgrade', (request, socket, head) => {
    const [path] = (request.url ?? '/').split('?')
    const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map(p => p.trim())
    const arrival = handlers.arrivalOf(socket as net.Socket)
    socket.on('error', () => {}) // http.Server does not listen for it any more
    if (arrival === undefined) return socket.destroy()
    if (path !== options.path) return refuse(socket, '404 Not Found', `no MQTT at ${path}; it is at ${options.path}`)
    if (needsSubprotocol && !offered.includes('mqtt') && !offered.includes('mqttv3.1')) {
      return refuse(socket, '400 Bad Request', 'Sec-WebSocket-Protocol must be mqtt or mqttv3.1')
    }
    const peer = announcedPeer(request, arrival.peer, options)
    if (!handlers.isAllowed(peer.address)) return refuse(socket, '403 Forbidden', 'denied by an access rule')
    sockets.handleUpgrade(request, socket, head, ws => {
      ws.on('error', () => {}) // the stream hears the first, and there may be more
      // Before the stream hears of the frame, which takes text for bytes.
      ws.on('message', (_data, isBinary) => {
        if (isBinary) return
        ws.close(1003, 'binary frames only') // [MQTT-6.0.0-1]
        connection.fault('a WebSocket text frame')
      })
      const connection = handlers.establish(streamOf(ws), { ...arrival, peer }, hasOwnOrigin(request))
    })
  })
  server.on('clientError', (err, socket) => {
    handlers.failed(err)
    socket.destroy()
  })
  return server
}

/**
 * The client behind trusted proxies: each adds at the end the address that it heard from, so the last address that is not
 * itself a trusted proxy counts, and all before it is hearsay. So is what stands before something that is no
 * address. From anyone else the header counts for nothing.
 */
function announcedPeer(request: http.IncomingMessage, peer: Peer, options: WebSocketOptions): Peer {
  const { proxyAddressHeader, proxyPortHeader, trustedProxies } = options
  if (proxyAddressHeader === undefined) return peer
  const trusted = within(trustedProxies)
  const hops = String(request.headers[proxyAddressHeader.toLowerCase()] ?? '').split(',')
  let { address } = peer
  while (trusted(address)) {
    const before = addressIn(hops.pop()?.trim() ?? '')
    if (before === undefined) break
    address = before
  }
  if (address === peer.address) return peer
  const port = proxyPortHeader === undefined ? 0 : Number(request.headers[proxyPortHeader.toLowerCase()])
  return { address, port: Number.isInteger(port) && port >= 0 && port < 65536 ? port : 0 }
}

/**
 * Whether the request comes from a program, or from a page that this host serves. A page of any site can
 * open a WebSocket to 127.0.0.1, and must not be taken for this host's own user. That its origin is the host
 * it asks for says nothing: a site's name can be made to resolve to 127.0.0.1 once its page is there.
 */
function hasOwnOrigin({ headers: { origin } }: http.IncomingMessage): boolean {
  if (origin === undefined) return true
  try {
    const { hostname } = new URL(origin)
    return hostname === 'localhost' || isLoopback(hostname.replace(/^\[(.*)\]$/, '$1'))
  } catch {
    return false // `null`, of a sandboxed page or a file
  }
}

function streamOf(ws: WebSocket): Duplex {
  return createWebSocketStream(ws, { decodeStrings: true })
}

function refuse(socket: Duplex, status: string, why: string): void {
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n${why}\n`)
}
