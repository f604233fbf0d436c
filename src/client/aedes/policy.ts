/**
 * aedes, as far as it is asked: the life of a connection. Nothing outside this file
 * names it, and only its public interface is used. Messages, sessions and
 * subscriptions are ours, so what it would do with them finds nothing here to do it
 * with: a message queue that carries nothing and a store that keeps nothing.
 */
import type { EventEmitter } from 'node:events'
import { type Duplex, Readable } from 'node:stream'
import { Aedes, type AuthenticateError, type Client } from 'aedes'
import type { AedesStream, Asker } from './stream.js'

/** What aedes asks of us. */
export interface Decisions<A extends Asker> {
  /** Undefined lets the client in; else the return code of its CONNACK. */
  authenticate(
    asker: A,
    username: string | undefined,
    password: Buffer | undefined
  ): number | undefined | Promise<number | undefined>
  authorizeSubscribe(asker: A, filter: string): boolean | Promise<boolean>
  registered(asker: A): void
  unregistered(asker: A): void
  failed(err: Error): void
}

export class ConnectionLife {
  readonly #aedes: Aedes

  private constructor(aedes: Aedes) {
    this.#aedes = aedes
  }

  static async create<A extends Asker>(decisions: Decisions<A>): Promise<ConnectionLife> {
    const askerOf = (client: Client): A => (client.conn as unknown as AedesStream).asker as A
    const aedes = await Aedes.createBroker({
      mq: silentQueue,
      persistence: emptyStore(),
      maxClientsIdLength: 65_535,
      keepaliveLimit: 0,
      queueLimit: Number.MAX_SAFE_INTEGER, // packets come one at a time
      connectTimeout: 2 ** 31 - 1 // ours comes first, and may be changed
    })
    aedes.authenticate = (client, username, password, done) => {
      const decided = (code: number | undefined): void => {
        if (code === undefined) done(null, true)
        else done(Object.assign(new Error('refused'), { returnCode: code }) as AuthenticateError, null)
      }
      const code = decisions.authenticate(askerOf(client), username, password)
      if (!(code instanceof Promise)) return decided(code)
      code.then(decided, (err: Error) => done(Object.assign(err, { returnCode: 3 }) as AuthenticateError, null))
    }
    aedes.authorizeSubscribe = (client, subscription, done) => {
      // At once where it can: a SUBSCRIBE that takes no time is in force before the next read of anybody's socket.
      const judged = (allowed: boolean): void => done(null, allowed ? subscription : null) // null is SUBACK 0x80
      const verdict = decisions.authorizeSubscribe(askerOf(client), subscription.topic)
      if (typeof verdict === 'boolean') judged(verdict)
      else verdict.then(judged, (err: Error) => done(err))
    }
    aedes.on('client', client => decisions.registered(askerOf(client)))
    aedes.on('clientDisconnect', client => decisions.unregistered(askerOf(client)))
    ;(aedes as EventEmitter).on('error', (err: Error) => decisions.failed(err))
    return new ConnectionLife(aedes)
  }

  handle(stream: AedesStream): void {
    this.#aedes.handle(stream as unknown as Duplex) // it has what aedes calls
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
