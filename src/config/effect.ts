/**
 * The words in which a schema says when a change of a key takes effect: around a key, or around a section for all the
 * keys in it. They stand outermost: optional() and list() make another key.
 */
import { isKey, isNamed, type Schema } from './schema.js'
import type { Effect } from './values.js'

type Node = Schema[string]

/** At once, also for clients that are connected. */
export const now = <const S extends Node>(of: S): S => withEffect('now', of)

/** For connections that are made from then on; a connected client keeps what it was told. */
export const onConnect = <const S extends Node>(of: S): S => withEffect('connect', of)

/** @param why it cannot be changed while the broker runs. */
export const onRestart = <const S extends Node>(why: string, of: S): S => withEffect({ restart: why }, of)

function withEffect<S extends Node>(effect: Effect, of: S): S {
  const having = (node: Node): Node => {
    if (isKey(node)) return { ...node, effect }
    if (isNamed(node)) return { each: having(node.each) }
    return Object.fromEntries(Object.entries(node).map(([option, child]) => [option, having(child)]))
  }
  return having(of) as S
}
