/** Asks a broker's management API. */
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import type { TestContext } from 'node:test'
import { type Running, type ServerFiles, startServer } from './server.js'

export interface Answer {
  readonly status: number
  readonly headers: NodeJS.Dict<string | string[]>
  readonly text: string
  /** What it is as JSON. */
  readonly body: any
}

export interface Asking {
  readonly method?: string
  /** Sent as JSON; text as it is. */
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
  /** The Authorization header; admin's without one. */
  readonly as?: string
}

export const basic = (username: string, password: string): string =>
  `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`

export async function ask(
  port: number,
  path: string,
  { method = 'GET', body, headers, as }: Asking = {}
): Promise<Answer> {
  return await new Promise((resolve, reject) => {
    const all = { ...(as === undefined || as === '' ? {} : { authorization: as }), ...headers }
    const sent = request({ host: '127.0.0.1', port, path, method, headers: all, agent: false }, response => {
      const parts: Buffer[] = []
      response.on('data', (part: Buffer) => parts.push(part))
      response.on('error', reject)
      response.on('end', () => {
        const text = Buffer.concat(parts).toString('utf8')
        let parsed: unknown
        try {
          parsed = JSON.parse(text)
        } catch {
          // it is none
        }
        resolve({ status: response.statusCode!, headers: response.headers, text, body: parsed })
      })
    })
    sent.on('error', reject)
    sent.end(body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body))
  })
}

export interface WithApi extends Running {
  readonly api: number
  /** Of the first user. */
  readonly password: string
  /** As the first user, unless told otherwise. */
  ask(path: string, asking?: Asking): Promise<Answer>
}

/** A broker with its management API on a free port. */
export async function startWithApi(t: TestContext, { conf = '', ...files }: ServerFiles = {}): Promise<WithApi> {
  const listener = /^listener\.(tcp|ws|ssl|wss)\./m.test(conf) ? '' : 'listener.tcp.test = 127.0.0.1:0\n'
  const running = await startServer(t, { ...files, conf: `${listener}listener.api.mgmt = 127.0.0.1:0\n${conf}` })
  const api = running.server.management!.listeners[0]!.port
  const password = readFileSync(running.home.path('data/initial_admin_password'), 'utf8').trim()
  const as = basic('admin', password)
  return { ...running, api, password, ask: (path, asking) => ask(api, path, { as, ...asking }) }
}
