/**
 * What a route of the management API is: one entry with its path, what it takes, what it
 * gives and its work. From the table of all of them come fastify's routes, the checks of
 * what is asked, and the OpenAPI description.
 */
import type { openPages } from '../config/broker-keys.js'
import type { Operations } from '../ops/operations.js'
import type { Admins } from './admins.js'
import type { Login } from './login.js'
import type { List } from './pages.js'

/** emqttd's numbers. */
export const code = {
  success: 0,
  badRpc: 101,
  unknown: 102,
  badPassword: 103,
  emptyPassword: 104,
  noSuchUser: 105,
  adminStays: 106,
  missing: 107,
  wrongType: 108,
  notJson: 109,
  loaded: 110,
  unloaded: 111,
  notOnline: 112,
  userExists: 113,
  wrongOldPassword: 114
} as const

/** An answer with another code than 0; its HTTP status is 200 all the same. */
export class Refusal extends Error {
  constructor(
    readonly code: number,
    message = '',
    /** Seconds after which it may be asked again. */
    readonly waitSeconds?: number
  ) {
    super(message)
  }
}

/** An answer that is not in emqttd's envelope. */
export class Plain {
  constructor(
    readonly body: string | object,
    readonly status = 200,
    readonly type = typeof body === 'string' ? 'text/plain' : 'application/json'
  ) {}
}

export type Schema = { readonly [keyword: string]: unknown }

export interface Asked {
  readonly ops: Operations
  readonly admins: Admins
  readonly login: Login
  readonly params: Readonly<Record<string, string>>
  readonly body: any
  /** Of who asks. */
  readonly address: string
}

export interface Route {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE'
  /** As fastify has it: `/api/v2/clients/:clientid`. */
  readonly path: string
  readonly summary: string
  readonly tag: string
  /** Needs no login; a word: where listener.api.N.public has it. */
  readonly open?: true | (typeof openPages)[number]
  /** Answered while the broker starts and stops, too. */
  readonly always?: true
  readonly body?: Schema
  /** Of `result`; for a list, of each of its objects. */
  readonly result?: Schema
  /** What it gives instead of the envelope, by content type. */
  readonly gives?: readonly [type: string, schema: Schema]
  /** It is a list, with pages. */
  readonly paged?: true
  run(asked: Asked): unknown | Promise<unknown> | List
}

export const text: Schema = { type: 'string' }
export const number: Schema = { type: 'number' }
export const integer: Schema = { type: 'integer' }
export const flag: Schema = { type: 'boolean' }
export const nothing: Schema = { type: 'array', maxItems: 0, items: {} }
export const listOf = (items: Schema): Schema => ({ type: 'array', items })
export const object = (properties: Record<string, Schema>, required = Object.keys(properties)): Schema => ({
  type: 'object',
  properties,
  ...(required.length === 0 ? {} : { required })
})
export const objects = (of: Schema): Schema => object({ objects: listOf(of) })
