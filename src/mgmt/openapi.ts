/** The OpenAPI description of the table of routes. */
import type { Route, Schema } from './route.js'
import { object } from './route.js'

const refusal = object({ code: { type: 'integer' }, message: { type: 'string' } }, ['code'])
const json = (schema: Schema): Schema => ({ 'application/json': { schema } })
const reference = (name: string): Schema => ({ $ref: `#/components/responses/${name}` })

const paging = [
  { name: 'curr_page', in: 'query', description: 'from 1 on', schema: { type: 'integer', minimum: 1, default: 1 } },
  { name: 'page_size', in: 'query', schema: { type: 'integer', minimum: 1, maximum: 100_000, default: 20 } }
]

const page = (of: Schema): Schema =>
  object({
    current_page: { type: 'integer' },
    page_size: { type: 'integer' },
    total_num: { type: 'integer' },
    total_page: { type: 'integer' },
    objects: { type: 'array', items: of }
  })

/** `/clients/:clientid` → `/clients/{clientid}`. */
export const templateOf = (path: string): string => path.replace(/:(\w+)/g, '{$1}')

function operation({ method, path, summary, tag, open, body, result = {}, gives, paged }: Route): object {
  const names = [...path.matchAll(/:(\w+)/g)].map(([, name]) => name!)
  const parameters = [
    ...names.map(name => ({ name, in: 'path', required: true, schema: { type: 'string' } })),
    ...(paged ? paging : [])
  ]
  const answer = object({ code: { const: 0 }, result: paged ? page(result) : result })
  const content = gives === undefined ? json({ anyOf: [answer, refusal] }) : { [gives[0]]: { schema: gives[1] } }
  const mayRefuse = open === true ? {} : { 401: reference('login') }
  return {
    operationId: `${method.toLowerCase()}${path.replace(/[^\w]+(\w)/g, (_, c: string) => c.toUpperCase())}`,
    summary,
    tags: [tag],
    ...(open === true ? { security: [] } : {}),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body === undefined ? {} : { requestBody: { required: true, content: json(body) } }),
    responses: {
      200: { description: gives === undefined ? 'Done, or a code that says why not' : summary, content },
      ...mayRefuse,
      429: reference('later'),
      503: reference('starting')
    }
  }
}

export function openApi(routes: readonly Route[], version: string): object {
  const paths: Record<string, Record<string, object>> = {}
  for (const route of routes) {
    const at = templateOf(route.path)
    paths[at] ??= {}
    paths[at][route.method.toLowerCase()] = operation(route)
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'tsmqttd management API',
      version,
      description:
        "emqttd's REST API v2 and what is new. An answer has HTTP status 200 and a code: 0 success, 101 no such node, 102 failed, 103 wrong user name or password, 104 empty user name or password, 105 no such user, 106 admin cannot be deleted, 107 a parameter is missing, 108 a parameter is of the wrong type, 109 the body is not JSON, 110 the plugin is loaded, 111 the plugin is not loaded, 112 the client is not online, 113 the user exists, 114 the old password is wrong."
    },
    security: [{ basic: [] }, { token: [] }],
    paths,
    components: {
      securitySchemes: {
        basic: { type: 'http', scheme: 'basic', description: 'a user of broker-ctl admins' },
        token: { type: 'http', scheme: 'bearer', description: 'a token of broker-ctl admins token' }
      },
      responses: {
        login: { description: 'No user or token that is right' },
        later: {
          description: 'Too many wrong passwords',
          headers: { 'Retry-After': { description: 'seconds', schema: { type: 'integer' } } },
          content: json(refusal)
        },
        starting: { description: 'The broker starts or stops', content: json(refusal) }
      }
    }
  }
}
