/** The small parts: what starting, stopping and other settings mean to each. */
import { hostname } from 'node:os'
import { isDeepStrictEqual } from 'node:util'
import type { Access } from '../access/access.js'
import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import { jsonRecordsIn } from '../base/json-records.js'
import { lock } from '../base/lock.js'
import type { LogRoot, Sink } from '../base/log/log.js'
import type { ClientManager } from '../client/manager.js'
import { apisOf, type BrokerOptions, type LogOptions, listenersOf } from '../config/broker-keys.js'
import { ensureCertificates } from '../net/certificates.js'
import type { SysTopics } from '../observe/sys-topics.js'
import type { PluginHost, ProvidedPlugin } from '../plugins/host.js'
import type { Part } from './part.js'
import { changesBetween } from './reload.js'
import type { Settings } from './settings.js'

/** Holding the home's lock is what makes this the only broker of the home. */
export function lockPart(home: Home, node: string): Part {
  let unlock = (): void => {}
  return {
    name: 'lock',
    start: () => {
      const held = lock(home.brokerLock)
      if (typeof held === 'number') throw new BrokerError('CONFLICT', `Node is already running! (${node}, pid ${held})`)
      unlock = held
    },
    stop: () => unlock()
  }
}

export const bansPart = ({ banned }: Access, home: Home): Part => ({
  name: 'bans',
  start: () => banned.open(jsonRecordsIn(home.path('data/banned.json'))),
  stop: () => banned.close()
})

/** The usual certificates are made at the first start, and anew before they expire. */
export const certificatesPart = ({ options }: Settings, home: Home, log: LogRoot): Part => ({
  name: 'certificates',
  start: () => makeCertificates(options, home, log),
  prepare: async ({ next }) => {
    await makeCertificates(next.options, home, log)
    return undefined
  }
})

/** Only where a listener uses the usual files. */
async function makeCertificates(options: BrokerOptions, home: Home, log: LogRoot): Promise<void> {
  const files = [...listenersOf(options).map(({ tls }) => tls?.certfile), ...apisOf(options).map(o => o.certfile)]
  const wanted = files.some(file => file !== undefined && home.path(file) === home.path('etc/certs/cert.pem'))
  if (!wanted) return
  try {
    const outcome = await ensureCertificates(home.certs, { hostname: hostname() })
    if (outcome !== 'kept') log.info(`certificates ${outcome}`, { in: home.certs })
  } catch (err) {
    // A renewal that cannot be written leaves certificates that still work; without any, the listener says so.
    if (!(err instanceof BrokerError) || err.code !== 'UNAVAILABLE') throw err
    log.error('certificates were not made or renewed', { in: home.certs, err })
  }
}

/** The settings in force, for all that ask the server. */
export const settingsPart = (use: (next: Settings) => void): Part => ({
  name: 'settings',
  prepare: ({ next }) => ({ apply: () => use(next), abandon: () => {} })
})

/** @param sinksOf what `log.*` asks for; undefined where that is not the configuration's. */
export const logPart = (log: LogRoot, sinksOf: ((options: LogOptions) => Sink[]) | undefined): Part => ({
  name: 'log',
  prepare: ({ next, was }) => {
    const { log: options } = next.options
    const isSame = sinksOf === undefined || isDeepStrictEqual(options, was.options.log)
    const sinks = isSame ? undefined : sinksOf(options)
    return {
      abandon: async () => void (await Promise.all((sinks ?? []).map(sink => sink.close?.()))),
      apply: async () => {
        log.limitRepeats(options.messagesPerSecond)
        if (sinks !== undefined) await log.replaceSinks(sinks)
      }
    }
  }
})

export const accessPart = (access: Access): Part => ({
  name: 'access',
  prepare: ({ next, was, rereads }) => {
    const { mqtt } = next.options
    const acl = rereads || mqtt.aclFile !== was.options.mqtt.aclFile ? next.loadAcl() : access.acl
    const isSame = isDeepStrictEqual(acl.rules, access.acl.rules)
    return {
      abandon: () => {},
      apply: () => access.reconfigure(mqtt, next.loadAcl, acl),
      ...(isSame ? {} : { report: { rules: acl.rules.length } })
    }
  }
})

export const clientsPart = (clients: ClientManager): Part => ({
  name: 'clients',
  stop: () => clients.close(),
  prepare: ({ next }) => ({ abandon: () => {}, apply: () => clients.reconfigure(next.options.mqtt) })
})

export const sysTopicsPart = (sys: SysTopics): Part => ({
  name: '$SYS',
  start: () => sys.start(),
  stop: () => sys.stop(),
  prepare: ({ next }) => ({ abandon: () => {}, apply: () => sys.reconfigure(next.options.mqtt.broker.sysInterval) })
})

/** @param remembers whether there is a home, which has the names of those that were loaded. */
export const pluginsPart = (plugins: PluginHost, remembers: boolean, provided: readonly ProvidedPlugin[]): Part => ({
  name: 'plugins',
  start: async () => {
    if (remembers) await plugins.loadRemembered()
    for (const { plugin, options } of provided) await plugins.adopt(plugin, options)
  },
  stop: () => plugins.stopAll(),
  prepare: ({ rereads }) => {
    const changes = rereads ? plugins.changes() : []
    if (changes.length === 0) return undefined
    let isExchanged = false
    return {
      open: async () => {
        await plugins.exchange(changes)
        isExchanged = true
      },
      apply: () => {},
      abandon: async () => {
        if (isExchanged) await plugins.exchange(changes.map(({ name, was, next }) => ({ name, was: next, next: was })))
      },
      report: {
        plugins: changes.map(({ name }) => name.replaceAll('-', '_')),
        changes: changes.flatMap(({ was, next }) => changesBetween(was.values!, next.values!, () => 'now'))
      }
    }
  }
})
