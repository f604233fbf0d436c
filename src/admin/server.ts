/**
 * The admin socket: HTTP over a Unix socket, one POST per command.
 *
 *   POST /clients/kick  {"clientId":"c1"}  →  200 {"clientId":"c1"}
 *                                          →  404 {"error":{"code":"NOT_FOUND","message":"…"}}
 *   GET  /log?format=text&level=info       →  200 and a line for each event from now on
 *
 * Commands return a value or throw; this is the one place that writes a reply.
 * Whoever can open the socket is the operator, so its mode is 0600.
 */
import { chmodSync, lstatSync, mkdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { dirname } from 'node:path'
import type { Command } from '../commands/command.js'
import { BrokerError, type ErrorCode } from '../errors.js'
import type { Home } from '../home.js'
import { type Level, levels } from '../log.js'
import type { Server } from '../server.js'

const httpStatus: Record<ErrorCode, number> = {
  BAD_REQUEST: 400,
  NOT_FOUND: 404,
  CONFLICT: 409,
  CONFIG_INVALID: 422,
  PLUGIN_FAILED: 500,
  UNAVAILABLE: 503,
  UNREACHABLE: 502
}
const maxBody = 64 * 1024

/** Opens the socket; resolves to what closes it. The caller holds the home's lock, so a file there is a dead one. */
export async function serveAdmin(
  home: Home,
  commands: Readonly<Record<string, Command<any, any>>>,
  server: Server
): Promise<() => Promise<void>> {
  const path = home.adminSocket
  const elsewhere = dirname(path) !== home.data
  mkdirSync(home.data, { recursive: true })
  if (elsewhere) {
    makePrivate(dirname(home.shortDir))
    makePrivate(home.shortDir)
    writeFileSync(home.socketRecord, `${path}\n`)
  }
  rmSync(path, { force: true })

  const http = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://admin')
    if (request.method === 'GET' && url.pathname === '/log') return streamLog(url.searchParams, response, server)
    void handle(request, url.pathname).then(
      body => reply(response, 200, body ?? null),
      (err: Error) => {
        const code = err instanceof BrokerError ? err.code : undefined
        if (code === undefined) server.log.error('admin command failed', { url: request.url, err })
        reply(response, code === undefined ? 500 : httpStatus[code], { error: { code, message: err.message } })
      }
    )
  })

  async function handle(request: IncomingMessage, path: string): Promise<unknown> {
    const name = decodeURIComponent(path.slice(1)).replaceAll('/', ' ')
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined
    if (request.method !== 'POST' || command === undefined) throw new BrokerError('BAD_REQUEST', `no command "${name}"`)
    return await command.run(server, checked(command.usage, await json(request)))
  }

  // The umask, not a later chmod: the socket must not be open to others for a moment either.
  const umask = process.umask(0o177)
  try {
    await new Promise<void>((resolve, reject) => http.once('error', reject).listen(path, resolve))
  } finally {
    process.umask(umask)
  }
  chmodSync(path, 0o600)
  return async () => {
    await new Promise(resolve => {
      http.close(resolve)
      http.closeIdleConnections()
      setTimeout(() => http.closeAllConnections(), 100).unref() // the answer to whoever asked for the stop goes out first
    })
    rmSync(path, { force: true })
    if (!elsewhere) return
    rmSync(home.socketRecord, { force: true })
    try {
      rmdirSync(home.shortDir)
    } catch {
      // pm2's sockets are still there
    }
  }
}

/** A directory outside the home that is ours alone: /tmp is everybody's. */
function makePrivate(dir: string): void {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const stat = lstatSync(dir)
  if (
    !stat.isDirectory() ||
    (process.getuid !== undefined && stat.uid !== process.getuid()) ||
    (stat.mode & 0o077) !== 0
  ) {
    throw new BrokerError('UNAVAILABLE', `${dir} is not a directory of this user alone; remove it`)
  }
}

function reply(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}

function streamLog(query: URLSearchParams, response: ServerResponse, { log }: Server): void {
  const level = levels.find(l => l === query.get('level')) ?? ('info' satisfies Level)
  response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' })
  response.flushHeaders()
  const format = query.get('format') === 'json' ? 'json' : 'text'
  const remove = log.add({ level, format, write: line => void response.write(line) })
  response.once('close', remove)
}

/** The wire is not typed: every <name> of `usage` must be there, and every argument must be text. */
function checked(usage = '', args: unknown): unknown {
  const given = (args ?? {}) as Record<string, unknown>
  for (const [, required, name, rest] of usage.matchAll(/([<[])(\w+)(\.\.\.)?[>\]]/g)) {
    const value = given[name!]
    if (value === undefined && required === '<') throw new BrokerError('BAD_REQUEST', `missing argument "${name}"`)
    const fits = value === undefined || (rest ? Array.isArray(value) : typeof value === 'string')
    if (!fits) throw new BrokerError('BAD_REQUEST', `argument "${name}" is not ${rest ? 'a list' : 'text'}`)
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
