/**
 * The policy of a connection's life: whether a client comes in, who has the place of a client id, which filters are
 * granted. aedes decides it. Nothing outside this file names aedes, and only its public interface is used. Messages, sessions and
 * subscriptions are ours, so what it would do with them finds nothing here to do it
 * with: a message queue that carries nothing and a store that keeps nothing.
 */
import type { EventEmitter } from 'node:events'
import { type Duplex, Readable } from 'node:stream'
import { Aedes, type AuthenticateError, type Client } from 'aedes'
import { type Contender, Takeover } from '../takeover.js'
import { connectOf, disconnectPlain, subscribeOf, unsubscribePlaceholder } from './packets.js'
import { AedesStream, type StreamOwner } from './stream.js'

/** A client that is to be decided over, and what aedes asks it. */
export interface PolicyClient extends Contender, StreamOwner {
  /** Its place with the policy, which alone uses it. */
  place: AedesStream<PolicyClient> | undefined
  /** Who is it? Undefined lets it in; else the return code of CONNACK, in MQTT 3.1.1's numbers. */
  authenticate(): number | undefined | Promise<number | undefined>
  /** May it subscribe? */
  authorizeSubscribe(filter: string): boolean | Promise<boolean>
}

export class ConnectionPolicy {
  readonly #aedes: Aedes
  readonly #takeover = new Takeover<PolicyClient>()

  private constructor(aedes: Aedes) {
    this.#aedes = aedes
  }

  /** @param failed is told of what goes wrong within aedes. */
  static async create(failed: (err: Error) => void): Promise<ConnectionPolicy> {
    const clientOf = (client: Client): PolicyClient => (client.conn as unknown as AedesStream<PolicyClient>).owner
    const aedes = await Aedes.createBroker({
      mq: silentQueue,
      persistence: emptyStore(),
      maxClientsIdLength: 65_535,
      keepaliveLimit: 0,
      queueLimit: Number.MAX_SAFE_INTEGER, // packets come one at a time
      connectTimeout: 2 ** 31 - 1 // ours comes first, and may be changed
    })
    const policy = new ConnectionPolicy(aedes)
    aedes.authenticate = (client, _username, _password, done) => {
      const refuse = (err: Error, returnCode: number): void =>
        done(Object.assign(err, { returnCode }) as AuthenticateError, null)
      const decided = (code: number | undefined): void => {
        if (code !== undefined) return refuse(new Error('refused'), code)
        const turn = policy.#takeover.take(clientOf(client))
        // At once where it can: most clients need wait for nobody.
        if (turn === undefined) done(null, true)
        else void turn.then(() => done(null, true))
      }
      const code = clientOf(client).authenticate()
      if (!(code instanceof Promise)) return decided(code)
      code.then(decided, (err: Error) => refuse(err, 3))
    }
    aedes.authorizeSubscribe = (client, subscription, done) => {
      // At once where it can: a SUBSCRIBE that takes no time is in force before the next read of anybody's socket.
      const judged = (allowed: boolean): void => done(null, allowed ? subscription : null) // null is SUBACK 0x80
      const { filters } = client.conn as unknown as AedesStream
      const verdict = clientOf(client).authorizeSubscribe(filters[Number(subscription.topic)]!)
      if (typeof verdict === 'boolean') judged(verdict)
      else verdict.then(judged, (err: Error) => done(err))
    }
    aedes.on('client', client => policy.#takeover.placed(clientOf(client)))
    aedes.on('clientDisconnect', client => policy.#takeover.left(clientOf(client)))
    ;(aedes as EventEmitter).on('error', failed)
    return policy
  }

  /**
   * Judges a client that has sent CONNECT, and gives it the place of its client id, which another client leaves for it.
   * Resolves to the return code of CONNACK; undefined when the connection ends first. After 0, entered() must follow.
   */
  async connect(client: PolicyClient): Promise<number | undefined> {
    const place = new AedesStream(client)
    client.place = place
    this.#aedes.handle(place as unknown as Duplex) // it has what aedes calls
    return (await place.ask(connectOf(client.clientId)))?.[3]
  }

  /** The client is in: the next of its client id may take its place. */
  entered(client: PolicyClient): void {
    this.#takeover.over(client)
  }

  /** Whether each filter is granted, in the order of the packet [MQTT-3.8.4-6]; undefined when the connection ends first. */
  async subscribe(client: PolicyClient, filters: readonly string[]): Promise<boolean[] | undefined> {
    const place = client.place!
    place.filters = filters
    const suback = await place.ask(subscribeOf(filters))
    if (suback === undefined) return undefined
    return Array.from(suback.subarray(suback.length - filters.length), code => code !== 0x80)
  }

  /** False when the connection ends first. */
  async unsubscribe(client: PolicyClient): Promise<boolean> {
    return (await client.place!.ask(unsubscribePlaceholder)) !== undefined
  }

  /** The client has said DISCONNECT. */
  leave(client: PolicyClient): void {
    client.place?.push(disconnectPlain)
  }

  /** The client's connection is over. */
  gone(client: PolicyClient): void {
    client.place?.destroy()
    this.#takeover.over(client)
  }

  async close(): Promise<void> {
    await new Promise<void>(resolve => {
      this.#aedes.close(resolve)
    })
  }
}

/** mqemitter's four methods: what aedes publishes (its heartbeat and the like) is for other aedes'. */
const silentQueue = {
  on(_topic: string, _listener: unknown, done?: () => void) {
    done?.()
    return this
  },
  removeListener(_topic: string, _listener: unknown, done?: () => void) {
    done?.()
    return this
  },
  emit(_message: unknown, done?: () => void) {
    done?.()
    return this
  },
  close(done: () => void) {
    setImmediate(done)
  }
}

/** The methods of aedes-persistence that a connection's life touches. */
function emptyStore() {
  const nothing = async (): Promise<void> => {}
  const none = async (): Promise<[]> => []
  const empty = (): Readable => Readable.from([])
  return {
    setup: nothing,
    destroy: nothing,
    subscriptionsByClient: none,
    subscriptionsByTopic: none,
    addSubscriptions: nothing,
    removeSubscriptions: nothing,
    cleanSubscriptions: nothing,
    cleanIncoming: nothing,
    storeRetained: nothing,
    createRetainedStreamCombi: empty,
    outgoingEnqueue: nothing,
    outgoingEnqueueCombi: nothing,
    outgoingUpdate: nothing,
    outgoingClearMessageId: nothing,
    // aedes hands it to pipeline(), to which an iterable is as good as a stream and costs each CONNECT less
    outgoingStream: () => [] as unknown as Readable,
    putWill: nothing,
    delWill: nothing,
    streamWill: empty
  }
}
