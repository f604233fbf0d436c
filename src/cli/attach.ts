/** `broker attach`: the running broker's log above a broker-ctl prompt. Leaving it never stops the broker. */
import { createInterface } from 'node:readline'
import { AdminClient } from '../admin/client.js'
import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import { main as ctl } from './ctl.js'
import { Exit, type Io } from './io.js'
import { ping } from './pm2/daemon.js'

export async function attach(home: Home, io: Io, level: string): Promise<number> {
  const answer = await ping(home)
  if (answer === undefined) {
    io.out('Node is not running!')
    return Exit.failed
  }
  const { stdin, stdout } = process
  const isTerminal = stdin.isTTY === true && stdout.isTTY === true
  const prompt = createInterface({
    input: stdin,
    ...(isTerminal ? { output: stdout } : {}), // a script's output is not cluttered with prompts
    terminal: isTerminal,
    prompt: 'broker-ctl> '
  })
  const over = new AbortController()
  let status: number = Exit.ok
  io.out(`attached to ${answer.node} (pid ${answer.pid}); Ctrl-D detaches`)

  const above = (line: string): void => {
    if (isTerminal) stdout.write('\r\u001b[K')
    io.out(line)
    if (isTerminal && !over.signal.aborted) prompt.prompt(true)
  }
  const log = new AdminClient(home.adminSocket).followLog({ format: 'text', level, signal: over.signal }, above).then(
    () => {
      if (!over.signal.aborted) above('the broker has stopped')
      prompt.close()
    },
    (err: unknown) => {
      if (!(err instanceof BrokerError)) throw err
      io.err(err.message)
      status = Exit.failed
      prompt.close()
    }
  )

  prompt.on('SIGINT', () => prompt.close())
  prompt.prompt()
  for await (const line of prompt) {
    const words = wordsOf(line)
    if (words[0] === 'exit' || words[0] === 'quit') {
      over.abort()
      break
    }
    if (words[0] === 'broker-ctl') words.shift()
    if (words.some(word => word.startsWith('--watch'))) io.err('--watch is not for this prompt')
    // Standard input is the prompt's: nothing else can be asked for.
    else if (words.length > 0) await ctl(['--home', home.root, ...words], { out: io.out, err: io.err })
    prompt.prompt()
  }
  if (isTerminal && !over.signal.aborted) stdout.write('\n') // Ctrl-D leaves the cursor behind the prompt
  over.abort()
  prompt.close()
  await log
  return status
}

/** As a shell would split it: `clients kick "my lamp"` has three. */
const wordsOf = (line: string): string[] =>
  [...line.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map(([, double, single, plain]) => double ?? single ?? plain!)
