/**
 * A broker for tests of what speaks to one: on a free port, in memory, with the
 * messages that have come and a way to wait for one. It knows no test framework: an
 * expectation that is not met rejects with an AssertionError.
 *
 *   const broker = await testBroker()
 *   startLamp(broker.url)
 *   await broker.expect('lamps/+/state', { payload: { on: true }, retain: true })
 *   await broker.stop()
 */
import { AssertionError } from 'node:assert'
import { inspect, isDeepStrictEqual } from 'node:util'
import { type ClientInfo, type RunningBroker, type StartBrokerOptions, startBroker } from './index.js'
import { matches } from './wire/topic.js'

export interface TestBrokerOptions extends Omit<StartBrokerOptions, 'home'> {
  /** Milliseconds that an expectation waits unless it says otherwise; 1000. */
  readonly within?: number
}

/** A message that was published, by a client, by the program or as a will. */
export interface TestMessage {
  readonly topic: string
  readonly payload: Buffer
  /** The payload as UTF-8. */
  readonly text: string
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
  /** Client id of the publisher; undefined for the program itself. */
  readonly from: string | undefined
}

/** What a message must be; what is left out may be anything. */
export interface Expected {
  /**
   * Text or bytes: these. A RegExp: the text matches. A function: it says true. Any other object: the payload is
   * JSON for this.
   */
  readonly payload?: string | Uint8Array | RegExp | ((message: TestMessage) => boolean) | object
  readonly qos?: 0 | 1 | 2
  readonly retain?: boolean
  readonly from?: string
  /** Milliseconds to wait for it. */
  readonly within?: number
}

export interface TestBroker extends RunningBroker {
  /** `mqtt://127.0.0.1:…`; the first TCP or TLS listener's. */
  readonly url: string
  /** Every message so far, in order; those that were expected too. */
  readonly messages: readonly TestMessage[]
  /** Forgets the messages so far. */
  clear(): void
  /**
   * The first message under the filter that is as expected and was not taken by an expectation before: one that
   * has come, or one that comes in time.
   */
  expect(filter: string, expected?: Expected): Promise<TestMessage>
  /** Rejects when such a message has come or comes within that time; 100 ms unless said otherwise. */
  expectNone(filter: string, expected?: Expected): Promise<void>
  /** The client of this id, as soon as it is connected. */
  expectClient(clientId: string, options?: { readonly within?: number }): Promise<ClientInfo>
}

interface Waiting<T> {
  readonly fits: (value: T) => boolean
  readonly take: (value: T) => void
}

const schemes = { tcp: 'mqtt', ssl: 'mqtts', ws: 'ws', wss: 'wss' } as const
const usualMs = 1000
const silenceMs = 100

/** Starts one; the options are startBroker()'s, and without a listener there is one on a free port of 127.0.0.1. */
export async function testBroker({
  within: patience = usualMs,
  ...given
}: TestBrokerOptions = {}): Promise<TestBroker> {
  const listener: NonNullable<StartBrokerOptions['listener']> = given.listener ?? {
    tcp: { main: { bind: { host: '127.0.0.1', port: 0 } } }
  }
  const broker = await startBroker({ ...given, listener })
  const messages: TestMessage[] = []
  let left: TestMessage[] = []
  const waiting = new Set<Waiting<TestMessage>>()
  const arriving = new Set<Waiting<ClientInfo>>()
  broker.subscribe('#', ({ topic, payload, qos, retain, from }) => {
    const message = { topic, payload, text: payload.toString('utf8'), qos, retain, from }
    messages.push(message)
    const first = [...waiting].find(({ fits }) => fits(message))
    if (first === undefined) left.push(message)
    else first.take(message)
  })
  broker.on('client.connected', client => {
    for (const each of [...arriving]) if (each.fits(client)) each.take(client)
  })

  /** The value that comes in time; undefined when none does. */
  const coming = async <T>(among: Set<Waiting<T>>, fits: (value: T) => boolean, ms: number): Promise<T | undefined> =>
    await new Promise(resolve => {
      const done = (value: T | undefined): void => {
        clearTimeout(timer)
        among.delete(mine)
        resolve(value)
      }
      const mine = { fits, take: done }
      const timer = setTimeout(() => done(undefined), ms)
      among.add(mine)
    })
  const next = async (filter: string, expected: Expected, ms: number): Promise<TestMessage | undefined> => {
    const fits = (message: TestMessage): boolean => isAs(message, filter, expected)
    const there = left.find(fits)
    if (there === undefined) return await coming(waiting, fits, ms)
    left = left.filter(message => message !== there)
    return there
  }

  return {
    ...broker,
    get url() {
      const { name, port } = broker.listeners().find(l => /^(tcp|ssl):/.test(l.name)) ?? broker.listeners()[0]!
      const [transport, of] = name.split(':') as [keyof typeof schemes, string]
      const own = transport === 'ws' || transport === 'wss' ? (listener[transport]?.[of]?.path ?? '/mqtt') : ''
      return `${schemes[transport]}://127.0.0.1:${port}${own}`
    },
    messages,
    clear() {
      messages.length = 0
      left = []
    },
    expect: async function expect(filter, expected = {}) {
      const ms = expected.within ?? patience
      const message = await next(filter, expected, ms)
      if (message === undefined) fail(`no message ${wanted(filter, expected)} within ${ms} ms`, messages, expect)
      return message
    },
    expectNone: async function expectNone(filter, expected = {}) {
      const message = await next(filter, expected, expected.within ?? silenceMs)
      if (message !== undefined) fail(`a message ${wanted(filter, expected)}`, messages, expectNone)
    },
    expectClient: async function expectClient(clientId, { within = patience } = {}) {
      const isIt = (client: ClientInfo): boolean => client.clientId === clientId
      const client = broker.clients().find(isIt) ?? (await coming(arriving, isIt, within))
      if (client !== undefined) return client
      const there = broker.clients().map(c => c.clientId)
      const message = `no client ${clientId} within ${within} ms; connected: ${there.join(', ') || 'none'}`
      throw new AssertionError({ message, stackStartFn: expectClient })
    }
  }
}

function isAs(message: TestMessage, filter: string, { payload, qos, retain, from }: Expected): boolean {
  return (
    matches(filter, message.topic) &&
    (qos === undefined || qos === message.qos) &&
    (retain === undefined || retain === message.retain) &&
    (from === undefined || from === message.from) &&
    (payload === undefined || hasPayload(message, payload))
  )
}

function hasPayload(message: TestMessage, wanted: NonNullable<Expected['payload']>): boolean {
  if (typeof wanted === 'string') return message.text === wanted
  if (wanted instanceof Uint8Array) return message.payload.equals(wanted)
  if (wanted instanceof RegExp) return message.text.search(wanted) >= 0
  if (typeof wanted === 'function') return (wanted as (message: TestMessage) => boolean)(message)
  try {
    return isDeepStrictEqual(JSON.parse(message.text), wanted)
  } catch {
    return false
  }
}

const wanted = (filter: string, { within: _, ...expected }: Expected): string =>
  `on ${filter}${Object.keys(expected).length === 0 ? '' : ` with ${inspect(expected)}`}`

/** How many of the last messages a failure shows. */
const shown = 20

function fail(what: string, messages: readonly TestMessage[], stackStartFn: (...args: any[]) => unknown): never {
  const lines = messages
    .slice(-shown)
    .map(({ topic, text, qos, retain }) => `  ${topic} ${inspect(text)} qos=${qos}${retain ? ' retain' : ''}`)
  const more = messages.length > shown ? `, the last ${shown} of ${messages.length}` : ''
  const there = lines.length === 0 ? 'no message came' : `these came${more}:\n${lines.join('\n')}`
  throw new AssertionError({ message: `${what}; ${there}`, stackStartFn })
}
