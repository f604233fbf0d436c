/**
 * The management API's HTTP: the table of routes as fastify's, with who may ask before
 * and emqttd's envelope behind. This is the one place that writes an answer.
 */
import type { RequestListener } from 'node:http'
import { Readable } from 'node:stream'
import fastify, { type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { BrokerError } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import type { ApiOptions } from '../config/broker-keys.js'
import { unmapIPv4 } from '../net/peer.js'
import type { Operations } from '../ops/operations.js'
import type { Admins } from './admins.js'
import type { Login } from './login.js'
import { openApi, templateOf } from './openapi.js'
import { type List, pageOf, type Wanted } from './pages.js'
import { code, listOf, object, Plain, Refusal, type Route, text } from './route.js'
import { routes as table } from './routes/index.js'

const maxBody = 8 * 1024 * 1024
const maxPage = 100_000

/** Those of the table, and the two that tell of them. */
export function routesOf(version: string): Route[] {
  const all: Route[] = [
    {
      method: 'GET',
      path: '/',
      summary: 'The paths of this API',
      tag: 'Description',
      open: true,
      always: true,
      gives: ['application/json', object({ paths: listOf(text) })],
      run: () => new Plain({ paths: [...new Set(all.map(({ path }) => templateOf(path).slice(1)))].filter(isApi) })
    },
    {
      method: 'GET',
      path: '/api/v2/openapi.json',
      summary: 'This description',
      tag: 'Description',
      open: 'openapi',
      always: true,
      gives: [
        'application/json',
        object({ openapi: text, info: object({ version: text }), paths: { type: 'object' } })
      ],
      run: () => new Plain(openApi(all, version))
    },
    ...table
  ]
  return all
}

const isApi = (path: string): boolean => path.startsWith('api/')

/** What the API needs of the broker. */
export interface AppDeps {
  readonly ops: Operations
  readonly admins: Admins
  readonly login: Login
  readonly log: Log
}

export async function createApp(deps: AppDeps, options: ApiOptions): Promise<RequestListener> {
  const app = await makeApp(deps, options)
  return (request, response) => app.routing(request, response)
}

export async function makeApp({ ops, admins, login, log }: AppDeps, options: ApiOptions): Promise<FastifyInstance> {
  const app = fastify({
    bodyLimit: maxBody,
    exposeHeadRoutes: false,
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 200_000 },
    ajv: { customOptions: { coerceTypes: false } }
  })
  // Whatever the content type says: emqttd took curl's -d as it is. A web page of another site is kept out below.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, parsed) => {
    try {
      parsed(null, JSON.parse(body as string))
    } catch {
      parsed(new Refusal(code.notJson, notJson.message))
    }
  })

  const mayBeOpen = ({ open }: Route): boolean => open === true || (open !== undefined && options.public.includes(open))
  const routes = routesOf(ops.broker.state().version)
  const routeOf = new Map(routes.map(route => [`${route.method} ${route.path}`, route]))
  const asked = ({ method, routeOptions: { url } }: FastifyRequest): Route | undefined =>
    routeOf.get(`${method} ${url}`)
  const callers = new WeakMap<FastifyRequest, string>()

  app.addHook('onRequest', async (request, reply) => {
    const { method, headers } = request
    const { origin } = headers
    reply.header('cache-control', 'no-store')
    if (origin !== undefined) {
      // A browser sends the password it knows with a request that a page of any site makes.
      const isAllowed = options.allowOrigins.includes(origin)
      if (!isAllowed && !isOwn(origin, headers.host)) return reply.code(403).type('text/plain').send('')
      if (isAllowed) reply.header('access-control-allow-origin', origin).header('vary', 'Origin')
      if (isAllowed && method === 'OPTIONS') {
        return reply
          .code(204)
          .header('access-control-allow-methods', 'GET, POST, PUT, DELETE')
          .header('access-control-allow-headers', 'Authorization, Content-Type')
          .header('access-control-max-age', '600')
          .send()
      }
    }
    const route = asked(request)
    if (route === undefined || !mayBeOpen(route)) {
      const verdict = await login.judge(headers.authorization, addressOf(request))
      if (verdict === 'refused') return refuseLogin(reply)
      if ('waitSeconds' in verdict) return later(reply, verdict.waitSeconds)
      if (route !== undefined && route.method !== 'GET' && !verdict.mayChange) {
        return reply.code(403).send({ code: code.unknown, message: 'this token may only read' })
      }
      callers.set(request, verdict.name)
    }
    const { phase } = ops.broker.state()
    if (route?.always !== true && phase !== 'running') {
      return reply.code(503).send({ code: code.unknown, message: `the broker is ${phase}` })
    }
  })

  app.setNotFoundHandler((_request, reply) => reply.code(404).type('text/plain').send(''))

  app.setErrorHandler((err: FastifyError | Error, request, reply) => {
    if (err instanceof Refusal) {
      if (err.waitSeconds !== undefined) return later(reply, err.waitSeconds)
      return reply.send({ code: err.code, ...(err.message === '' ? {} : { message: err.message }) })
    }
    if (err instanceof BrokerError) return reply.send({ code: code.unknown, message: err.message })
    if ('validation' in err && err.validation !== undefined) {
      const isEmpty = err.validationContext === 'body' && (request.body ?? null) === null
      return reply.send(isEmpty ? notJson : wrongParameter(err))
    }
    const { statusCode = 500 } = err as FastifyError
    if (statusCode < 500) return reply.code(statusCode).send({ code: code.unknown, message: err.message })
    log.error('management API: a request failed', { method: request.method, path: request.routeOptions.url, err })
    return reply.code(500).send({ code: code.unknown, message: 'internal error' })
  })

  for (const route of routes) {
    const { method, path: url, body, paged } = route
    app.route({
      method,
      url,
      schema: {
        ...(body === undefined ? {} : { body }),
        ...(paged ? { querystring: pagingSchema } : {})
      },
      handler: async (request, reply) => {
        const answer = await route.run({
          ops,
          admins,
          login,
          params: request.params as Record<string, string>,
          body: request.body,
          address: addressOf(request)
        })
        if (method !== 'GET' && !mayBeOpen(route)) {
          const to = request.params as Record<string, string>
          log.info('management API', {
            by: callers.get(request),
            address: addressOf(request),
            did: `${method} ${url}`,
            ...(Object.keys(to).length === 0 ? {} : { to })
          })
        }
        if (answer instanceof Plain) {
          const { status, type, body } = answer
          return reply.code(status).type(type).send(body)
        }
        if (!paged) return { code: code.success, result: answer }
        reply.type('application/json; charset=utf-8')
        return reply.send(Readable.from(pageOf(answer as List, wanted(request.query as Paging)), { objectMode: false }))
      }
    })
  }
  await app.ready()
  return app
}

interface Paging {
  readonly curr_page?: string
  readonly page_size?: string
}

/** Text, as a query is; coercing it would coerce bodies as well. */
const whole = { type: 'string', pattern: '^[1-9]\\d{0,8}$' }
const pagingSchema = { type: 'object', properties: { curr_page: whole, page_size: whole } }

const wanted = ({ curr_page = '1', page_size = '20' }: Paging): Wanted => ({
  page: Number(curr_page),
  size: Math.min(Number(page_size), maxPage)
})

const addressOf = ({ socket }: FastifyRequest): string => unmapIPv4(socket.remoteAddress ?? '')

/** Whether the page is this API's own. */
function isOwn(origin: string, host: string | undefined): boolean {
  try {
    return new URL(origin).host === host
  } catch {
    return false // `null`, of a sandboxed page or a file
  }
}

const refuseLogin = (reply: FastifyReply) =>
  reply.code(401).header('www-authenticate', 'Basic realm="broker", charset="UTF-8"').type('text/plain').send('')

const later = (reply: FastifyReply, seconds: number) =>
  reply
    .code(429)
    .header('retry-after', String(seconds))
    .send({ code: code.badPassword, message: `too many wrong passwords; again in ${seconds} s` })

const notJson = { code: code.notJson, message: 'Body not json' }

/** emqttd's two: one that is not there, and one that is wrong. */
function wrongParameter({ validation = [] }: Partial<FastifyError>): { code: number; message: string } {
  const isMissing = validation.some(({ keyword }) => keyword === 'required')
  return isMissing
    ? { code: code.missing, message: 'params error' }
    : { code: code.wrongType, message: 'params type error' }
}
