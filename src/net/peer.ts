/** Who is at the other end of a socket, and whether a listener's rules let that address in. */
import { isIP, SocketAddress } from 'node:net'
import type { AccessRule } from '../config/broker-keys.js'
import { within } from '../config/values.js'

/** `::ffff:10.0.0.1`, as a dual-stack socket has it, is 10.0.0.1. */
export function unmapIPv4(address: string): string {
  return address.startsWith('::ffff:') && isIP(address.slice(7)) === 4 ? address.slice(7) : address
}

/** An address as it was written, brackets and port included, in its one spelling; undefined when it is none. */
export function addressIn(text: string): string | undefined {
  const bare = /^\[(.*)\](?::\d+)?$/.exec(text)?.[1] ?? /^([\d.]+):\d+$/.exec(text)?.[1] ?? text
  if (isIP(bare) !== 6) return isIP(bare) === 4 ? bare : undefined
  return unmapIPv4(new SocketAddress({ address: bare.replace(/%.*$/, ''), family: 'ipv6' }).address)
}

export function isLoopback(address: string): boolean {
  return address === '::1' || (isIP(address) === 4 && address.startsWith('127.'))
}

/** The first rule that fits decides; where none does, the address is let in, as in emqttd. */
export function accessOf(rules: Iterable<AccessRule>): (address: string) => boolean {
  const tests = [...rules].map(({ allow, from }) => ({ allow, fits: from === undefined ? () => true : within([from]) }))
  return address => tests.find(({ fits }) => fits(address))?.allow ?? true
}
