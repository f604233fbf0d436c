/** broker-ctl: the command table as a command line. Its words and lines are emqttd_ctl's. */
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { CommanderError, Command as Program } from 'commander'
import { AdminClient } from '../admin/client.js'
import { BrokerError } from '../base/errors.js'
import { findHome, type Home, version } from '../base/home.js'
import { nearest } from '../base/suggest.js'
import type { Command } from '../commands/command.js'
import { commands } from '../commands/index.js'
import { Exit, type Io, printError, terminal } from './io.js'

/** The broker's. */
const remote = Object.entries(commands as Readonly<Record<string, Command<any, any, any>>>).filter(([, c]) => !c.hidden)
/** And what this program does by itself. */
const local = {
  top: { summary: 'Show what the broker is busy with, live', usage: '[pane]' },
  completion: { summary: 'Print the completion script for bash, zsh or fish', usage: '<shell>' }
}
const offered: [string, Pick<Command<any, any, any>, 'summary' | 'usage' | 'synopsis'>][] = [
  ...remote,
  ...Object.entries(local)
]

/** Runs argv; resolves to the exit status. */
export async function main(argv: readonly string[], io: Io = terminal): Promise<number> {
  const program = programOf(io)
  try {
    await program.parseAsync(argv.map(watchAlone), { from: 'user' })
    return program.opts<Options>().status ?? Exit.ok
  } catch (err) {
    if (err instanceof CommanderError) return err.exitCode === 0 ? Exit.ok : Exit.usage
    return await failed(err, io, program)
  }
}

/** `--watch clients list`: the word behind it is not its value unless it is a number. */
const watchAlone = (word: string, i: number, argv: readonly string[]): string =>
  word === '--watch' && !/^[\d.]+$/.test(argv[i + 1] ?? '') ? `--watch=${watchSeconds}` : word

async function failed(err: unknown, io: Io, program: Program): Promise<number> {
  const { json, home } = program.opts<Options>()
  if (isAway(err)) {
    const { nodeNameOf } = await import('../server/settings.js')
    io.err(`Node '${nodeNameOf(findHome({ home }))}' not responding to pings.`)
    return Exit.notRunning
  }
  if (json && err instanceof BrokerError) io.err(JSON.stringify({ error: { code: err.code, message: err.message } }))
  else await printError(io, err)
  return err instanceof BrokerError && err.code === 'BAD_REQUEST' ? Exit.usage : Exit.failed
}

interface Options {
  readonly json?: true
  readonly table?: true
  /** Seconds between two times; true is the usual ones. */
  readonly watch?: string | true
  readonly home?: string
  /** Set by what ends otherwise than well without a failure. */
  readonly status?: number
}

function programOf(io: Io): Program {
  const root = new Program('broker-ctl')
    .option('--json', 'print the result as JSON')
    .option('--table', 'print the result as a table')
    .option('--watch [seconds]', 'print it again and again')
    .option('--home <dir>', 'home of the broker')
    .version(version)
    .helpCommand(false)
    .showSuggestionAfterError(true)
    .configureOutput({ writeOut: s => io.out(s.trimEnd()), writeErr: s => io.err(s.trimEnd()) })
    .exitOverride()
  root.helpInformation = () => usage(offered)
  root.argument('[command...]').action((words: string[]) => {
    if (words.length === 0 || words[0] === 'help') {
      io.out(words.length > 1 ? usage(under(words.slice(1))) : usage(offered))
      return
    }
    wrong(words, offered)
  })
  for (const [name, command] of remote) add(root, name, command, io)
  const { top, completion } = local
  const leaf = root
    .command(`top ${top.usage}`)
    .description(`${top.summary}: clients, topics or slow`)
    .option('--once', 'print it one time')
    .exitOverride()
    .action(async (pane = 'clients') => {
      const { json = false, once = false, watch, home } = leaf.optsWithGlobals<Options & { once?: true }>()
      if (watch !== undefined) throw new BrokerError('BAD_REQUEST', 'top watches by itself: --watch is not for it')
      const { top } = await import('./top.js')
      root.setOptionValue('status', await top(findHome({ home }), io, { pane, once, json }))
    })
  root
    .command(`completion ${completion.usage}`)
    .description(completion.summary)
    .exitOverride()
    .action(async (shell: string) => {
      const { completion } = await import('./completion.js')
      io.out(completion(root, shell))
    })
  root
    .command('__complete <kind> [prefix]', { hidden: true })
    .exitOverride()
    .action(async (kind: string, prefix: string | undefined) => {
      const { home } = root.opts<Options>()
      for (const name of await namesOf(home, kind, prefix)) io.out(name)
    })
  return root
}

/** For a shell that waits at its prompt: quick, and without a word when there is nobody to ask. */
async function namesOf(home: string | undefined, kind: string, prefix = ''): Promise<readonly string[]> {
  try {
    return await new AdminClient(findHome({ home }).adminSocket, 500).call('complete', { kind, prefix })
  } catch (err) {
    if (err instanceof BrokerError) return []
    throw err
  }
}

function add(root: Program, name: string, command: Command<any, any, any>, io: Io): void {
  const words = name.split(' ')
  const last = words.pop()!
  const parent = words.reduce(
    (at, word, i) => at.commands.find(c => c.name() === word) ?? group(at, words.slice(0, i + 1), io),
    root
  )
  const leaf = parent.command(last).helpCommand(false).configureHelp({ showGlobalOptions: true }).exitOverride()
  leaf.summary(command.summary).description(command.summary)
  if (command.usage !== undefined) leaf.arguments(command.usage)
  for (const [flags, what] of command.options ?? []) leaf.option(flags, what)
  const more = offered.filter(([other]) => other === name || other.startsWith(`${name} `))
  if (more.length > 1) leaf.helpInformation = () => usage(more)
  leaf.allowExcessArguments(more.length > 1).action(async () => {
    if (leaf.args.length > leaf.registeredArguments.length && !leaf.registeredArguments.at(-1)?.variadic) {
      return wrong([...words, last, ...leaf.args], more)
    }
    const args: Record<string, any> = leaf.opts()
    leaf.registeredArguments.forEach((a, i) => {
      args[a.name()] = leaf.processedArgs[i]
    })
    const { json, table, watch, home } = leaf.optsWithGlobals<Options>()
    const { secret, path } = command
    if (path !== undefined && args[path] !== undefined) args[path] = resolve(args[path])
    const isArgument = leaf.registeredArguments.some(a => a.name() === secret)
    if (secret !== undefined && args[secret] === (isArgument ? undefined : true)) {
      args[secret] = await (io.secret?.(secret, isArgument) ?? missing(secret))
    }
    const show = async (): Promise<void> => {
      const at = findHome({ home })
      const print = { json, table, io }
      if (command.line === undefined) return await printResult(await send(at, name, args), command.print, print)
      await printRows(new AdminClient(at.adminSocket).rows(name, args), command.line, print)
    }
    if (watch === undefined) return await show()
    if (command.acts) throw new BrokerError('BAD_REQUEST', `--watch is for what only shows something, not for ${name}`)
    const everyMs = 1000 * Number(watch)
    if (!(everyMs > 0)) throw new BrokerError('BAD_REQUEST', `--watch: expected seconds, got "${watch}"`)
    for (;;) {
      if (process.stdout.isTTY && !json) io.out('\u001b[H\u001b[2J\u001b[A')
      await show()
      await sleep(everyMs)
    }
  })
}

/** By the broker, or in its place where it does not run and that can be. */
async function send(home: Home, name: string, args: object): Promise<any> {
  try {
    return await new AdminClient(home.adminSocket).send(name, args)
  } catch (err) {
    if (!isAway(err) || firstWord(name) !== 'store') throw err
    const { offline } = await import('./store.js')
    return await offline[name]!(home, args as { file: string })
  }
}

const isAway = (err: unknown): boolean =>
  err instanceof BrokerError &&
  err.code === 'UNREACHABLE' &&
  (err.cause as NodeJS.ErrnoException | undefined)?.code !== 'ETIMEDOUT'

/** Where nobody can be asked, such as at the prompt of `broker attach`. */
const missing = (what: string): never => {
  throw new BrokerError('BAD_REQUEST', `missing argument "${what}"`)
}

interface Printing {
  readonly json: true | undefined
  readonly table: true | undefined
  readonly io: Io
}

async function printResult(
  result: unknown,
  print: Command<any, any>['print'],
  { json, table, io }: Printing
): Promise<void> {
  if (json) return io.out(JSON.stringify(result))
  const text = table ? (await import('./format.js')).format(result) : (print?.(result) ?? '')
  if (text !== '') io.out(text)
}

/** As they come, but for a table, whose columns are as wide as its widest row. */
async function printRows(
  batches: AsyncGenerator<unknown[]>,
  line: (row: never) => string,
  { json, table, io }: Printing
): Promise<void> {
  if (table) {
    const rows: unknown[] = []
    for await (const batch of batches) rows.push(...batch)
    return io.out((await import('./format.js')).format(rows))
  }
  if (!json) {
    for await (const batch of batches) io.out((batch as never[]).map(line).join('\n'))
    return
  }
  let last = '[' // held back, since it is known only behind it whether a comma follows
  for await (const batch of batches) {
    const texts = batch.map(row => JSON.stringify(row))
    const said = last === '[' ? `[${texts.join(',\n')}` : [last, ...texts].join(',\n')
    const at = said.lastIndexOf('\n')
    if (at > 0) io.out(said.slice(0, at))
    last = said.slice(at + 1)
  }
  io.out(`${last}]`)
}

/** First words such as `clients` or `admins token`: alone they say what they know, as in emqttd. */
function group(parent: Program, first: string[], io: Io): Program {
  const made = parent.command(first.at(-1)!).helpCommand(false).exitOverride()
  const known = (): Offer[] => under(first).filter(([name]) => name.startsWith(first.join(' ')))
  made.helpInformation = () => usage(known())
  made.argument('[command...]').action((words: string[]) => {
    if (words.length === 0) io.out(usage(known()))
    else wrong([...first, ...words], under(first))
  })
  return made
}

type Offer = (typeof offered)[number]

const under = ([first]: string[]): Offer[] => {
  const found = offered.filter(([name]) => firstWord(name) === first)
  return found.length > 0 ? found : offered
}

function wrong(words: string[], known: readonly Offer[]): never {
  const meant = known === offered ? meantCommand(words) : meantSecond(words, known)
  const what = `no such command: ${words.join(' ')}`
  throw new BrokerError(
    'BAD_REQUEST',
    meant === undefined ? `${what}\n${usage(known)}` : `${what}; did you mean ${meant}?`
  )
}

/** `client list` is `clients list`, `plugin` is `plugins`, and `kick` is `clients kick`, the only one with that word. */
function meantCommand(words: string[]): string | undefined {
  const names = offered.map(([name]) => name)
  const near = nearest(words.slice(0, 2).join(' '), names) ?? nearest(words[0]!, [...new Set(names.map(firstWord))])
  if (near !== undefined) return near
  const named = names.filter(name => name.split(' ')[1] === words[0])
  return named.length === 1 ? named[0] : undefined
}

function meantSecond([first, second]: string[], known: readonly Offer[]): string | undefined {
  const seconds = known.flatMap(([name]) => name.split(' ')[1] ?? [])
  const near = nearest(second!, seconds)
  return near === undefined ? undefined : `${first} ${near}`
}

const watchSeconds = 2

const firstWord = (name: string): string => name.split(' ')[0]!

const options: readonly [string, string][] = [
  ['--json', 'Print the result as JSON'],
  ['--table', 'Print the result as a table'],
  ['--watch [Seconds]', 'Print it again and again, every 2 seconds or so many'],
  ['--home <Dir>', 'Home of the broker, if not BROKER_HOME or the one here']
]

/** emqttd_ctl's usage: a rule before each group, the words padded to 48, the summary. */
function usage(known: readonly Offer[]): string {
  const line = ([words, summary]: readonly [string, string]): string => `${words.padEnd(48)}# ${summary}`
  const lines = known.map(([name, { usage: args, synopsis, summary }]) =>
    line([[name, ...argumentWords(synopsis ?? args)].join(' '), summary])
  )
  if (known !== offered) return lines.join('\n')
  const begins = (i: number): boolean => i === 0 || firstWord(offered[i]![0]) !== firstWord(offered[i - 1]![0])
  const ruled = lines.flatMap((text, i) => (begins(i) ? [rule, text] : [text]))
  return ['Usage: broker-ctl', ...ruled, rule, ...options.map(line)].join('\n')
}

const rule = '-'.repeat(80)

/** `<clientId>` is `<ClientId>` in emqttd's help. */
const argumentWords = (args = ''): string[] =>
  args === ''
    ? []
    : [args.replace(/([<[])([a-z])/g, (_, b: string, c: string) => b + c.toUpperCase()).replace('<Qos>', '<QoS>')]
