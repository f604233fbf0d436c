/** Writes bytes: MQTT's variable byte integer, and copies. */

/** How many bytes it takes. */
export function lengthOf(value: number): number {
  return value < 128 ? 1 : value < 16_384 ? 2 : value < 2_097_152 ? 3 : 4
}

/** Writes it; returns where it ends. */
export function writeLength(bytes: Buffer, at: number, value: number): number {
  let to = at
  let rest = value
  while (rest > 127) {
    bytes[to++] = (rest & 127) | 128
    rest >>>= 7
  }
  bytes[to++] = rest
  return to
}

/** Where a call to copy begins to pay, measured on V8 11. */
const loopLimit = 128

/** Copies source[start..end); returns where it ends in the target. A loop beats a call for what is short. */
export function copyBytes(source: Buffer, start: number, end: number, target: Buffer, at: number): number {
  const n = end - start
  if (n >= loopLimit) {
    source.copy(target, at, start, end)
    return at + n
  }
  let to = at
  for (let i = start; i < end; i++) target[to++] = source[i]!
  return to
}
