/**
 * The sockets of a listener that are on their way to MQTT: what is known of each, and how long its next step (TLS
 * handshake, WebSocket) may take.
 *
 * A socket is found by its two ends, not by itself: the TLS socket made of it is another object with the same ends.
 */
import type net from 'node:net'
import type { Peer } from '../base/client-info.js'

/** What is known of a socket before MQTT speaks. */
export interface Arrival {
  /** As accepted, whatever TLS and WebSocket make of it. */
  readonly socket: net.Socket
  readonly peer: Peer
  /** False where a proxy does not say for whom it connects: its address is not the client's. */
  readonly isKnown: boolean
  readonly certificateName: string | undefined
}

export class Arrivals {
  readonly #byEnds = new Map<string, Arrival>()
  readonly #timers = new WeakMap<net.Socket, NodeJS.Timeout>()

  /** Until its socket is closed. */
  add(arrival: Arrival): void {
    const { socket } = arrival
    const ends = endsOf(socket)
    this.#byEnds.set(ends, arrival)
    socket.once('close', () => this.#byEnds.delete(ends))
  }

  /** More is known of one that is there. @param socket what TLS made of it. */
  update(socket: net.Socket, arrival: Arrival): void {
    this.#byEnds.set(endsOf(socket), arrival)
  }

  /** @param socket as accepted, or what TLS made of it. Undefined when it is gone. */
  of(socket: net.Socket): Arrival | undefined {
    return this.#byEnds.get(endsOf(socket))
  }

  /**
   * Calls `late` when the next step is not done in time. Node's own limits would not do: that of TLS starts anew
   * with every byte, and http.Server keeps its only while it listens itself.
   */
  expect({ socket }: Arrival, withinMs: number, late: () => void): void {
    clearTimeout(this.#timers.get(socket))
    if (!this.#timers.has(socket)) socket.once('close', () => clearTimeout(this.#timers.get(socket)))
    this.#timers.set(socket, setTimeout(late, withinMs))
  }

  /** It has come to MQTT, and nothing more is expected of it here. */
  done({ socket }: Arrival): void {
    clearTimeout(this.#timers.get(socket))
  }
}

const endsOf = ({ remoteAddress, remotePort, localAddress, localPort }: net.Socket): string =>
  `${remoteAddress}|${remotePort}|${localAddress}|${localPort}`
