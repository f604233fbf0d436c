/**
 * aedes, as far as it is asked: the life of a connection. Nothing outside this file
 * names it, and only its public interface is used. Messages, sessions and
 * subscriptions are ours, so what it would do with them finds nothing here to do it
 * with: a message queue that carries nothing and a store that keeps nothing.
 */
import type { EventEmitter } from 'node:events'
import { Readable } from 'node:stream'
import { Aedes, type AuthenticateError, type Client } from 'aedes'
import type { AedesStream } from './aedes-stream.js'

/** What aedes asks of us, by the stream of the client. */
export interface Decisions {
  /** Undefined lets the client in; else the return code of its CONNACK. */
  authenticate(
    stream: AedesStream,
    username: string | undefined,
    password: Buffer | undefined
  ): Promise<number | undefined>
  authorizeSubscribe(stream: AedesStream, filter: string): boolean | Promise<boolean>
  registered(stream: AedesStream): void
  unregistered(stream: AedesStream): void
  failed(err: Error): void
}

export class ConnectionLife {
  readonly #aedes: Aedes

  private constructor(aedes: Aedes) {
    this.#aedes = aedes
  }

  static async create(decisions: Decisions, { idleTimeoutMs }: { idleTimeoutMs: number }): Promise<ConnectionLife> {
    const aedes = await Aedes.createBroker({
      mq: silentQueue,
      persistence: emptyStore(),
      maxClientsIdLength: 65_535,
      keepaliveLimit: 0,
      queueLimit: Number.MAX_SAFE_INTEGER, // packets come one at a time
      connectTimeout: Math.min(idleTimeoutMs + 60_000, 2 ** 31 - 1) // ours comes first
    })
    aedes.authenticate = (client, username, password, done) => {
      void decisions.authenticate(streamOf(client), username, password).then(
        code => {
          if (code === undefined) done(null, true)
          else done(Object.assign(new Error('refused'), { returnCode: code }) as AuthenticateError, null)
        },
        (err: Error) => done(Object.assign(err, { returnCode: 3 }) as AuthenticateError, null)
      )
    }
    aedes.authorizeSubscribe = (client, subscription, done) => {
      // At once where it can: a SUBSCRIBE that takes no time is in force before the next read of anybody's socket.
      const judged = (allowed: boolean): void => done(null, allowed ? subscription : null) // null is SUBACK 0x80
      const verdict = decisions.authorizeSubscribe(streamOf(client), subscription.topic)
      if (typeof verdict === 'boolean') judged(verdict)
      else verdict.then(judged, (err: Error) => done(err))
    }
    aedes.on('client', client => decisions.registered(streamOf(client)))
    aedes.on('clientDisconnect', client => decisions.unregistered(streamOf(client)))
    ;(aedes as EventEmitter).on('error', (err: Error) => decisions.failed(err))
    return new ConnectionLife(aedes)
  }

  handle(stream: AedesStream): void {
    this.#aedes.handle(stream)
  }

  async close(): Promise<void> {
    await new Promise<void>(resolve => {
      this.#aedes.close(resolve)
    })
  }
}

const streamOf = (client: Client): AedesStream => client.conn as AedesStream

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
    outgoingStream: empty,
    putWill: nothing,
    delWill: nothing,
    streamWill: empty
  }
}
