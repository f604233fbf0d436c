/**
 * Acknowledgements of one connection's messages, in the order in which the messages came
 * [MQTT-4.6.0-2], [MQTT-4.6.0-3]: one that waits for the disk holds up those behind it.
 */
import type { Outbox } from '../../net/outbox.js'
import type { Durability } from '../../persistence/durability.js'
import { ackWithReason } from '../../wire/packets.js'
import { Reason, type ReasonCode } from '../../wire/reason-codes.js'

/** A header of PUBACK or PUBREC. */
export type AckHeader = 0x40 | 0x50

interface Pending {
  readonly durability: Durability | undefined
  readonly header: AckHeader
  readonly packetId: number
  readonly reason: ReasonCode
}

export class Acks {
  readonly #out: Outbox
  readonly #isVersion5: boolean
  /** Called with the packet id of a QoS 2 message that could not be kept. */
  readonly #refused: (packetId: number) => void
  #pending: Pending[] = []
  /** Where the first of them is: an array's shift() moves all that is left. */
  #head = 0
  #roomy: { below: number; resolve: () => void } | undefined

  constructor(out: Outbox, isVersion5: boolean, refused: (packetId: number) => void) {
    this.#out = out
    this.#isVersion5 = isVersion5
    this.#refused = refused
  }

  get length(): number {
    return this.#pending.length - this.#head
  }

  /** Resolves when fewer than so many wait. */
  async roomy(below: number): Promise<void> {
    if (this.length < below) return
    await new Promise<void>(resolve => {
      this.#roomy = { below, resolve }
    })
  }

  /** @param durability undefined: nothing has to be kept for it. */
  add(durability: Durability | undefined, header: AckHeader, packetId: number, reason: ReasonCode): void {
    if (this.length === 0 && durability?.isOpen !== true) return this.#write(durability, header, packetId, reason)
    this.#pending.push({ durability, header, packetId, reason })
    if (durability !== undefined) durability.whenSettled(this)
  }

  #count(header: AckHeader): void {
    if (header === 0x40) this.#out.metrics.pubackSent++
    else this.#out.metrics.pubrecSent++
  }

  durabilitySettled(): void {
    while (this.#head < this.#pending.length) {
      const { durability, header, packetId, reason } = this.#pending[this.#head]!
      if (durability?.isOpen) break
      this.#head++
      this.#write(durability, header, packetId, reason)
    }
    if (this.#head === this.#pending.length || this.#head > 1024) {
      this.#pending = this.#pending.slice(this.#head)
      this.#head = 0
    }
    if (this.#roomy === undefined || this.length >= this.#roomy.below) return
    this.#roomy.resolve()
    this.#roomy = undefined
  }

  #write(durability: Durability | undefined, header: AckHeader, packetId: number, reason: ReasonCode): void {
    if (durability?.failed) {
      if (header === 0x50) this.#refused(packetId)
      // MQTT 3 has no word for it: the message stays unacknowledged, and is the client's to send again.
      if (!this.#isVersion5) return
      this.#count(header)
      this.#out.write(ackWithReason(header, packetId, Reason.QUOTA_EXCEEDED))
      return
    }
    this.#count(header)
    if (!this.#isVersion5 || reason === Reason.SUCCESS) this.#out.acknowledge(header, packetId)
    else this.#out.write(ackWithReason(header, packetId, reason))
  }
}
