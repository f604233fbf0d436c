/** `broker attach`: the running broker's log above a broker-ctl prompt. Leaving it never stops the broker. */
import { createInterface } from 'node:readline'
import { AdminClient } from '../admin/client.js'
import { BrokerError } from '../errors.js'
import type { Home } from '../home.js'
import { main as ctl } from './ctl.js'
import { ping } from './daemon.js'
import { Exit, type Io } from './io.js'

export async function attach(home: Home, io: Io, level: string): Promise<number> {
  const answer = await ping(home)
  if (answer === undefined) {
    io.out('Node is not running!')
    return Exit.failed
  }
  const { stdin, stdout } = process
  const prompt = createInterface({
    input: stdin,
    output: stdout,
    terminal: stdin.isTTY === true,
    prompt: 'broker-ctl> '
  })
  const over = new AbortController()
  io.out(`attached to ${answer.node} (pid ${answer.pid}); Ctrl-D detaches`)

  const above = (line: string): void => {
    if (stdin.isTTY) stdout.write('\r\u001b[K')
    stdout.write(`${line}\n`)
    if (!over.signal.aborted && stdin.isTTY) prompt.prompt(true)
  }
  const log = new AdminClient(home.adminSocket)
    .followLog({ format: 'text', level, signal: over.signal }, above)
    .then(() => {
      if (!over.signal.aborted) above('the broker has stopped')
      prompt.close()
    })
    .catch((err: unknown) => {
      if (!(err instanceof BrokerError)) throw err
      above(err.message)
      prompt.close()
    })

  prompt.on('SIGINT', () => prompt.close())
  prompt.prompt()
  for await (const line of prompt) {
    const words = line.trim().split(/\s+/).filter(Boolean)
    if (words[0] === 'exit' || words[0] === 'quit') break
    if (words[0] === 'broker-ctl') words.shift()
    if (words.length > 0) await ctl(['--home', home.root, ...words], io)
    prompt.prompt()
  }
  over.abort()
  prompt.close()
  await log
  return Exit.ok
}
