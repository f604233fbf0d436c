/**
 * What a connection's packets are shown to, in both directions, while an operator traces them. The bytes are those
 * of the connection's own buffers: an observer reads them at once, and keeps none.
 */
export interface PacketObserver {
  /** One packet: it begins at `start`, its variable header at `at`. */
  received(bytes: Buffer, start: number, at: number, end: number): void
  /** Whole packets. */
  sent(bytes: Buffer): void
  closed(reason: string): void
}
