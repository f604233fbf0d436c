import type { Operations, TraceKind, TraceTerms } from '../ops/operations.js'
import { command, visible } from './command.js'

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
  { traces }: Operations,
  kind: TraceKind,
  value: string,
  { file, ...terms }: TraceTerms
): Promise<Done> {
  if (file === 'off') {
    const { file: was } = await traces.stop(kind, value)
    return { kind, value, tracing: false, file: was, named: true }
  }
  const { file: to } = await traces.start(kind, value, { file, ...terms })
  return { kind, value, tracing: true, file: to, named: file !== undefined }
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
    run: ({ traces }) => traces.list(),
    print: rows => rows.map(where).join('\n')
  }),
  'trace client': command({
    summary: 'Trace a client to a file, or stop that with off',
    usage: '<clientId> [file]',
    synopsis: '<clientId> [file | off]',
    options,
    acts: true,
    run: (ops, { clientId, ...terms }) => trace(ops, 'client', clientId, terms),
    print
  }),
  'trace topic': command({
    summary: 'Trace the messages under a topic filter',
    usage: '<topic> [file]',
    synopsis: '<topic> [file | off]',
    options,
    acts: true,
    run: (ops, { topic, ...terms }) => trace(ops, 'topic', topic, terms),
    print
  }),
  'trace user': command({
    summary: 'Trace the clients of a user',
    usage: '<username> [file]',
    synopsis: '<username> [file | off]',
    options,
    acts: true,
    run: (ops, { username, ...terms }) => trace(ops, 'user', username, terms),
    print
  }),
  'trace ip': command({
    summary: 'Trace the clients of an address or a network',
    usage: '<address> [file]',
    synopsis: '<address> [file | off]',
    options,
    acts: true,
    run: (ops, { address, ...terms }) => trace(ops, 'ip', address, terms),
    print
  })
}
