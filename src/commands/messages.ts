import { BrokerError } from '../base/errors.js'
import { clock } from '../base/uptime.js'
import type { MessageExplanation } from '../ops/operations.js'
import { command, visible } from './command.js'

const causes = {
  away: 'QoS 0 while it was away',
  slow: 'QoS 0 while it read too slowly',
  queue_full: 'the queue was full',
  expired: 'expired while it waited',
  too_large: 'over its Maximum Packet Size'
} as const

function print({ client_id, topic, qos, would_get, findings, lost, last }: MessageExplanation): string {
  const what = `${visible(topic)} of QoS ${qos}`
  const verdict =
    would_get === null ? `may or may not get ${what}` : `${would_get ? 'would get' : 'would not get'} ${what}`
  const counted = Object.entries(lost ?? {}).filter(([, n]) => n > 0)
  const missed = counted.map(([cause, n]) => `${n} (${causes[cause as keyof typeof causes]})`).join(', ')
  return [
    ...findings.map(({ bearing, text }) => `${bearing.padEnd(3)} ${visible(text)}`),
    `${visible(client_id)} ${verdict}`,
    ...(missed === '' ? [] : [`its session has missed ${missed}`]),
    ...last.map(({ at, qos, cause }) => `${clock(at)} missed ${visible(topic)} of QoS ${qos}: ${causes[cause]}`)
  ].join('\n')
}

function number(text: string | undefined, option: string, most: number): number {
  if (text === undefined) return 0
  if (!/^\d+$/.test(text) || Number(text) > most) {
    throw new BrokerError('BAD_REQUEST', `${option}: expected an integer from 0 to ${most}, got "${text}"`)
  }
  return Number(text)
}

export const messages = {
  'messages why': command({
    summary: 'Say why a client did not get a message, or would not',
    usage: '<clientId> <topic>',
    options: [
      ['--from <clientId>', 'who publishes it'],
      ['--qos <qos>', 'of the message; 0'],
      ['--size <bytes>', 'of its payload; 0']
    ],
    run: ({ messages }, { clientId, topic, from, qos, size }) =>
      messages.why({
        clientId,
        topic,
        from,
        qos: number(qos, '--qos', 2) as 0 | 1 | 2,
        size: number(size, '--size', 16_777_216)
      }),
    print
  })
}
