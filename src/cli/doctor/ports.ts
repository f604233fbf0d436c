/** The ports of the listeners: open where the broker runs, else whether it could open them. */
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { apisOf, type ListenerOptions, listenersOf } from '../../config/broker-keys.js'
import { showAddress } from '../../config/values.js'
import { portOwner } from '../../net/port-owner.js'
import { type Begun, type Check, type DoctorContext, type Finding, needsConfig } from './finding.js'

export const ports: Check = context => {
  if (context.settings === undefined) return [needsConfig('ports')]
  const { options } = context.settings
  return [
    ...listenersOf(options).map(l => ({ ...begun(l), findings: port(l, context) })),
    ...apisOf(options).map(l => {
      const api = { ...l, transport: 'api' }
      return { ...begun(api), why: whyApi, findings: port(api, context).then(milder) }
    })
  ]
}

const whyPort = 'a listener that cannot open its port stops the start of the broker'
const whyApi = 'without its port the broker runs without its management API'
const begun = ({ transport, name }: Port): Omit<Begun, 'findings'> => ({ check: `${transport}:${name}`, why: whyPort })

/** The management API's port keeps nothing from starting. */
const milder = (finding: Finding): Finding => ({
  ...finding,
  verdict: finding.verdict === 'error' ? 'warning' : finding.verdict,
  why: whyApi
})

interface Port extends Pick<ListenerOptions, 'name' | 'bind'> {
  readonly transport: string
}

async function port({ transport, name, bind }: Port, { broker, host, patienceMs }: DoctorContext): Promise<Finding> {
  const check = `${transport}:${name}`
  const where = showAddress(bind)
  const why = whyPort
  if (broker.is === 'answering' && broker.pong.phase === 'running') {
    const open = broker.pong.listeners.find(l => l.name === check)
    // Port 0 is whichever was free.
    if (
      open !== undefined &&
      (open.bind === where || open.bind === showAddress({ ...bind, port: bind.port || open.port }))
    ) {
      const { currentClients, maxClients } = open
      const full = currentClients >= maxClients
      const found = `${open.bind} is open, ${currentClients} of ${maxClients} clients`
      if (!full) return { check, verdict: 'ok', found, why }
      const mend = [`raise listener.${transport}.${name}.max_clients in etc/broker.conf, then: broker restart`]
      return { check, verdict: 'error', found, why: 'nobody else gets in', mend }
    }
    const found = open === undefined ? `${where} is configured and not open` : `${where}; ${open.bind} is what is open`
    return {
      check,
      verdict: 'warning',
      found,
      why: 'the configuration changed after the broker was started',
      mend: ['broker restart']
    }
  }
  if (broker.is === 'silent' || broker.is === 'closed') {
    return { check, verdict: 'unknown', found: `${where}; a broker that does not answer may have it`, why }
  }
  const failure = await tryToListen(bind)
  if (failure === undefined) return { check, verdict: 'ok', found: `${where} is free`, why }
  const key = `listener.${transport}.${name}`
  switch (failure) {
    case 'EADDRINUSE': {
      // Where many processes run, looking through their files takes longer than anybody waits for.
      const enough = sleep(patienceMs * 0.8, undefined, { ref: false })
      const holder = await Promise.race([portOwner(bind.port, patienceMs), enough])
      const pid = /\(pid (\d+)\)/.exec(holder ?? '')?.[1]
      return {
        check,
        verdict: 'error',
        found: `${where} is taken by ${holder ?? 'a program that cannot be told'}`,
        why,
        mend: [
          pid === undefined ? `sudo lsof -nP -iTCP:${bind.port} -sTCP:LISTEN` : `kill ${pid}`,
          `or another port: ${key} = … in etc/broker.conf`
        ]
      }
    }
    case 'EACCES':
      return {
        check,
        verdict: 'error',
        found: `${where} may not be opened by this user`,
        why: 'ports below 1024 belong to the administrator',
        mend:
          host.platform === 'linux'
            ? [
                `sudo setcap cap_net_bind_service=+ep "$(readlink -f "$(command -v node)")"`,
                `or a port above 1023: ${key} = … in etc/broker.conf`
              ]
            : [`a port above 1023: ${key} = … in etc/broker.conf`]
      }
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return {
        check,
        verdict: 'error',
        found: `${where} is no address of this host`,
        why,
        mend: [`${key} = ${bind.port} in etc/broker.conf for every address of the host`]
      }
    default:
      return { check, verdict: 'error', found: `${where} cannot be opened: ${failure}`, why }
  }
}

/** The only sure way to know; it is closed in the same moment. */
async function tryToListen({ host, port }: ListenerOptions['bind']): Promise<string | undefined> {
  return await new Promise(resolve => {
    const server = createServer(socket => socket.destroy())
    server.once('error', (err: NodeJS.ErrnoException) => resolve(err.code ?? err.message))
    server.listen({ port, ...(host === undefined ? {} : { host }), backlog: 1 }, () =>
      server.close(() => resolve(undefined))
    )
  })
}
