/** The will of a client: published when it goes without saying so, if it may publish there then. */
import type { Identity } from '../access/access.js'
import type { Action, ClientInfo } from '../base/client-info.js'
import type { Log } from '../base/log/log.js'
import type { Ingress } from '../delivery/ingress.js'
import { Message } from '../delivery/message.js'
import type { WillRecord } from '../persistence/records.js'
import type { Will } from '../wire/packets.js'
import { packet } from '../wire/packets.js'
import { encodeProperties, In, readProperties } from '../wire/properties.js'
import { Reader } from '../wire/reader.js'

/** What it takes to publish one. */
export interface WillDeps {
  authorize(identity: Identity, action: Action, topic: string): boolean | Promise<boolean>
  readonly ingress: Ingress
  readonly log: Log
}

export class LastWill {
  readonly #will: Will
  readonly #identity: Identity
  readonly #mountpoint: string
  readonly #deps: WillDeps

  constructor(will: Will, identity: Identity, mountpoint: string, deps: WillDeps) {
    this.#will = will
    this.#identity = identity
    this.#mountpoint = mountpoint
    this.#deps = deps
  }

  /** Seconds until it is sent. */
  get delay(): number {
    return this.#will.delay
  }

  /** Resolves when the will is with the subscribers that want it, and on disk where it must be; or is not to be sent. */
  publish(): Promise<void> {
    return this.#publish().catch((err: unknown) =>
      this.#deps.log.error('will', { clientId: this.#identity.client.clientId, err })
    )
  }

  async #publish(): Promise<void> {
    const { topic, payload, qos, retain, properties } = this.#will
    const { ingress } = this.#deps
    if (!(await this.#deps.authorize(this.#identity, 'publish', topic))) return
    const from = this.#identity.client.clientId
    let message: Message | null = Message.withProperties(topic, payload, { qos, retain, from }, properties)
    const { filter } = ingress
    if (filter !== undefined) message = await filter(message)
    if (message === null) return
    await ingress.deliver(this.#mountpoint === '' ? message : message.under(this.#mountpoint))
  }

  record(): WillRecord {
    const { topic, payload, qos, retain, properties, delay } = this.#will
    const { client, superuser } = this.#identity
    return {
      topic,
      payload: payload.toString('base64'),
      qos,
      retain,
      properties: encodeProperties(properties).toString('base64'),
      delay,
      mountpoint: this.#mountpoint,
      superuser,
      client: { ...client, connectedAt: client.connectedAt.toISOString() }
    }
  }
}

/** @param identify gives the client the identity that it had. */
export function willFrom(
  { payload, properties, mountpoint, superuser, client, ...rest }: WillRecord,
  identify: (client: ClientInfo, superuser: boolean) => Identity,
  deps: WillDeps
): LastWill {
  const encoded = packet(0, Buffer.from(properties, 'base64')).subarray(1) // with the length that stands before them
  const will = {
    ...rest,
    payload: Buffer.from(payload, 'base64'),
    properties: readProperties(new Reader(encoded, 0, encoded.length), In.WILL)
  }
  return new LastWill(
    will,
    identify({ ...client, connectedAt: new Date(client.connectedAt) }, superuser),
    mountpoint,
    deps
  )
}
