import { BrokerError } from '../base/errors.js'
import type { Change, Report, Shown } from '../ops/operations.js'
import { command, visible } from './command.js'

const or = (text: string | null): string => (text === null ? 'none' : visible(text))

const told = ({ key, from, to, effect, why }: Change): string => {
  const tail = effect === 'restart' ? `, needs a restart: ${why}` : effect === 'connect' ? ', for new connections' : ''
  return `${key}: ${or(from)} → ${or(to)}${tail}`
}

/** What is in force first, then what is not. */
export function printReport({ changes, rules, certificates, plugins }: Report): string {
  const lines = [
    ...changes.filter(({ effect }) => effect !== 'restart').map(told),
    ...(rules === undefined ? [] : [`acl: ${rules} rules are in force`]),
    ...certificates.map(name => `certificates of ${name} are in force`),
    ...plugins.map(name => `plugin ${name} is loaded anew`)
  ]
  const cold = changes.filter(({ effect }) => effect === 'restart').map(told)
  return [...lines, ...cold, lines.length + cold.length === 0 ? 'nothing has changed' : 'ok'].join('\n')
}

const show = ({ key, value, file, default: fallback, effect }: Shown): string =>
  `${key} = ${or(value)} (file: ${or(file)}, default: ${or(fallback)}${effect === 'restart' ? ', needs a restart' : ''})`

export const config = {
  reload: command({
    summary: 'Read everything under etc/ again',
    acts: true,
    run: ({ config }) => config.reload(),
    print: printReport
  }),
  set: command({
    summary: 'Set a key of broker.conf until a restart or a reload',
    usage: '<key> [value]',
    acts: true,
    run({ config }, { key, value }) {
      // emqttd's form is key=value
      const at = value === undefined ? key.indexOf('=') : -1
      if (value === undefined && at < 1) throw new BrokerError('BAD_REQUEST', `missing argument "value" for ${key}`)
      return config.set(...((at < 1 ? [key, value!] : [key.slice(0, at), key.slice(at + 1)]) as [string, string]))
    },
    print: ({ key, to }) => `"${key}" set to "${visible(to ?? '')}" successfully`
  }),
  show: command({
    summary: 'Show keys: the value in force, that of the file, the default',
    usage: '[key]',
    run: ({ config }, { key }) => config.show(key),
    print: rows => rows.map(show).join('\n')
  })
}
