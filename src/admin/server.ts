/**
 * The admin socket: HTTP over a Unix socket, one POST per command.
 *
 *   POST /clients/kick  {"clientId":"c1"}  →  200 {"clientId":"c1"}
 *                                          →  404 {"error":{"code":"NOT_FOUND","message":"…"}}
 *   POST /clients/list                     →  200 [{"client_id":"c1",…},…], or a row a line for application/x-ndjson
 *   GET  /log?format=text&level=info       →  200 and a line for each event from now on
 *   GET  /top                              →  200 and a line of JSON each second: what the broker is busy with
 *
 * Commands return a value or throw; this is the one place that writes a reply.
 * Whoever can open the socket is the operator, so its mode is 0600.
 */
import { chmodSync, rmdirSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { BrokerError, type ErrorCode } from '../base/errors.js'
import type { Home } from '../base/home.js'
import { type Level, type Log, levels } from '../base/log/log.js'
import type { Command, Options } from '../commands/command.js'
import type { Operations } from '../ops/operations.js'
import { sendRows } from './rows.js'

const httpStatus: Record<ErrorCode, number> = {
  BAD_REQUEST: 400,
  QUOTA_EXCEEDED: 507,
  NOT_FOUND: 404,
  CONFLICT: 409,
  CONFIG_INVALID: 422,
  PLUGIN_FAILED: 500,
  UNAVAILABLE: 503,
  UNREACHABLE: 502
}
const maxBody = 64 * 1024
/** What a follower of the log may leave unread before lines are left out for it. */
const maxUnread = 1024 * 1024

/** The socket as a part of the broker. */
export class AdminSocket {
  readonly name = 'admin socket'
  readonly #args: Parameters<typeof serveAdmin>
  #close = async (): Promise<void> => {}

  constructor(...args: Parameters<typeof serveAdmin>) {
    this.#args = args
  }

  async start(): Promise<void> {
    this.#close = await serveAdmin(...this.#args)
  }

  stop(): Promise<void> {
    return this.#close()
  }
}

/** Opens the socket; resolves to what closes it. The caller holds the home's lock, so a file there is a dead one. */
export async function serveAdmin(
  home: Home,
  commands: Readonly<Record<string, Command<any, any, any>>>,
  ops: Operations,
  log: Log
): Promise<() => Promise<void>> {
  home.makeSocketDir()
  const path = home.adminSocket
  rmSync(path, { force: true })
  const streams = new Set<ServerResponse>()

  const http = createServer((request, response) => {
    const [path, query] = (request.url ?? '/').split('?') as [string, string?]
    if (request.method === 'GET' && (path === '/log' || path === '/top')) {
      streams.add(response)
      response.once('close', () => streams.delete(response))
      return path === '/log' ? streamLog(new URLSearchParams(query), response, ops) : streamTop(response, ops)
    }
    void answer(request, response, path).catch((err: Error) => {
      const code = err instanceof BrokerError ? err.code : undefined
      if (code === undefined) log.error('admin command failed', { url: request.url, err })
      if (response.headersSent) return void response.destroy() // a list that broke off must not look whole
      reply(response, code === undefined ? 500 : httpStatus[code], { error: { code, message: err.message } })
    })
  })

  async function answer(request: IncomingMessage, response: ServerResponse, path: string): Promise<void> {
    const body = await handle(request, path)
    if (isList(body)) await sendRows(request, response, body)
    else reply(response, 200, body ?? null)
  }

  async function handle(request: IncomingMessage, path: string): Promise<unknown> {
    const name = nameOf(path)
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined
    if (request.method !== 'POST' || command === undefined) throw new BrokerError('BAD_REQUEST', `no command "${name}"`)
    return await command.run(ops, checked(command, await json(request)) as never)
  }

  await new Promise<void>((resolve, reject) => {
    // The umask, not a later chmod: the socket must not be open to others for a moment either. listen() makes it at once.
    const umask = process.umask(0o177)
    try {
      http.once('error', reject).listen(path, resolve)
    } finally {
      process.umask(umask)
    }
  })
  chmodSync(path, 0o600)
  return async () => {
    for (const stream of streams) stream.end()
    await new Promise(resolve => {
      http.close(resolve)
      http.closeIdleConnections()
      setTimeout(() => http.closeAllConnections(), 100).unref() // the answer to whoever asked for the stop goes out first
    })
    rmSync(path, { force: true })
    if (home.hasRoomForSockets) return
    try {
      rmdirSync(home.shortDir)
      rmSync(home.shortDirRecord, { force: true })
    } catch {
      // pm2's sockets are still there
    }
  }
}

const isList = (body: unknown): body is Generator<unknown> =>
  typeof body === 'object' && body !== null && Symbol.iterator in body && 'next' in body

/** `/clients/kick` is the command `clients kick`. */
function nameOf(path: string): string {
  try {
    return decodeURIComponent(path.slice(1)).replaceAll('/', ' ')
  } catch {
    throw new BrokerError('BAD_REQUEST', `not a path: ${path}`)
  }
}

function reply(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}

function streamLog(query: URLSearchParams, response: ServerResponse, { log }: Operations): void {
  const level = levels.find(l => l === query.get('level')) ?? ('info' satisfies Level)
  response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' })
  response.flushHeaders()
  const format = query.get('format') === 'json' ? 'json' : 'text'
  let leftOut = 0
  const write = (line: string): void => {
    if (response.writableLength > maxUnread) {
      leftOut++
      return
    }
    if (leftOut > 0) response.write(`… ${leftOut} lines left out: they were not read in time\n`)
    leftOut = 0
    response.write(line)
  }
  response.once('close', log.follow({ level, format, write }))
}

/** Whoever reads slower than it is told gets the newest, not all. */
function streamTop(response: ServerResponse, { top }: Operations): void {
  response.writeHead(200, { 'content-type': 'application/x-ndjson' })
  response.flushHeaders()
  const leave = top.watch(sample => {
    if (response.writableLength === 0) response.write(`${JSON.stringify(sample)}\n`)
  })
  response.once('close', leave)
}

/** The wire is not typed: every <name> of `usage` must be there, and every argument and option must be text. */
function checked({ usage = '', options = [] }: Command<any, any, any>, args: unknown): unknown {
  const given = (args ?? {}) as Record<string, unknown>
  for (const [, required, name, rest] of usage.matchAll(/([<[])(\w+)(\.\.\.)?[>\]]/g)) {
    const value = given[name!]
    if (value === undefined && required === '<') throw new BrokerError('BAD_REQUEST', `missing argument "${name}"`)
    const fits = value === undefined || (rest ? Array.isArray(value) : typeof value === 'string')
    if (!fits) throw new BrokerError('BAD_REQUEST', `argument "${name}" is not ${rest ? 'a list' : 'text'}`)
  }
  for (const [flags] of options as Options) {
    const [, name, value] = /--(\w+)(?: ([<[]))?/.exec(flags)!
    const fits =
      given[name!] === undefined || (value === undefined ? given[name!] === true : typeof given[name!] === 'string')
    if (!fits) throw new BrokerError('BAD_REQUEST', `option "${name}" is not ${value === undefined ? 'true' : 'text'}`)
  }
  return given
}

async function json(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > maxBody) throw new BrokerError('BAD_REQUEST', `request is over ${maxBody} bytes`)
    chunks.push(chunk)
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8') || '{}')
  } catch {
    throw new BrokerError('BAD_REQUEST', 'request is not JSON')
  }
}
