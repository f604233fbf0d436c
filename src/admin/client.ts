/** Calls commands of a running broker; the types of arguments and results come from the command table. */
import { type IncomingMessage, request } from 'node:http'
import { createInterface } from 'node:readline'
import { BrokerError, type ErrorCode } from '../base/errors.js'
import type { Commands } from '../commands/index.js'
import type { Sample } from '../ops/samples.js'

type ArgsOf<N extends keyof Commands> = Parameters<Commands[N]['run']>[1]
type ResultOf<N extends keyof Commands> = Wire<Awaited<ReturnType<Commands[N]['run']>>>
/** What is left of a value once it has been JSON. */
type Wire<T> = T extends Date
  ? string
  : T extends Generator<infer Row>
    ? Wire<Row>[]
    : T extends object
      ? { [K in keyof T]: Wire<T[K]> }
      : T

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
    return await this.#answer(await this.#request('POST', pathOf(name), JSON.stringify(args)))
  }

  /** The rows of a list as they come, some at a time. */
  async *rows(name: string, args: object): AsyncGenerator<unknown[]> {
    const response = await this.#request('POST', pathOf(name), JSON.stringify(args), { accept: 'application/x-ndjson' })
    if (response.statusCode !== 200) return void (await this.#answer(response))
    let rest = ''
    try {
      for await (const chunk of response.setEncoding('utf8') as AsyncIterable<string>) {
        const lines = (rest + chunk).split('\n')
        rest = lines.pop()!
        if (lines.length > 0) yield lines.map(line => JSON.parse(line) as unknown)
      }
    } catch (cause) {
      throw this.#unreachable(cause as Error) // it ended in the middle of its answer
    }
  }

  async #answer(response: IncomingMessage): Promise<unknown> {
    let text: string
    try {
      text = await textOf(response)
    } catch (cause) {
      throw this.#unreachable(cause as Error) // it ended in the middle of its answer
    }
    const body = JSON.parse(text) as { error?: { code?: ErrorCode; message: string } }
    if (response.statusCode === 200) return body
    const { code, message } = body.error ?? { message: `status ${response.statusCode}` }
    if (code === undefined) throw new Error(`the broker failed: ${message}; its log has more`)
    throw new BrokerError(code, message)
  }

  /** Calls `take` with each line of the log from now on; resolves when the broker ends, or `signal` is aborted. */
  async followLog(
    { format, level, signal }: { format: 'text' | 'json'; level: string; signal: AbortSignal },
    take: (line: string) => void
  ): Promise<void> {
    await this.#follow(`/log?format=${format}&level=${level}`, signal, take)
  }

  /** The same with what the broker is busy with, each second. */
  async followTop(signal: AbortSignal, take: (sample: Sample) => void): Promise<void> {
    await this.#follow('/top', signal, line => take(JSON.parse(line) as Sample))
  }

  async #follow(path: string, signal: AbortSignal, take: (line: string) => void): Promise<void> {
    const response = await this.#request('GET', path, '')
    if (response.statusCode !== 200) return void (await this.#answer(response))
    response.on('error', () => {}) // the end of the broker, or ours
    const lines = createInterface({ input: response })
    lines.on('error', () => {})
    lines.on('line', take)
    const over = new Promise<void>(resolve => {
      response.once('close', () => {
        lines.close() // with the line that it still has
        resolve()
      })
    })
    if (signal.aborted) response.destroy()
    else signal.addEventListener('abort', () => response.destroy(), { once: true })
    await over
  }

  async #request(method: string, path: string, body: string, headers = {}): Promise<IncomingMessage> {
    return await new Promise((resolve, reject) => {
      const req = request({ socketPath: this.#socketPath, path, method, headers }, resolve)
      const late = setTimeout(() => {
        req.destroy(
          Object.assign(new Error(`no answer within ${this.#timeoutMs / 1000} seconds`), { code: 'ETIMEDOUT' })
        )
      }, this.#timeoutMs)
      req.once('response', () => clearTimeout(late))
      req.on('error', cause => {
        clearTimeout(late)
        reject(this.#unreachable(cause))
      })
      req.end(body)
    })
  }

  /** No broker there, which is UNREACHABLE, or one that does not let us in. */
  #unreachable(cause: NodeJS.ErrnoException): BrokerError {
    if (cause.code === 'EACCES' || cause.code === 'EPERM') {
      const message = `${this.#socketPath} is closed to this user: run this as the user who runs the broker`
      return new BrokerError('UNAVAILABLE', message, { cause })
    }
    return new BrokerError('UNREACHABLE', `cannot reach the broker on ${this.#socketPath}: ${cause.message}`, { cause })
  }
}

const pathOf = (name: string): string => `/${name.split(' ').map(encodeURIComponent).join('/')}`

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk)
  return Buffer.concat(chunks).toString('utf8')
}
