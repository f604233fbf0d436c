/** Who may come in and do what, where the configuration leaves that open; and whether the plugins that judge it can. */
import { isIP } from 'node:net'
import { AdminClient } from '../../admin/client.js'
import { version } from '../../base/home.js'
import { createLog } from '../../base/log/log.js'
import { type ListenerOptions, listenersOf } from '../../config/broker-keys.js'
import { showAddress, within } from '../../config/values.js'
import { Hooks } from '../../plugins/hooks.js'
import { PluginHost, pluginPaths } from '../../plugins/host.js'
import { PluginStorage } from '../../store/plugin-storage.js'
import { type Begun, type Check, type DoctorContext, type Finding, needsConfig } from './finding.js'

const loopback = within([
  { address: '127.0.0.0', prefix: 8, family: 'ipv4' },
  { address: '::1', prefix: 128, family: 'ipv6' }
])
const isOpen = ({ bind: { host } }: ListenerOptions): boolean =>
  host === undefined || !(host === 'localhost' || (isIP(host) !== 0 && loopback(host)))

export const access: Check = context => {
  if (context.settings === undefined) return [needsConfig('access')]
  const { allowAnonymous, aclNomatch } = context.settings.options.mqtt
  const listeners = listenersOf(context.settings.options)
  const open = listeners.filter(isOpen)
  const named = (all: readonly ListenerOptions[]): string =>
    all.map(l => `${l.transport}:${l.name} (${showAddress(l.bind)})`).join(', ')
  const judges = hostOf(context, createLog())
    .remembered()
    .filter(name => name.startsWith('auth-'))
  const findings: Finding[] = []

  const restart = 'then: broker restart'
  const anonymous = 'mqtt.allow_anonymous'
  if (judges.length > 0) {
    const found = `${allowAnonymous}, without effect: ${judges.join(', ')} decides`
    findings.push({ check: anonymous, verdict: 'ok', found, why: 'who may come in without a password' })
  } else if (allowAnonymous === 'true') {
    findings.push({
      check: anonymous,
      verdict: open.length > 0 ? 'error' : 'warning',
      found: open.length > 0 ? `true, and everybody reaches ${named(open)}` : 'true, on listeners of this host only',
      why: 'no plugin asks for a password: whoever reaches a port may read and write everything',
      mend: ['mqtt.allow_anonymous = local in etc/broker.conf', restart, 'or: broker-ctl plugins load auth_pgsql']
    })
  } else {
    const found =
      allowAnonymous === 'local'
        ? 'local: without a password from this host only'
        : 'false, and no plugin: nobody gets in'
    findings.push({
      check: anonymous,
      verdict: allowAnonymous === 'local' ? 'ok' : 'warning',
      found,
      why: 'who may come in without a password',
      ...(allowAnonymous === 'local' ? {} : { mend: ['broker-ctl plugins load auth_pgsql'] })
    })
  }

  const nomatch = 'what acl.conf does not name is allowed to everybody who came in'
  findings.push({
    check: 'mqtt.acl_nomatch',
    verdict: aclNomatch === 'deny' ? 'ok' : 'warning',
    found: aclNomatch,
    why: nomatch,
    ...(aclNomatch === 'deny' ? {} : { mend: ['mqtt.acl_nomatch = deny in etc/broker.conf', restart] })
  })

  const plain = open.filter(l => l.tls === undefined && !l.proxyProtocol)
  const asks = judges.length > 0
  findings.push({
    check: 'plain listeners',
    verdict: plain.length > 0 && asks ? 'warning' : 'ok',
    found:
      plain.length === 0
        ? 'none that others reach'
        : `${named(plain)}${asks ? '' : '; others get in only with a plugin'}`,
    why: 'without TLS, passwords and messages cross the network as they are',
    ...(plain.length > 0 && asks
      ? {
          mend: plain.map(l => `listener.${l.transport}.${l.name} = 127.0.0.1:${l.bind.port} in etc/broker.conf`)
        }
      : {})
  })
  return findings
}

/** Their backends: a running broker knows; else each is started, asked and stopped again. */
export const plugins: Check = context => {
  if (context.settings === undefined) return [needsConfig('plugins')]
  const why = 'without its backend a plugin refuses whom it would judge'
  const host = hostOf(context, createLog())
  const remembered = host.remembered()
  if (remembered.length === 0) return [{ check: 'plugins', verdict: 'ok', found: 'none is loaded', why }]
  const conf = (name: string): string => context.near(host.conf(name))
  const mendOf = (name: string): string[] => [
    `mend what ${conf(name)} says or its backend, then: broker-ctl plugins reload ${name.replaceAll('-', '_')}`
  ]
  const result = (name: string, trouble: string | undefined): Finding =>
    trouble === undefined
      ? { check: name, verdict: 'ok', found: 'works', why }
      : { check: name, verdict: 'error', found: trouble, why, mend: mendOf(name) }

  if (context.broker.is === 'answering') {
    const list = new AdminClient(context.home.adminSocket).call('plugins list', {})
    const told = async (name: string): Promise<Finding> => {
      const info = (await list).find(each => each.name.replaceAll('_', '-') === name)
      if (info?.active === true) return result(name, info.trouble)
      return { check: name, verdict: 'warning', found: 'is not loaded in the running broker', why, mend: mendOf(name) }
    }
    return remembered.map((name): Begun => ({ check: name, why, findings: told(name) }))
  }
  const tried = async (name: string): Promise<Finding[]> => {
    const warnings: string[] = []
    const log = createLog({ level: 'warning', format: 'text', write: line => void warnings.push(line.trim()) })
    const trouble = await hostOf(context, log).try(name, backendMs)
    await log.close()
    return [
      result(name, trouble),
      ...warnings
        .map(line => line.replace(/^.*? \[\w+\] /, ''))
        .filter(line => trouble === undefined || !line.includes(trouble))
        .map(line => ({ check: 'plugins', verdict: 'warning', found: line, why }) as const)
    ]
  }
  return remembered.map((name): Begun => ({ check: name, why, findings: tried(name) }))
}

/** What a backend may take to answer once its plugin is loaded; less than a check has. */
const backendMs = 1200

function hostOf({ settings, home }: DoctorContext, log: ReturnType<typeof createLog>): PluginHost {
  return new PluginHost(
    {
      ...pluginPaths(home.path, settings!.options.mqtt.plugins),
      storage: new PluginStorage(),
      version,
      env: process.env,
      changed: () => {}
    },
    new Hooks(log),
    log
  )
}
