import { BrokerError } from '../base/errors.js'
import type { TraceInfo, TraceKind, TraceTerms } from '../observe/trace/trace.js'
import type { Server } from '../server/server.js'
import { command, visible } from './command.js'

const seconds = (at: Date): number => Math.floor(at.getTime() / 1000)

const row = ({ kind, value, file, format, startedAt, until, packets, bytes, leftOut }: TraceInfo) => ({
  kind,
  value,
  file,
  format,
  started_at: seconds(startedAt),
  until: seconds(until),
  packets,
  bytes,
  left_out: leftOut
})

/** What a command did; the name of the file is told when it was not given. */
export interface Done {
  readonly kind: TraceKind
  readonly value: string
  readonly tracing: boolean
  readonly file: string
  readonly named: boolean
}

const where = ({ kind, value, file }: Pick<Done, 'kind' | 'value' | 'file'>): string =>
  `trace ${kind} ${visible(value)} -> ${file}`

/** emqttd's lines. */
function print(done: Done): string {
  const { kind, value, tracing, named } = done
  if (!tracing) return `stop tracing ${kind} ${visible(value)} successfully.`
  const line = `trace ${kind} ${visible(value)} successfully.`
  return named ? line : `${line}\n${where(done)}`
}

async function trace(
  { clients, home }: Server,
  kind: TraceKind,
  value: string,
  { file, ...terms }: TraceTerms
): Promise<Done> {
  if (file === 'off') {
    const { file: was } = clients.tracer.stop(kind, value)
    return { kind, value, tracing: false, file: was, named: true }
  }
  if (home === undefined) throw new BrokerError('UNAVAILABLE', 'this broker keeps no files')
  const info = await clients.trace(kind, value, home.root, { file, ...terms })
  return { kind, value, tracing: true, file: info.file, named: file !== undefined }
}

const options = [
  ['--for <time>', 'how long; 1h'],
  ['--format <format>', 'text or json; text'],
  ['--payload <bytes>', 'how much of a payload is shown; 64'],
  ['--size <size>', 'of the file, at most; 16MB']
] as const

export const traces = {
  'trace list': command({
    summary: 'List all traces',
    run: ({ clients }) => clients.tracer.list().map(row),
    print: rows => rows.map(where).join('\n')
  }),
  'trace client': command({
    summary: 'Trace a client to a file, or stop that with off',
    usage: '<clientId> [file]',
    synopsis: '<clientId> [file | off]',
    options,
    acts: true,
    run: (server, { clientId, ...terms }) => trace(server, 'client', clientId, terms),
    print
  }),
  'trace topic': command({
    summary: 'Trace the messages under a topic filter',
    usage: '<topic> [file]',
    synopsis: '<topic> [file | off]',
    options,
    acts: true,
    run: (server, { topic, ...terms }) => trace(server, 'topic', topic, terms),
    print
  }),
  'trace user': command({
    summary: 'Trace the clients of a user',
    usage: '<username> [file]',
    synopsis: '<username> [file | off]',
    options,
    acts: true,
    run: (server, { username, ...terms }) => trace(server, 'user', username, terms),
    print
  }),
  'trace ip': command({
    summary: 'Trace the clients of an address or a network',
    usage: '<address> [file]',
    synopsis: '<address> [file | off]',
    options,
    acts: true,
    run: (server, { address, ...terms }) => trace(server, 'ip', address, terms),
    print
  })
}
