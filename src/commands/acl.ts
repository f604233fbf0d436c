import { BrokerError } from '../base/errors.js'
import type { AclExplanation } from '../ops/operations.js'
import { command, visible } from './command.js'

const explained = ({ allowed, by, cached, rules }: AclExplanation): string => {
  const lines = rules.map(({ by, text, matched, why }) => {
    const tail = why === undefined ? '' : `: ${visible(why)}`
    return `${matched ? 'yes' : 'no '}  ${by} ${visible(text)}${tail}`
  })
  const known = cached === null ? 'nothing is cached' : `${cached ? 'allowed' : 'denied'} is cached`
  return [...lines, `${allowed ? 'allowed' : 'denied'} by ${by}; ${known}`].join('\n')
}

export const acl = {
  'acl reload': command({
    summary: 'reload etc/acl.conf',
    acts: true,
    run: ({ access }) => access.reloadAcl(),
    print: () => 'reload acl_internal successfully'
  }),
  'acl explain': command({
    summary: 'Say which rule allows or denies a topic',
    usage: '<words...>',
    synopsis: '[clientId] <action> <topic>',
    options: [
      ['--user <username>', 'of a client that need not be connected'],
      ['--ip <address>', 'its address; 127.0.0.1']
    ],
    async run({ access, clients }, { words, user, ip }) {
      const [action, topic, ...more] = words.slice(-2)
      const [clientId, ...tooMany] = words.slice(0, -2)
      if ((action !== 'publish' && action !== 'subscribe') || topic === undefined || more.length + tooMany.length > 0) {
        throw new BrokerError('BAD_REQUEST', 'expected [clientId] publish | subscribe <topic>')
      }
      const isMadeUp = user !== undefined || ip !== undefined
      if (clientId === undefined && !isMadeUp) {
        throw new BrokerError('BAD_REQUEST', 'whose? Give a client id, or --user and --ip')
      }
      if (!isMadeUp && !clients.isOnline(clientId!)) {
        throw new BrokerError('NOT_FOUND', `${clientId} is not connected; say who it would be with --user and --ip`)
      }
      const who = {
        ...(clientId === undefined ? {} : { clientId }),
        ...(user === undefined ? {} : { username: user }),
        ...(ip === undefined ? {} : { address: ip })
      }
      return await access.explainAcl(who, action, topic)
    },
    print: explained
  })
}
