/**
 * What aedes takes for the client's connection: it reads the control packets that we
 * hand it, and what it writes comes to us as whole packets.
 */
import { Duplex } from 'node:stream'

export class AedesStream extends Duplex {
  readonly #answered: (packet: Buffer) => void
  readonly #ended: () => void
  #rest: Buffer = Buffer.alloc(0)

  /**
   * @param answered takes a packet that aedes has written.
   * @param ended aedes has ended the connection, or we have.
   */
  constructor(answered: (packet: Buffer) => void, ended: () => void) {
    super({ allowHalfOpen: false })
    this.#answered = answered
    this.#ended = ended
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: (err?: Error | null) => void): void {
    this.#take(chunk)
    done()
  }

  override _writev(chunks: { chunk: Buffer }[], done: (err?: Error | null) => void): void {
    this.#take(Buffer.concat(chunks.map(({ chunk }) => chunk)))
    done()
  }

  override _destroy(_err: Error | null, done: (err?: Error | null) => void): void {
    this.#ended()
    done()
  }

  /** aedes writes packets in pieces; all that it still writes are shorter than 128 bytes but SUBACK. */
  #take(chunk: Buffer): void {
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    for (;;) {
      const bytes = this.#rest
      let at = 1
      let remaining = 0
      for (let shift = 0; ; shift += 7) {
        const byte = bytes[at++]
        if (byte === undefined) return
        remaining |= (byte & 127) << shift
        if (byte < 128) break
      }
      if (bytes.length < at + remaining) return
      this.#rest = bytes.subarray(at + remaining)
      this.#answered(bytes.subarray(0, at + remaining))
    }
  }
}
