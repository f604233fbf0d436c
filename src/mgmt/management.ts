/**
 * The management API as a part of the broker: its users, its listeners, and what of them
 * can go wrong. MQTT is what a broker is for: where the API's port is not to be had, or its
 * users cannot be read, the broker runs without it, says so, and goes on trying.
 */
import { BrokerError, messageOf } from '../base/errors.js'
import type { Home } from '../base/home.js'
import type { Log } from '../base/log/log.js'
import { type ApiOptions, apisOf, type BrokerOptions } from '../config/broker-keys.js'
import type { Alarms } from '../observe/alarms.js'
import type { AdminOperations, Operations, Phase, Report } from '../ops/operations.js'
import { Admins, firstUser } from './admins.js'
import { ApiListener, type PreparedApiListener } from './listener.js'
import { Login } from './login.js'

export interface ManagementDeps {
  readonly ops: Operations
  readonly home: Home
  readonly log: Log
  readonly alarms: Alarms
  phase(): Phase
  /** How long until a port that was not to be had is tried again. */
  readonly retryMs?: number
}

export class Management {
  readonly name = 'management API'
  readonly admins: Admins
  /** For who started the broker to read. */
  readonly notices: string[] = []
  readonly #deps: ManagementDeps
  readonly #login: Login
  readonly #retries = new Set<NodeJS.Timeout>()
  #listeners: readonly ApiListener[]

  constructor(options: BrokerOptions, deps: ManagementDeps) {
    const { home, log } = deps
    this.#deps = deps
    this.admins = new Admins(home.path('data/admins'), home.path('data/initial_admin_password'))
    this.#login = new Login(this.admins, log)
    this.#listeners = apisOf(options).map(each => this.#make(each))
  }

  get listeners(): readonly ApiListener[] {
    return this.#listeners
  }

  async start(): Promise<void> {
    for (const listener of this.#listeners) await this.#open(listener)
  }

  async stop(): Promise<void> {
    for (const retry of this.#retries) clearTimeout(retry)
    await Promise.all(this.#listeners.map(listener => listener.close()))
  }

  /** Other listeners, or others of theirs: every new port is open before any changes. */
  prepare({ next }: { readonly next: { readonly options: BrokerOptions } }) {
    const problems: string[] = []
    const wanted: { listener: ApiListener; prepared: PreparedApiListener; isNew: boolean }[] = []
    for (const options of apisOf(next.options)) {
      const there = this.#listeners.find(({ name }) => name === `api:${options.name}`)
      const listener = there ?? this.#make(options)
      const isNew = there === undefined
      try {
        wanted.push({ listener, isNew, prepared: listener.prepare(options, { opens: isNew }) })
      } catch (err) {
        if (!(err instanceof BrokerError)) throw err
        problems.push(messageOf(err))
      }
    }
    if (problems.length > 0) throw new BrokerError('CONFIG_INVALID', problems.join('\n'))
    const gone = this.#listeners.filter(listener => !wanted.some(each => each.listener === listener))
    const report: Partial<Report> = {
      certificates: wanted.filter(({ prepared }) => prepared.renews).map(({ listener }) => listener.name)
    }
    return {
      open: async () => {
        if (wanted.some(({ isNew }) => isNew)) await this.#makeFirst()
        for (const { prepared } of wanted) await prepared.open()
      },
      apply: async () => {
        this.#listeners = wanted.map(({ listener }) => listener)
        for (const { name } of gone) this.#deps.alarms.clear(alarmOf(name))
        await Promise.all([
          ...wanted.map(({ prepared }) => prepared.apply()),
          ...gone.map(listener => listener.close())
        ])
      },
      abandon: async () => {
        for (const { prepared } of wanted) await prepared.abandon()
      },
      report
    }
  }

  /** What an operator does with the users, and what the log has of it. */
  get operations(): AdminOperations {
    const { admins } = this
    const { log } = this.#deps
    const said = (what: string, whose: object): void => log.info(`management API: ${what}`, whose)
    return {
      users: () => admins.users(),
      add: async (username, password, tags) => {
        await admins.add(username, password, tags)
        said('user added', { username })
      },
      setPassword: async (username, password) => {
        await admins.setPassword(username, password)
        said('password changed', { username })
      },
      remove: username => {
        admins.remove(username)
        said('user deleted', { username })
      },
      tokens: () => admins.tokens(),
      addToken: (name, access) => {
        const token = admins.addToken(name, access)
        said('token added', { token: name, access })
        return token
      },
      removeToken: name => {
        admins.removeToken(name)
        said('token deleted', { token: name })
      }
    }
  }

  #make(options: ApiOptions): ApiListener {
    const { ops, home, log, alarms } = this.#deps
    return new ApiListener(options, {
      path: home.path,
      log,
      opened: () => alarms.clear(alarmOf(`api:${options.name}`)),
      load: async now => {
        const { createApp } = await import('./app.js')
        return await createApp({ ops, admins: this.admins, login: this.#login, log }, now)
      }
    })
  }

  /** Never open without a user. */
  async #makeFirst(): Promise<void> {
    const file = await this.admins.makeFirst()
    if (file === undefined) return
    this.notices.push(`management API: user ${firstUser}, its password is in ${file}`)
    this.#deps.log.info('management API: first user made', { username: firstUser, file })
  }

  async #open(listener: ApiListener, isRetry = false): Promise<void> {
    const { alarms, log, phase, retryMs = 10_000 } = this.#deps
    if (phase() === 'stopping' || listener.listening) return // an operator may have opened it meanwhile
    if (isRetry && !this.#listeners.includes(listener)) return // it was taken out of the configuration
    try {
      await this.#makeFirst()
      await listener.open()
      log.info('listening', { listener: listener.name, on: listener.info().bind })
    } catch (err) {
      if (!(err instanceof BrokerError) || err.code !== 'UNAVAILABLE') {
        if (!isRetry) throw err
        log.error('management API does not open', { listener: listener.name, err })
      } else if (!isRetry) {
        alarms.raise(alarmOf(listener.name), 'error', 'the management API is not open', { why: err.message })
        this.notices.push(`${err.message}; the broker runs without it`)
      }
      const retry = setTimeout(() => {
        this.#retries.delete(retry)
        void this.#open(listener, true)
      }, retryMs).unref()
      this.#retries.add(retry)
    }
  }
}

const alarmOf = (listener: string): string => `listener_down.${listener}`
