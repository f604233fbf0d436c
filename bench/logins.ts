/**
 * Does a storm of logins slow down the messages of others?
 *
 *   npm run bench:logins
 *
 * A broker of its own with auth_pgsql and bcrypt hashes of cost 10; two clients exchange a message every 5 ms,
 * first alone, then while others log in 20 times a second, in turns. Prints the latencies of both and exits 1
 * when the 99th percentile moved by more than 5 ms. The database is PGlite, in a process of its own.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import bcrypt from 'bcrypt'
import mqtt from 'mqtt'
import type { Plugin } from '../src/plugin.js'

const loginsPerSecond = 20
const secondsEach = 4
const rounds = 3
const everyMs = 5

if (process.argv[2] === 'database') await serveDatabase()
else if (process.argv[2] === 'broker') await serveBroker(Number(process.argv[3]))
else process.exitCode = await compare()

async function serveDatabase(): Promise<void> {
  const { startPostgres } = await import('../test/support/postgres.js')
  const postgres = await startPostgres({ after: () => {} })
  const hash = await bcrypt.hash('secret', 10)
  await postgres.query(
    `create table mqtt_user (username text, password text); insert into mqtt_user values ('u1', '${hash}')`
  )
  process.send!(postgres.port)
  process.once('disconnect', () => process.exit())
}

async function serveBroker(databasePort: number): Promise<void> {
  const { startBroker } = await import('../src/index.js')
  const { default: pgsql } = await import('../src/plugins/auth-pgsql/plugin.js')
  const broker = await startBroker({
    listener: { tcp: { bench: { bind: { host: '127.0.0.1', port: 0 } } } },
    plugins: [
      {
        plugin: pgsql as unknown as Plugin<any>,
        options: {
          server: { host: '127.0.0.1', port: databasePort },
          username: 'postgres',
          password: 'postgres',
          database: 'postgres',
          passwordHash: { kind: 'bcrypt' },
          authQuery: pgsql.options.authQuery.parse("select password from mqtt_user where username = '%u'")
        }
      }
    ]
  })
  process.send!(broker.port())
  process.once('disconnect', () => process.exit())
}

async function compare(): Promise<number> {
  const self = fileURLToPath(import.meta.url)
  const database = fork(self, ['database'])
  const [databasePort] = (await once(database, 'message')) as [number]
  const broker = fork(self, ['broker', String(databasePort)])
  const [port] = (await once(broker, 'message')) as [number]
  try {
    const login = { username: 'u1', password: 'secret', reconnectPeriod: 0 }
    const url = `mqtt://127.0.0.1:${port}`
    const subscriber = await mqtt.connectAsync(url, login)
    const publisher = await mqtt.connectAsync(url, login)
    await subscriber.subscribeAsync('bench')
    let latencies: number[] = []
    subscriber.on('message', (_topic, payload) => void latencies.push(performance.now() - Number(payload.toString())))

    const measure = async (logins: boolean): Promise<number[]> => {
      latencies = []
      let done = 0
      const storm = logins
        ? setInterval(() => {
            void mqtt.connectAsync(url, login).then(c => {
              done++
              c.end(true)
            })
          }, 1000 / loginsPerSecond)
        : undefined
      for (const end = performance.now() + secondsEach * 1000; performance.now() < end; await sleep(everyMs)) {
        publisher.publish('bench', String(performance.now()))
      }
      clearInterval(storm)
      await sleep(500)
      if (logins && done < secondsEach * loginsPerSecond * 0.8) throw new Error(`only ${done} logins came through`)
      return latencies
    }

    await measure(true) // warm
    const alone: number[] = []
    const stormy: number[] = []
    for (let round = 0; round < rounds; round++) {
      alone.push(...(await measure(false)))
      stormy.push(...(await measure(true)))
    }
    const row = (name: string, of: number[]): string =>
      `${name.padEnd(22)} ${of.length} messages  p50 ${percentile(of, 0.5).toFixed(2)} ms  p99 ${percentile(of, 0.99).toFixed(2)} ms  max ${Math.max(...of).toFixed(2)} ms`
    console.log(row('alone', alone))
    console.log(row(`${loginsPerSecond} logins a second`, stormy))
    const moved = percentile(stormy, 0.99) - percentile(alone, 0.99)
    console.log(`p99 moved by ${moved.toFixed(2)} ms; ${moved <= 5 ? 'within' : 'over'} 5 ms`)
    return moved <= 5 ? 0 : 1
  } finally {
    broker.kill()
    database.kill()
  }
}

function percentile(values: number[], p: number): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length * p)] ?? Number.NaN
}
