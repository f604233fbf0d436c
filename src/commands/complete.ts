/** What a shell offers behind `broker-ctl clients show` and its like; asked by the completion scripts alone. */
import { BrokerError } from '../base/errors.js'
import type { Operations } from '../ops/operations.js'
import { command } from './command.js'

/** More help nobody. */
const most = 200

const kinds: Readonly<Record<string, (ops: Operations) => Iterable<string> | Promise<Iterable<string>>>> = {
  clients: ({ clients }) => clients.ids(),
  plugins: async ({ plugins }) => (await plugins.list()).map(({ name }) => name),
  listeners: ({ listeners }) =>
    listeners
      .states()
      .filter(({ isApi }) => !isApi)
      .map(({ name }) => name),
  keys: ({ config }) => config.show().map(({ key }) => key),
  targets: ({ log }) => log.targets().map(({ target }) => target)
}

export const complete = {
  complete: command({
    summary: 'Names that begin with a prefix',
    usage: '<kind> [prefix]',
    hidden: true,
    async run(ops, { kind, prefix = '' }) {
      if (!Object.hasOwn(kinds, kind)) throw new BrokerError('BAD_REQUEST', `no such kind: ${kind}`)
      const names: string[] = []
      for (const name of await kinds[kind]!(ops)) {
        // A line each: what would forge one, or command a terminal, is left out.
        if (!name.startsWith(prefix) || name === '' || /[\u0000-\u001f\u007f-\u009f]/.test(name)) continue
        if (names.push(name) === most) break
      }
      return names
    }
  })
}
