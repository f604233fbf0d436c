/**
 * What a command of broker-ctl is: one entry with its words, its work and how its
 * result is printed. From the table of all of them come the command line, its help,
 * the admin socket's routes and the types of AdminClient.call.
 *
 * Nothing here or in the other files of this folder loads the broker at run time:
 * broker-ctl reads the same table and must start at once.
 */
import type { Operations, Rows } from '../ops/operations.js'

/** '<clientId> [reason]' → { clientId: string, reason?: string } */
export type Args<U extends string> = U extends `${infer Head} ${infer Tail}`
  ? Args<Head> & Args<Tail>
  : U extends `<${infer Name}...>`
    ? { [K in Name]: string[] }
    : U extends `<${infer Name}>`
      ? { [K in Name]: string }
      : U extends `[${infer Name}]`
        ? { [K in Name]?: string }
        : unknown

/** `--for <time>` is { for?: string }, `-P, --password [password]` { password?: string | true }, `--all` { all?: true } */
export type OptionArgs<O extends Options> = { [E in O[number] as NameOf<E[0]>]?: ValueOf<E[0]> }
type NameOf<F extends string> = F extends `${string}--${infer N} ${string}`
  ? N
  : F extends `${string}--${infer N}`
    ? N
    : never
type ValueOf<F extends string> = F extends `${string}<${string}`
  ? string
  : F extends `${string}[${string}`
    ? string | true
    : true

/** `[flags, what it is for]`, as commander writes them; their values come among the arguments. */
export type Options = readonly (readonly [flags: string, summary: string])[]

export interface Command<U extends string = string, R = unknown, O extends Options = Options> {
  /** One line as emqttd_ctl has it: a capital first, no full stop. */
  readonly summary: string
  /** Arguments, as commander writes them. */
  readonly usage?: U
  readonly options?: O
  /** Shown by help in the place of `usage`, where that does not say it all. */
  readonly synopsis?: string
  /**
   * An optional argument that broker-ctl asks for when it is left out, so that it need not stand on the command
   * line; or an option that is given without its value.
   */
  readonly secret?: string
  /** The argument that is a path, from where the command is typed. */
  readonly path?: string
  /** It changes something, so it is not done again and again for `--watch`. */
  readonly acts?: true
  /** Called by the `broker` program, and not offered by broker-ctl. */
  readonly hidden?: true
  /**
   * Does the work and returns plain data; throws a BrokerError when it cannot. A list that may be long is a
   * generator, which is read over many turns of the event loop while what it lists goes on changing.
   */
  run(ops: Operations, args: Args<U> & OptionArgs<O>): R | Promise<R>
  /** emqttd's lines for the result; left out, nothing is printed. */
  print?(result: Awaited<R>): string
  /** The same for a row of a list that is a generator. */
  line?(row: RowOf<R>): string
}

type RowOf<R> = Awaited<R> extends Rows<infer Row> ? Row : never

export function command<const U extends string = '', R = unknown, const O extends Options = readonly []>(
  c: Command<U, R, O>
): Command<U, R, O> {
  return c
}

/** emqttd's `~-16s: ~w`. */
export const line = (name: string, value: unknown, width: number): string => `${name.padEnd(width)}: ${String(value)}`

/** What a client chose, so that it can neither forge a line nor command the terminal of who reads it. */
export const visible = (text: string): string =>
  text.replace(/[\u0000-\u001f\u007f-\u009f]/g, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
