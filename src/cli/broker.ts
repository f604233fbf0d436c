/** broker: start, stop and look after the daemon. Its words and exit statuses are emqttd's where emqttd had them. */
import { CommanderError, InvalidArgumentError, Option, Command as Program } from 'commander'
import { BrokerError } from '../base/errors.js'
import { findHome, type Home, version } from '../base/home.js'
import { Exit, type Io, printError, terminal } from './io.js'

/** Runs argv; resolves to the exit status. */
export async function main(argv: readonly string[], io: Io = terminal): Promise<number> {
  let status: number = Exit.ok
  const program = programOf(io, ended => {
    status = ended
  })
  try {
    await program.parseAsync([...argv], { from: 'user' })
    return status
  } catch (err) {
    if (err instanceof CommanderError)
      return err.exitCode === 0 ? Exit.ok : argv.length === 0 ? Exit.failed : Exit.usage
    await printError(io, err)
    return err instanceof BrokerError && err.code === 'BAD_REQUEST' ? Exit.usage : Exit.failed
  }
}

/** @param end takes the exit status of the word that ran. */
function programOf(io: Io, end: (status: number) => void): Program {
  const program = new Program('broker')
    .description('A private MQTT broker')
    .option('--home <dir>', 'home of the broker (default: BROKER_HOME, the nearest etc/broker.conf, or the package)')
    .version(version)
    .configureOutput({ writeOut: s => io.out(s.trimEnd()), writeErr: s => io.err(s.trimEnd()) })
    .exitOverride()
  const home = (): Home => findHome({ home: program.opts<{ home?: string }>().home })
  const on = (words: string, summary: string, work: (options: any, ...args: string[]) => Promise<number>): Program =>
    program
      .command(words)
      .description(summary)
      .exitOverride()
      .action(async (...args: unknown[]) => {
        const [options, ...rest] = args.slice(0, -1).reverse()
        end(await work(options, ...(rest.reverse() as string[])))
      })

  on('start', 'Start the broker in the background', async ({ wait, timeout }) => {
    const { start } = await import('./commands.js')
    return await start(home(), io, { wait, timeoutMs: timeout * 1000, tell: io.err })
  })
    .option('--no-wait', 'do not wait until the broker runs')
    .addOption(seconds('how long to wait').env('WAIT_FOR_BROKER'))

  on('stop', 'Stop the broker', async ({ mode, timeout }) => {
    const { stop } = await import('./commands.js')
    return await stop(home(), io, { mode, timeoutMs: timeout * 1000 })
  })
    .addOption(modes())
    .addOption(seconds('how long to wait before it is killed'))

  on('restart', 'Stop the broker and start it again', async ({ mode, timeout }) => {
    const { restart } = await import('./commands.js')
    return await restart(home(), io, { mode, timeoutMs: timeout * 1000 })
  })
    .addOption(modes())
    .addOption(seconds('how long to wait for either'))

  on('reload', 'Read everything under etc/ again while the broker runs', async ({ json }) => {
    const { reload } = await import('./commands.js')
    return await reload(home(), io, json === true)
  }).option('--json', 'print the result as JSON')

  on('console', 'Run the broker on this terminal; Ctrl-C stops it', async () => {
    const { serve } = await import('./serve.js')
    return await serve(home(), 'console')
  })
  on('foreground', 'Run the broker in this process with its log as JSON on standard output', async () => {
    const { serve } = await import('./serve.js')
    return await serve(home(), 'foreground')
  })
  on('ping', 'Ask whether the broker answers', async () => {
    const { pong } = await import('./commands.js')
    return await pong(home(), io)
  })
  on('pid', "Print the broker's process id", async () => {
    const { pid } = await import('./commands.js')
    return await pid(home(), io)
  })
  on('status', 'Show broker status; exit status 0 when it runs, 3 when it does not', async ({ json }) => {
    const { status } = await import('./commands.js')
    return await status(home(), io, json === true)
  }).option('--json', 'print the result as JSON')
  on('logs', 'Show the log', async ({ follow, lines }) => {
    const { logs } = await import('./logs.js')
    return await logs(home(), io, { follow: follow === true, lines })
  })
    .option('-f, --follow', 'go on with what is written from now on')
    .addOption(new Option('-n, --lines <count>', 'how many lines').default(100).argParser(count))
  on('attach', 'Show the log as it is written, and take broker-ctl commands; Ctrl-D detaches', async ({ level }) => {
    const { attach } = await import('./attach.js')
    return await attach(home(), io, level)
  }).addOption(
    new Option('--level <level>', 'from which level on').choices(['debug', 'info', 'warning', 'error']).default('info')
  )
  on('check', 'Check the configuration', async () => {
    const { check } = await import('./commands.js')
    return await check(home(), io)
  })
  on('doctor', 'Look for what is wrong with this home and this host, and say what mends it', async ({ json }) => {
    const { doctor } = await import('./doctor/doctor.js')
    return await doctor(home(), io, { json: json === true })
  }).option('--json', 'print the result as JSON')
  on('init [dir]', 'Lay out a home of your own: etc/, log/, data/', async (_options, dir) => {
    const { init } = await import('./init.js')
    return init(dir ?? program.opts<{ home?: string }>().home ?? '.', io)
  })
  on('completion <shell>', 'Print the completion script for bash, zsh or fish', async (_options, shell) => {
    const { completion } = await import('./completion.js')
    io.out(completion(program, shell!))
    return Exit.ok
  })
  on('version', 'Print the version', async () => {
    io.out(version)
    return Exit.ok
  })
  program.command('daemon', { hidden: true }).action(async () => {
    process.title = `broker ${home().root}`
    const { leaveWord } = await import('./failure.js')
    const served = import('./serve.js').then(({ serve }) => serve(home(), 'daemon'))
    end(await served.catch((err: unknown) => leaveWord(home(), err))) // also when the broker cannot be loaded
  })
  program.command('keep', { hidden: true }).action(async () => {
    const { keep } = await import('./pm2/host.js')
    await keep(home())
  })
  return program
}

const seconds = (what: string): Option => new Option('-t, --timeout <seconds>', what).default(15).argParser(count)

const modes = (): Option =>
  new Option('-m, --mode <mode>', 'drain: send what is written first; fast: do not; immediate: kill')
    .choices(['drain', 'fast', 'immediate'])
    .default('drain')

function count(text: string): number {
  const n = Number(text)
  if (!Number.isFinite(n) || n < 0 || text.trim() === '') throw new InvalidArgumentError('expected a number')
  return n
}
