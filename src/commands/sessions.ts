import { BrokerError } from '../base/errors.js'
import type { SessionRow } from '../ops/operations.js'
import { command, visible } from './command.js'

const show = ({ client_id, online: _, ...rest }: SessionRow): string =>
  `Session(${visible(client_id)}, ${Object.entries(rest)
    .map(([name, value]) => `${name}=${value}`)
    .join(', ')})`

export const sessions = {
  'sessions list': command({ summary: 'List all sessions', run: ({ sessions }) => sessions.list(), line: show }),
  'sessions list persistent': command({
    summary: 'List all persistent sessions',
    run: ({ sessions }) => sessions.list('persistent'),
    line: show
  }),
  'sessions list transient': command({
    summary: 'List all transient sessions',
    run: ({ sessions }) => sessions.list('transient'),
    line: show
  }),
  'sessions show': command({
    summary: 'Show a session',
    usage: '<clientId>',
    async run({ sessions }, { clientId }) {
      const found = await sessions.show(clientId)
      if (found === undefined) throw new BrokerError('NOT_FOUND', 'Not Found.')
      return found
    },
    print: show
  })
}
