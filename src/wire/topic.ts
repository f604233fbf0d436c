/**
 * Topic names and topic filters: which are well-formed, and which match.
 *
 * Only `isTopicName` and `isTopicFilter` judge well-formedness; the others take
 * that for granted. All but `splitShared` and `isTopicFilter` look at the text as
 * it is: to them `$share/g/a` is a filter of three levels, so give them the filter
 * that `splitShared` found.
 */

const nul = 0
const hash = 0x23
const dollar = 0x24
const plus = 0x2b
const slash = 0x2f

/** What a message can be published to [MQTT-3.3.2-2], [MQTT-4.7.3-1], [MQTT-4.7.3-2]. */
export function isTopicName(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (c === plus || c === hash || c === nul) return false
  }
  return text !== ''
}

/** What can be subscribed to, be it shared or local. */
export function isTopicFilter(text: string): boolean {
  const { group, filter } = splitShared(text)
  if (group !== undefined && !isTopicName(group)) return false
  // What splitShared left wrapped is incomplete (`$share/g`) or wrapped twice (`$queue/$share/g/a`).
  return filter !== '' && !/^\$(share|queue|local)\//.test(filter) && levelsAreValid(filter)
}

/** `+` fills a level [MQTT-4.7.1-3], `#` fills the last [MQTT-4.7.1-2], and there is no U+0000 [MQTT-4.7.3-2]. */
function levelsAreValid(filter: string): boolean {
  const last = filter.length - 1
  for (let i = 0; i <= last; i++) {
    const c = filter.charCodeAt(i)
    if (c === nul) return false
    if (c !== plus && c !== hash) continue
    if (i > 0 && filter.charCodeAt(i - 1) !== slash) return false
    if (i < last && (c === hash || filter.charCodeAt(i + 1) !== slash)) return false
  }
  return true
}

/**
 * The group a subscription shares, and the filter behind all prefixes, which is
 * what the ACL judges and the router keeps. `$queue/a` is a group of that name;
 * `$local/` has no effect on one node and, as in emqttd, may stand before either.
 */
export function splitShared(filter: string): { group: string | undefined; filter: string } {
  const rest = filter.startsWith('$local/') ? filter.slice('$local/'.length) : filter
  if (rest.startsWith('$queue/')) return { group: '$queue', filter: rest.slice('$queue/'.length) }
  if (rest.startsWith('$share/')) {
    const from = '$share/'.length
    const end = rest.indexOf('/', from)
    if (end > from) return { group: rest.slice(from, end), filter: rest.slice(end + 1) }
  }
  return { group: undefined, filter: rest }
}

/** Whether a message published to `topic` reaches a client that subscribed to `filter`. */
export function matches(filter: string, topic: string): boolean {
  return covers(filter, topic)
}

/**
 * Whether `filter` has every topic that `other` has, level by level: a `+` is
 * covered by `+` and `#`, a `#` by `#` alone. (So `+/#` does not cover `#`, though
 * it has the same topics.) A topic name is covered by the filters that match it.
 */
export function covers(filter: string, other: string): boolean {
  // [MQTT-4.7.2-1]
  if (other.charCodeAt(0) === dollar && isWild(filter.charCodeAt(0))) return false
  let i = 0
  let j = 0
  for (;;) {
    const level = filter.charCodeAt(i)
    if (level === hash) return true
    if (level === plus) {
      if (other.charCodeAt(j) === hash) return false
      i++
      j = levelEnd(other, j)
    } else {
      for (; i < filter.length && filter.charCodeAt(i) !== slash; i++, j++) {
        if (filter.charCodeAt(i) !== other.charCodeAt(j)) return false
      }
      if (j < other.length && other.charCodeAt(j) !== slash) return false
    }
    if (i === filter.length) return j === other.length
    if (j === other.length) return isParentOfAll(filter, i)
    i++
    j++
  }
}

/** Whether some topic name exists that both filters match. */
export function overlaps(filter: string, other: string): boolean {
  const a = filter.charCodeAt(0)
  const b = other.charCodeAt(0)
  // [MQTT-4.7.2-1]
  if ((a === dollar && isWild(b)) || (b === dollar && isWild(a))) return false
  let i = 0
  let j = 0
  for (;;) {
    const one = filter.charCodeAt(i)
    const two = other.charCodeAt(j)
    if (one === hash || two === hash) return true
    if (one === plus || two === plus) {
      i = levelEnd(filter, i)
      j = levelEnd(other, j)
    } else {
      for (; i < filter.length && filter.charCodeAt(i) !== slash; i++, j++) {
        if (filter.charCodeAt(i) !== other.charCodeAt(j)) return false
      }
      if (j < other.length && other.charCodeAt(j) !== slash) return false
    }
    if (i === filter.length) return j === other.length || isParentOfAll(other, j)
    if (j === other.length) return isParentOfAll(filter, i)
    i++
    j++
  }
}

/** The filter with the mount point before what is behind its `$share/<group>/` and the like. */
export function mounted(mountpoint: string, filter: string): string {
  if (mountpoint === '') return filter
  const { filter: behind } = splitShared(filter)
  return filter.slice(0, filter.length - behind.length) + mountpoint + behind
}

/** How many levels a topic or filter has. */
export function levelsOf(topic: string): number {
  let levels = 1
  for (let i = topic.indexOf('/'); i !== -1; i = topic.indexOf('/', i + 1)) levels++
  return levels
}

const isWild = (c: number): boolean => c === plus || c === hash

/** `a/#` matches `a` too: whether nothing but `/#` is left. Before `/#` alone stands the empty name, which is no topic. */
const isParentOfAll = (filter: string, at: number): boolean =>
  at > 0 && filter.length === at + 2 && filter.charCodeAt(at + 1) === hash

function levelEnd(text: string, from: number): number {
  const end = text.indexOf('/', from)
  return end === -1 ? text.length : end
}
