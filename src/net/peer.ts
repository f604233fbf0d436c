/** Who is at the other end of a socket, and whether a listener's rules let that address in. */
import { BlockList, isIP } from 'node:net'
import type { AccessRule } from '../config/broker-options.js'
import type { Network } from '../config/values.js'

/** `::ffff:10.0.0.1`, as a dual-stack socket has it, is 10.0.0.1. */
export function undressed(address: string): string {
  return address.startsWith('::ffff:') && isIP(address.slice(7)) === 4 ? address.slice(7) : address
}

export function isLoopback(address: string): boolean {
  return address === '::1' || (isIP(address) === 4 && address.startsWith('127.'))
}

/** Whether an address is in one of the networks. */
export function within(networks: readonly Network[]): (address: string) => boolean {
  const list = new BlockList()
  for (const { address, prefix, family } of networks) list.addSubnet(address, prefix, family)
  return address => {
    const version = isIP(address)
    return version !== 0 && list.check(address, version === 4 ? 'ipv4' : 'ipv6')
  }
}

/** The first rule that fits decides; where none does, the address is let in, as in emqttd. */
export function accessOf(rules: Iterable<AccessRule>): (address: string) => boolean {
  const tests = [...rules].map(({ allow, from }) => ({ allow, fits: from === undefined ? () => true : within([from]) }))
  return address => tests.find(({ fits }) => fits(address))?.allow ?? true
}
