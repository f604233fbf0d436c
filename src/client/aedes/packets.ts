/**
 * What aedes is handed of a client's packets: always MQTT 3.1.1, whatever the client speaks,
 * and only as much as aedes decides over. The rest stays with the channel.
 */
import { type Connect, packet, type Subscribe } from '../../wire/packets.js'
import { sized } from '../../wire/properties.js'

/** Without session, keep alive and will, which are ours. */
export function connectOf(clientId: string, { username, password }: Connect): Buffer {
  // MQTT 3.1.1 has no password without a user name [MQTT-3.1.2-22]
  const hasName = username !== undefined || password !== undefined
  const flags = 2 | (hasName ? 0x80 : 0) | (password === undefined ? 0 : 0x40)
  const parts = [sized(Buffer.from('MQTT')), Buffer.from([4, flags, 0, 0]), sized(Buffer.from(clientId))]
  if (hasName) parts.push(sized(Buffer.from(username ?? '')))
  if (password !== undefined) parts.push(sized(password))
  return packet(0x10, ...parts)
}

/** Each filter under the name of its place, so that aedes neither merges nor judges them. */
export function subscribeOf({ requests }: Subscribe): Buffer {
  return packet(
    0x82,
    Buffer.from([0, 1]),
    ...requests.map(({ qos }, i) => Buffer.concat([sized(Buffer.from(String(i))), Buffer.from([qos])]))
  )
}

export const unsubscribePlaceholder = packet(0xa2, Buffer.from([0, 1]), sized(Buffer.from('0')))
export const pingreq = Buffer.from([0xc0, 0])
export const disconnectPlain = Buffer.from([0xe0, 0])
