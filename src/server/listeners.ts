/**
 * The listeners of MQTT as one part: they open last, and other settings open every new port before any listener changes.
 * Where a listener that is to go or to move stands in the way of a new port, it is closed for a moment.
 */
import { BrokerError } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import { type ListenerOptions, listenersOf } from '../config/broker-keys.js'
import type { Listener, PreparedListener } from '../net/listener.js'
import type { Part, Prepared, Reconfiguration } from './part.js'
import { noted, trying } from './problems.js'
import type { Settings } from './settings.js'

export interface ListenersDeps {
  readonly log: Log
  make(options: ListenerOptions): Listener
  /** Ends the connections that came through a listener which is no more. */
  hangUpOn(listener: string): void
  /** The broker is asked to stop while it starts. */
  isStopping(): boolean
}

interface Plan {
  readonly listener: Listener
  /** Undefined: it goes. */
  readonly prepared: PreparedListener | undefined
}

export class Listeners implements Part {
  readonly name = 'listeners'
  readonly #deps: ListenersDeps
  #all: readonly Listener[]

  constructor(settings: Settings, deps: ListenersDeps) {
    this.#deps = deps
    this.#all = listenersOf(settings.options).map(options => deps.make(options))
  }

  get all(): readonly Listener[] {
    return this.#all
  }

  async start(): Promise<void> {
    for (const listener of this.#all) {
      if (this.#deps.isStopping()) break // asked to, by the admin socket
      await listener.open()
      this.#deps.log.info('listening', { listener: listener.name, on: listener.info().bind })
    }
  }

  stopAccepting(): void {
    for (const listener of this.#all) listener.stopAccepting()
  }

  async stop(): Promise<void> {
    await Promise.all(this.#all.map(listener => listener.close()))
  }

  prepare({ next, was }: Reconfiguration): Prepared {
    const problems: string[] = []
    const plans = this.#plans(next, was, problems)
    const staying = plans.filter(({ prepared }) => prepared !== undefined).map(({ listener }) => listener)
    const leaving = plans.filter(({ prepared }) => prepared === undefined).map(({ listener }) => listener)
    const suspended: (() => Promise<void>)[] = []
    const abandon = async (): Promise<void> => {
      for (const { prepared } of plans) prepared?.abandon()
      for (const resume of suspended) {
        await resume().catch((cause: unknown) => this.#deps.log.error('listener lost', { cause }))
      }
    }
    if (problems.length > 0) {
      void abandon()
      throw new BrokerError('CONFIG_INVALID', problems.join('\n'))
    }
    return {
      abandon,
      open: () => openAll(plans, suspended),
      apply: async () => {
        for (const { prepared } of plans) prepared?.apply()
        this.#all = staying
        for (const listener of leaving) {
          listener.stopAccepting()
          this.#deps.hangUpOn(listener.name)
        }
        await Promise.all(leaving.map(listener => listener.close({ goodbyes: true })))
      },
      report: { certificates: plans.filter(({ prepared }) => prepared?.renews).map(({ listener }) => listener.name) }
    }
  }

  /** What becomes of each listener: those that are to be, in their order, then those that are to go. */
  #plans({ options }: Settings, { options: was }: Settings, problems: string[]): Plan[] {
    const shared =
      was.mqtt.maxPacketSize !== options.mqtt.maxPacketSize ||
      was.mqtt.websocketProtocolHeader !== options.mqtt.websocketProtocolHeader
    const wanted = listenersOf(options).flatMap((each): Plan[] => {
      const there = this.#all.find(({ name }) => name === `${each.transport}:${each.name}`)
      const listener = there ?? this.#deps.make(each)
      const prepared = trying(problems, () => listener.prepare(each, { shared, opens: there === undefined }))
      return prepared === undefined ? [] : [{ listener, prepared }]
    })
    const gone = this.#all.filter(listener => !wanted.some(each => each.listener === listener))
    return [...wanted, ...gone.map(listener => ({ listener, prepared: undefined }))]
  }
}

/** Opens every new port; `suspended` then has what opens those again that were closed for it. */
async function openAll(plans: readonly Plan[], suspended: (() => Promise<void>)[]): Promise<void> {
  const leaving = plans.filter(
    ({ listener, prepared }) => listener.listening && (prepared === undefined || prepared.boundPort !== undefined)
  )
  const ports = plans.flatMap(({ prepared }) => prepared?.boundPort ?? [])
  const problems: string[] = []
  for (const { listener } of leaving) {
    if (ports.some(({ wantedPort }) => wantedPort === listener.port)) suspended.push(listener.suspend())
  }
  for (const port of ports) await port.open().catch((err: unknown) => noted(problems, err))
  if (problems.length > 0) throw new BrokerError('UNAVAILABLE', problems.join('\n'))
}
