/**
 * What aedes is handed of a client's packets: always MQTT 3.1.1, whatever the client speaks,
 * and only as much as aedes decides over. The rest stays with the channel.
 */
import { packet } from '../../wire/packets.js'
import { sized } from '../../wire/properties.js'

/** Without user name, session, keep alive and will, which are ours. */
export const connectOf = (clientId: string): Buffer =>
  packet(0x10, sized(Buffer.from('MQTT')), Buffer.from([4, 2, 0, 0]), sized(Buffer.from(clientId)))

/** Each filter under the name of its place, so that aedes neither merges nor judges them. */
export const subscribeOf = (filters: readonly string[]): Buffer =>
  packet(0x82, Buffer.from([0, 1]), ...filters.map((_, i) => Buffer.concat([sized(Buffer.from(String(i))), zero])))

const zero = Buffer.from([0])
export const unsubscribePlaceholder = packet(0xa2, Buffer.from([0, 1]), sized(Buffer.from('0')))
export const disconnectPlain = Buffer.from([0xe0, 0])
