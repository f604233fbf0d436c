/**
 * The management API as a part of the broker: its users, its listeners, and what of them
 * can go wrong. MQTT is what a broker is for: where the API's port is not to be had, or its
 * users cannot be read, the broker runs without it, says so, and goes on trying.
 */

import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import { apisOf } from '../config/broker-keys.js'
import type { Server } from '../server/server.js'
import { Admins, firstUser } from './admins.js'
import { ApiListener } from './listener.js'
import { Login } from './login.js'

export class Management {
  readonly admins: Admins
  readonly listeners: readonly ApiListener[]
  /** For who started the broker to read. */
  readonly notices: string[] = []
  readonly #server: Server
  readonly #retryMs: number
  readonly #retries = new Set<NodeJS.Timeout>()

  constructor(server: Server, home: Home, retryMs = 10_000) {
    this.#retryMs = retryMs
    this.#server = server
    this.admins = new Admins(home.path('data/admins'), home.path('data/initial_admin_password'))
    const login = new Login(this.admins, server.log)
    this.listeners = apisOf(server.options).map(
      options =>
        new ApiListener(options, {
          path: home.path,
          log: server.log,
          opened: () => server.alarms.clear(`listener_down.api:${options.name}`),
          load: async () => await (await import('./app.js')).createApp(server, this, login, options)
        })
    )
  }

  async open(): Promise<void> {
    for (const listener of this.listeners) await this.#open(listener)
  }

  async close(): Promise<void> {
    for (const retry of this.#retries) clearTimeout(retry)
    await Promise.all(this.listeners.map(listener => listener.close()))
  }

  /** Never open without a user. */
  async #makeFirst(): Promise<void> {
    const file = await this.admins.makeFirst()
    if (file === undefined) return
    this.notices.push(`management API: user ${firstUser}, its password is in ${file}`)
    this.#server.log.info('management API: first user made', { username: firstUser, file })
  }

  async #open(listener: ApiListener, isRetry = false): Promise<void> {
    const { alarms, log, phase } = this.#server
    if (phase === 'stopping' || listener.listening) return // an operator may have opened it meanwhile
    try {
      await this.#makeFirst()
      await listener.open()
      log.info('listening', { listener: listener.name, on: listener.info().bind })
    } catch (err) {
      if (!(err instanceof BrokerError) || err.code !== 'UNAVAILABLE') {
        if (!isRetry) throw err
        log.error('management API does not open', { listener: listener.name, err })
      } else if (!isRetry) {
        alarms.raise(`listener_down.${listener.name}`, 'error', 'the management API is not open', { why: err.message })
        this.notices.push(`${err.message}; the broker runs without it`)
      }
      const retry = setTimeout(() => {
        this.#retries.delete(retry)
        void this.#open(listener, true)
      }, this.#retryMs).unref()
      this.#retries.add(retry)
    }
  }
}
