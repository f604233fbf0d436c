/**
 * What the system grants, against what the listeners' max_clients and backlog ask
 * for: the values of emqttd's tuning guide, which are for a million clients, brought
 * down to the number that this configuration allows.
 */
import { freemem, totalmem } from 'node:os'
import { getHeapStatistics } from 'node:v8'
import { listenersOf } from '../../config/broker-keys.js'
import { type Begun, bytes, type Check, type DoctorContext, type Finding, type Host, needsConfig } from './finding.js'

/** Beside the clients: the listeners, the log, plugins' connections, the store. */
const ownFiles = 100
/** Memory of a client that is connected and silent. */
const bytesPerClient = 13 * 1024

export const limits: Check = context => {
  if (context.settings === undefined) return [needsConfig('limits')]
  const { host } = context
  const listeners = listenersOf(context.settings.options)
  const clients = listeners.reduce((sum, l) => sum + l.maxClients, 0)
  const packet = context.settings.options.mqtt.maxPacketSize
  const files = openFiles(context)
  const plan = files.then(limit => ({
    clients: Math.min(clients, Math.max(1, (limit ?? Number.POSITIVE_INFINITY) - ownFiles)),
    backlog: Math.max(...listeners.map(l => l.backlog)),
    packet,
    ports: listeners.map(l => l.bind.port)
  }))
  return [
    { check: 'open files', why: whyFiles, findings: files.then(limit => openFilesFinding(limit, clients, host)) },
    ...kernel(plan, host),
    { check: 'memory', why: whyMemory, findings: plan.then(({ clients }) => memory(clients, host)) }
  ]
}

const whyFiles = 'every client is an open file: beyond the limit nobody else gets in, and the log cannot be opened'
const whyMemory = 'a host without memory ends the broker, or swaps and answers nobody in time'

async function openFiles({ host, broker }: DoctorContext): Promise<number | undefined> {
  // Node raises the soft limit to the hard one when it starts, so ours is what a broker from here would have.
  const pid = broker.is === 'answering' ? broker.pong.pid : 'self'
  const text =
    host.platform === 'linux'
      ? /^Max open files +(\S+)/m.exec(host.read(`/proc/${pid}/limits`) ?? '')?.[1]
      : (await host.run('sh', '-c', 'ulimit -n'))?.trim()
  if (text === undefined || text === '') return undefined
  return text === 'unlimited' ? Number.POSITIVE_INFINITY : Number(text)
}

function openFilesFinding(limit: number | undefined, clients: number, { platform }: Host): Finding {
  const check = 'open files'
  if (limit === undefined || Number.isNaN(limit))
    return { check, verdict: 'unknown', found: 'the limit cannot be read' }
  const needed = clients + ownFiles
  const found = `${limit === Number.POSITIVE_INFINITY ? 'no limit' : `at most ${limit}`}; listeners take up to ${clients} clients`
  const why = whyFiles
  if (limit >= needed) return { check, verdict: 'ok', found, why }
  const to = Math.min(1_048_576, 2 ** Math.ceil(Math.log2(needed)))
  const mend =
    platform === 'darwin'
      ? [`sudo sysctl -w kern.maxfiles=${to} kern.maxfilesperproc=${to}`, `sudo launchctl limit maxfiles ${to} ${to}`]
      : [
          `echo "$USER - nofile ${to}" | sudo tee /etc/security/limits.d/broker.conf`,
          'then log in again and run: broker restart',
          `under systemd instead: LimitNOFILE=${to}`
        ]
  mend.push('or lower listener.*.max_clients in etc/broker.conf')
  return { check, verdict: limit < 256 ? 'error' : 'warning', found, why, mend }
}

interface Plan {
  readonly clients: number
  readonly backlog: number
  readonly packet: number
  readonly ports: readonly number[]
}

interface Setting {
  readonly name: string
  /** Which of several values counts; the first unless told. */
  readonly field?: number
  readonly wanted: (plan: Plan) => number
  readonly why: string
}

const waiting =
  'connections that wait to be accepted beyond it are dropped: many clients that come back at once time out'

const linux: readonly Setting[] = [
  { name: 'net.core.somaxconn', wanted: p => p.backlog, why: waiting },
  { name: 'net.ipv4.tcp_max_syn_backlog', wanted: p => p.backlog, why: waiting },
  {
    name: 'net.core.netdev_max_backlog',
    wanted: p => (p.clients >= 100_000 ? 16_384 : 1000),
    why: 'packets beyond it are dropped before TCP sees them'
  },
  {
    name: 'fs.file-max',
    wanted: p => p.clients + ownFiles,
    why: 'the open files of all processes together'
  },
  { name: 'fs.nr_open', wanted: p => p.clients + ownFiles, why: 'no limit on open files can be raised above it' },
  {
    name: 'net.netfilter.nf_conntrack_max',
    wanted: p => Math.min(1_000_000, p.clients),
    why: "the firewall's table of connections: when it is full, new ones are dropped in silence"
  },
  {
    name: 'net.ipv4.tcp_max_tw_buckets',
    wanted: p => Math.min(1_048_576, Math.ceil(p.clients / 10)),
    why: 'connections that have just ended; above it they are forgotten too early'
  },
  {
    name: 'net.ipv4.tcp_rmem',
    field: 2,
    wanted: p => Math.min(16_777_216, p.packet),
    why: 'a packet of mqtt.max_packet_size does not fit the largest receive buffer, and comes in slowly'
  },
  {
    name: 'net.ipv4.tcp_wmem',
    field: 2,
    wanted: p => Math.min(16_777_216, p.packet),
    why: 'a packet of mqtt.max_packet_size does not fit the largest send buffer, and goes out slowly'
  }
]

const darwin: readonly Setting[] = [
  { name: 'kern.ipc.somaxconn', wanted: p => p.backlog, why: waiting },
  { name: 'kern.maxfiles', wanted: p => p.clients + ownFiles, why: 'the open files of all processes together' },
  { name: 'kern.maxfilesperproc', wanted: p => p.clients + ownFiles, why: 'the open files of one process' }
]

function kernel(plan: Promise<Plan>, host: Host): (Finding | Begun)[] {
  const table = host.platform === 'linux' ? linux : host.platform === 'darwin' ? darwin : []
  if (table.length === 0)
    return [{ check: 'kernel', verdict: 'unknown', found: `its settings are not known on ${host.platform}` }]
  return [
    ...table.map(each => ({ check: each.name, why: each.why, findings: plan.then(plan => setting(each, plan, host)) })),
    ...(host.platform === 'linux' ? [{ check: localPorts, findings: plan.then(plan => portRange(plan, host)) }] : [])
  ]
}

async function setting({ name, field = 0, wanted, why }: Setting, plan: Plan, host: Host): Promise<readonly Finding[]> {
  const values = (await settingOf(name, host))?.trim().split(/\s+/)
  const now = Number(values?.[field] ?? Number.NaN)
  if (values === undefined || Number.isNaN(now)) {
    // Without the firewall's module there is no such table to fill; the rest may be hidden in a container.
    return name.includes('conntrack') ? [] : [{ check: name, verdict: 'unknown', found: 'cannot be read here', why }]
  }
  const need = wanted(plan)
  if (now >= need) return [{ check: name, verdict: 'ok', found: values.join(' '), why }]
  const to = values.with(field, String(need)).join(' ')
  return [
    {
      check: name,
      verdict: 'warning',
      found: `${values.join(' ')}; this configuration needs ${need}`,
      why,
      mend: [
        to.includes(' ') ? `sudo sysctl -w "${name}=${to}"` : `sudo sysctl -w ${name}=${to}`,
        ...(host.platform === 'linux'
          ? [`to keep it: echo '${name} = ${to}' | sudo tee -a /etc/sysctl.d/60-broker.conf`]
          : [])
      ]
    }
  ]
}

async function settingOf(name: string, host: Host): Promise<string | undefined> {
  if (host.platform === 'linux') return host.read(`/proc/sys/${name.replaceAll('.', '/')}`)
  return await host.run('sysctl', '-n', name)
}

const localPorts = 'net.ipv4.ip_local_port_range'

/** emqttd's guide opens the range to 1000–65535, where any outgoing connection may sit on a listener's port. */
function portRange({ ports }: Plan, host: Host): Finding[] {
  const check = localPorts
  const [first, last] = (host.read('/proc/sys/net/ipv4/ip_local_port_range') ?? '').trim().split(/\s+/).map(Number)
  if (first === undefined || last === undefined) return [{ check, verdict: 'unknown', found: 'cannot be read here' }]
  const kept = host.read('/proc/sys/net/ipv4/ip_local_reserved_ports')?.trim() ?? ''
  const isKept = (port: number): boolean =>
    kept.split(',').some(part => {
      const [from, to = from] = part.split('-').map(Number)
      return part !== '' && port >= from! && port <= to!
    })
  const inside = ports.filter(port => port >= first && port <= last && !isKept(port))
  const found = `${first} to ${last}`
  const why = 'a listener whose port is in it may find the port taken by an outgoing connection of any program'
  if (inside.length === 0) return [{ check, verdict: 'ok', found, why }]
  const reserve = [...(kept === '' ? [] : [kept]), ...inside].join(',')
  return [
    {
      check,
      verdict: 'warning',
      found: `${found}, with the ports ${inside.join(', ')} of listeners in it`,
      why,
      mend: [`sudo sysctl -w net.ipv4.ip_local_reserved_ports=${reserve}`]
    }
  ]
}

function memory(clients: number, host: Host): Finding {
  const meminfo = host.platform === 'linux' ? host.read('/proc/meminfo') : undefined
  const kilobytes = (name: string): number | undefined => {
    const n = new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(meminfo ?? '')?.[1]
    return n === undefined ? undefined : Number(n) * 1024
  }
  const own = Number(host.platform === 'linux' ? (cgroupLimit(host) ?? Number.NaN) : Number.NaN)
  const total = Math.min(totalmem(), Number.isNaN(own) ? Number.POSITIVE_INFINITY : own)
  const free = Math.min(total, kilobytes('MemAvailable') ?? freemem())
  const need = clients * bytesPerClient
  const heap = getHeapStatistics().heap_size_limit
  const found = `${bytes(free)} of ${bytes(total)} free; ${clients} silent clients take about ${bytes(need)}`
  const why = whyMemory
  const lower = 'lower listener.*.max_clients in etc/broker.conf, or add memory'
  // On macOS free memory leaves out what the system gives back at once, so only the total is held against the need.
  const usable = host.platform === 'linux' ? free : total
  if (usable < 64 * 1024 ** 2) return { check: 'memory', verdict: 'error', found, why, mend: [lower] }
  if (need > usable) return { check: 'memory', verdict: 'warning', found, why, mend: [lower] }
  if (need > heap) {
    return {
      check: 'memory',
      verdict: 'warning',
      found: `${found}, more than Node's heap of ${bytes(heap)}`,
      why: 'Node ends itself when its heap is full',
      mend: [`NODE_OPTIONS=--max-old-space-size=${Math.ceil((need * 1.5) / 1024 ** 2)} broker restart`]
    }
  }
  return { check: 'memory', verdict: 'ok', found, why }
}

/** What a container was given. */
function cgroupLimit(host: Host): string | undefined {
  const group = /^0::(\S+)/m.exec(host.read('/proc/self/cgroup') ?? '')?.[1]
  const text = host.read(`/sys/fs/cgroup${group === '/' ? '' : (group ?? '')}/memory.max`)?.trim()
  return text === 'max' ? undefined : text
}
