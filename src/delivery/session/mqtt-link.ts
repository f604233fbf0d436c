/** How a PUBLISH is written for one receiver: its version of MQTT, its QoS, its packet id; topic and payload are copied as they came. */
import { copyBytes, lengthOf, writeLength } from '../../wire/encode.js'
import type { Message } from '../message.js'
import type { Link } from './link.js'

/** Identifier of the Message Expiry Interval property, MQTT 5 section 3.3.2.3.3. */
export const messageExpiryInterval = 0x02
const subscriptionIdentifier = 0x0b
const topicAlias = 0x23

/**
 * @param flags of the fixed header: DUP 8, QoS 2 and 4, RETAIN 1.
 */
export function writePublish(
  link: Link,
  message: Message,
  flags: number,
  packetId: number,
  identifiers: readonly number[] | undefined
): void {
  const { out, version, aliases } = link
  const alias = aliases === undefined ? 0 : aliases.take(message.topic)
  const mount = mountLength(link, message)
  const topic = alias > 0 ? 2 : message.topicEnd - message.topicAt - mount
  const payload = message.end - message.payloadAt
  const id = flags & 6 ? 2 : 0
  let properties = 0
  let propertiesHead = 0
  if (version === 5) {
    properties = message.propertiesEnd - message.propertiesAt + (alias === 0 ? 0 : 3)
    if (identifiers !== undefined) for (const each of identifiers) properties += 1 + lengthOf(each)
    propertiesHead = lengthOf(properties)
  }
  const rest = topic + id + propertiesHead + properties + payload
  out.room(rest + 5)
  const { bytes } = out
  const source = message.bytes
  let at = out.length
  bytes[at++] = 0x30 | flags
  at = writeLength(bytes, at, rest)
  if (alias > 0) {
    bytes[at++] = 0
    bytes[at++] = 0
  } else if (mount > 0) {
    bytes[at++] = (topic - 2) >> 8
    bytes[at++] = (topic - 2) & 255
    at = copyBytes(source, message.topicAt + 2 + mount, message.topicEnd, bytes, at)
  } else {
    at = copyBytes(source, message.topicAt, message.topicEnd, bytes, at)
  }
  if (id !== 0) {
    bytes[at++] = packetId >> 8
    bytes[at++] = packetId & 255
  }
  if (version === 5) {
    at = writeLength(bytes, at, properties)
    const began = at
    at = copyBytes(source, message.propertiesAt, message.propertiesEnd, bytes, at)
    if (message.expiryAt >= 0) {
      const left = Math.ceil((message.expiresAt - Date.now()) / 1000) // [MQTT-3.3.2-6]
      bytes.writeUInt32BE(Math.min(Math.max(1, left), 0xffffffff), began + message.expiryAt)
    }
    if (alias !== 0) {
      const number = Math.abs(alias)
      bytes[at++] = topicAlias
      bytes[at++] = number >> 8
      bytes[at++] = number & 255
    }
    if (identifiers !== undefined) {
      for (const each of identifiers) {
        bytes[at++] = subscriptionIdentifier
        at = writeLength(bytes, at, each)
      }
    }
  }
  out.length = copyBytes(source, message.payloadAt, message.end, bytes, at)
}

/** How much of the topic is the mount point of the receiver's listener, which it does not see. */
function mountLength({ mountpoint }: Link, { topic }: Message): number {
  return mountpoint !== '' && topic.startsWith(mountpoint) ? Buffer.byteLength(mountpoint) : 0
}

/** The most bytes that a PUBLISH of this message takes for this receiver, a new alias included. */
export function publishLength(
  link: Link,
  message: Message,
  qos: number,
  identifiers: readonly number[] | undefined
): number {
  let properties = 0
  if (link.version === 5) {
    properties = message.propertiesEnd - message.propertiesAt + (link.aliases === undefined ? 0 : 3)
    if (identifiers !== undefined) for (const each of identifiers) properties += 1 + lengthOf(each)
    properties += lengthOf(properties)
  }
  const topic = message.topicEnd - message.topicAt - mountLength(link, message)
  const rest = topic + (qos > 0 ? 2 : 0) + properties + message.end - message.payloadAt
  return 1 + lengthOf(rest) + rest
}

/** Writes a PUBLISH of QoS 0: where the receiver has the version and flags that it came with, the packet as it came. */
export function writeQos0(
  link: Link,
  message: Message,
  flags: number,
  identifiers: readonly number[] | undefined
): void {
  if (
    message.frameAt >= 0 &&
    link.version === message.frameVersion &&
    flags === message.frameFlags &&
    identifiers === undefined &&
    link.aliases === undefined &&
    link.mountpoint === ''
  ) {
    link.out.append(message.bytes, message.frameAt, message.end)
  } else {
    writePublish(link, message, flags, 0, identifiers)
  }
}
