import type { LoginTrial } from '../ops/operations.js'
import { command, visible } from './command.js'

const print = ({ asked, admitted, superuser, connack, reason, ban }: LoginTrial): string => {
  const lines = asked.map(({ by, answer, ms, why }) => {
    return `${by}: ${answer}${why === null ? '' : `, ${visible(why)}`} (${ms.toFixed(1)} ms)`
  })
  if (ban !== null) lines.push(visible(ban))
  else if (asked.length === 0) lines.push('no plugin takes passwords')
  const verdict = admitted ? `let in${superuser ? ' as a superuser' : ''}` : 'refused'
  return [...lines, `${verdict}: CONNACK ${connack}, in MQTT 5 ${reason}`].join('\n')
}

export const auth = {
  'auth test': command({
    summary: 'Say who would let a client in, without doing so',
    options: [
      ['-u, --user <username>', 'its user name'],
      ['-P, --password [password]', 'its password; without one it is asked for'],
      ['-i, --id <clientId>', 'its client id'],
      ['--ip <address>', 'its address; 127.0.0.1']
    ],
    secret: 'password',
    async run({ access }, { user, password, id, ip }) {
      const who = {
        ...(id === undefined ? {} : { clientId: id }),
        ...(user === undefined ? {} : { username: user }),
        ...(ip === undefined ? {} : { address: ip })
      }
      return await access.tryLogin(who, password === true ? undefined : password)
    },
    print
  })
}
