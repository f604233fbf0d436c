/**
 * A PostgreSQL for one test file: `const postgres = await startPostgres({ after })`.
 *
 * It is PGlite in this process, unless TEST_PGSQL_URL names a real server's
 * superuser; then it is a fresh database and role there. PGlite looks at no
 * password and mixes up the statements of connections that are in use at once, so
 * tests of either need `real`. Both stand behind a relay, which is what `stop` takes
 * away: the server itself stays.
 */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface Postgres {
  readonly host: string
  readonly port: number
  readonly username: string
  readonly password: string
  readonly database: string
  readonly real: boolean
  /** Runs SQL as the owner of the database, past the relay. */
  query(sql: string): Promise<void>
  /** How many connections are open through the relay. */
  connections(): number
  /** Cuts every connection and refuses new ones. */
  stop(): Promise<void>
  /** Listens again on the same port. */
  restart(): Promise<void>
  /** From now on nothing passes, and no connection is cut; until restart. */
  freeze(): void
}

interface Scope {
  after(undo: () => Promise<void> | void): void
}

type Server = Pick<Postgres, 'port' | 'host' | 'username' | 'password' | 'database' | 'query'>

export async function startPostgres(scope: Scope): Promise<Postgres> {
  const url = process.env['TEST_PGSQL_URL']
  const server = url === undefined || url === '' ? await startPglite(scope) : await createDatabase(new URL(url), scope)
  const relay = new Relay(server)
  await relay.listen(0)
  scope.after(() => relay.close())
  return {
    ...server,
    host: '127.0.0.1',
    port: relay.port,
    real: url !== undefined && url !== '',
    connections: () => relay.connections,
    stop: () => relay.close(),
    restart: async () => {
      await relay.close()
      await relay.listen(relay.port)
    },
    freeze: () => relay.freeze()
  }
}

async function startPglite(scope: Scope): Promise<Server> {
  const { PGlite } = await import('@electric-sql/pglite')
  const { PGLiteSocketServer } = await import('@electric-sql/pglite-socket')
  const db = await PGlite.create()
  const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: 0, maxConnections: 100 })
  await server.start()
  scope.after(async () => {
    await server.stop()
    await db.close()
  })
  return {
    host: '127.0.0.1',
    port: Number(server.getServerConn().split(':').at(-1)),
    username: 'postgres',
    password: 'postgres',
    database: 'postgres',
    query: async sql => {
      await db.exec(sql)
    }
  }
}

async function createDatabase(url: URL, scope: Scope): Promise<Server> {
  const { default: pg } = await import('pg')
  const name = `tsmqttd_test_${process.pid}_${Date.now()}`
  const admin = new pg.Client({ connectionString: url.href })
  await admin.connect()
  await admin.query(`create role ${name} login password '${name}'`)
  await admin.query(`create database ${name} owner ${name}`)
  const inside = new URL(url)
  inside.pathname = `/${name}`
  const owner = new pg.Client({ connectionString: inside.href })
  await owner.connect()
  await owner.query(`set role ${name}`)
  scope.after(async () => {
    await owner.end()
    await admin.query(`drop database ${name} with (force)`)
    await admin.query(`drop role ${name}`)
    await admin.end()
  })
  return {
    host: url.hostname,
    port: Number(url.port || 5432),
    username: name,
    password: name,
    database: name,
    query: async sql => {
      await owner.query(sql)
    }
  }
}

class Relay {
  readonly #target: { host: string; port: number }
  readonly #sockets = new Set<Socket>()
  #server = createServer()
  #frozen = false
  port = 0

  constructor(target: { host: string; port: number }) {
    this.#target = target
  }

  get connections(): number {
    return this.#sockets.size / 2
  }

  async listen(port: number): Promise<void> {
    this.#frozen = false
    this.#server = createServer(client => {
      const upstream = connect(this.#target.port, this.#target.host)
      for (const [from, to] of [
        [client, upstream],
        [upstream, client]
      ] as const) {
        this.#sockets.add(from)
        from.on('data', bytes => {
          if (!this.#frozen) to.write(bytes)
        })
        from.on('error', () => {})
        from.on('close', () => {
          this.#sockets.delete(from)
          to.destroy()
        })
      }
    })
    this.#server.listen(port, '127.0.0.1')
    await once(this.#server, 'listening')
    this.port = (this.#server.address() as AddressInfo).port
  }

  freeze(): void {
    this.#frozen = true
  }

  async close(): Promise<void> {
    if (!this.#server.listening) return
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
    await once(this.#server, 'close')
  }
}
