/** Calls commands of a running broker; the types of arguments and results come from the command table. */
import { type IncomingMessage, request } from 'node:http'
import { createInterface } from 'node:readline'
import type { Commands } from '../commands/index.js'
import { BrokerError, type ErrorCode } from '../errors.js'

type ArgsOf<N extends keyof Commands> = Parameters<Commands[N]['run']>[1]
type ResultOf<N extends keyof Commands> = Wire<Awaited<ReturnType<Commands[N]['run']>>>
/** What is left of a value once it has been JSON. */
type Wire<T> = T extends Date ? string : T extends object ? { [K in keyof T]: Wire<T[K]> } : T

export class AdminClient {
  readonly #socketPath: string
  readonly #timeoutMs: number

  /** @param timeoutMs how long the broker may say nothing; loading a plugin may take its backend's time-outs. */
  constructor(socketPath: string, timeoutMs = 30_000) {
    this.#socketPath = socketPath
    this.#timeoutMs = timeoutMs
  }

  async call<N extends keyof Commands>(name: N, args: ArgsOf<N>): Promise<ResultOf<N>> {
    return (await this.send(name, args as object)) as ResultOf<N>
  }

  async send(name: string, args: object): Promise<unknown> {
    const path = `/${name.split(' ').map(encodeURIComponent).join('/')}`
    const response = await this.#request('POST', path, JSON.stringify(args))
    const body = JSON.parse(await textOf(response)) as { error?: { code?: ErrorCode; message: string } }
    if (response.statusCode === 200) return body
    const { code, message } = body.error ?? { message: `status ${response.statusCode}` }
    if (code === undefined) throw new Error(`the broker failed: ${message}; its log has more`)
    throw new BrokerError(code, message)
  }

  /** Calls `take` with each line of the log from now on; resolves when the broker ends it. */
  async followLog(
    options: { format: 'text' | 'json'; level: string; signal: AbortSignal },
    take: (line: string) => void
  ): Promise<void> {
    const response = await this.#request('GET', `/log?format=${options.format}&level=${options.level}`, '')
    options.signal.addEventListener('abort', () => response.destroy(), { once: true })
    const lines = createInterface({ input: response })
    try {
      for await (const line of lines) take(line)
    } catch (err) {
      if (!options.signal.aborted) throw err
    }
  }

  async #request(method: string, path: string, body: string): Promise<IncomingMessage> {
    return await new Promise((resolve, reject) => {
      const req = request({ socketPath: this.#socketPath, path, method }, resolve)
      const late = setTimeout(() => req.destroy(new Error(`no answer within ${this.#timeoutMs} ms`)), this.#timeoutMs)
      req.once('response', () => clearTimeout(late))
      req.on('error', cause => {
        clearTimeout(late)
        reject(
          new BrokerError('UNREACHABLE', `cannot reach the broker on ${this.#socketPath}: ${cause.message}`, { cause })
        )
      })
      req.end(body)
    })
  }
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk)
  return Buffer.concat(chunks).toString('utf8')
}
