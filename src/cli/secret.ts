/**
 * Asks for a password: on a terminal without showing it, and a new one twice, as a slip
 * would not be seen; otherwise the first line of standard input is it.
 */
import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'
import { BrokerError } from '../base/errors.js'

export async function askSecret(what: string, isNew: boolean): Promise<string> {
  const { stdin, stderr } = process
  if (stdin.isTTY !== true) return await line(createInterface({ input: stdin }))
  const hidden = async (prompt: string): Promise<string> => {
    stderr.write(prompt)
    const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() })
    try {
      return await line(createInterface({ input: stdin, output: nowhere, terminal: true }))
    } finally {
      stderr.write('\n')
    }
  }
  const first = await hidden(`${what}: `)
  if (isNew && (await hidden(`${what} again: `)) !== first) throw new BrokerError('BAD_REQUEST', `the ${what}s differ`)
  return first
}

async function line(from: ReturnType<typeof createInterface>): Promise<string> {
  return await new Promise((resolve, reject) => {
    from.once('line', text => {
      resolve(text)
      from.close()
    })
    from.once('close', () => reject(new BrokerError('BAD_REQUEST', 'no password was given')))
  })
}
