/** A round in which the broker is killed at moments of every kind. */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerProcess } from './broker.js'
import { Model } from './model.js'
import { Random } from './random.js'
import { type Outcome, round, type Subject } from './round.js'

/** When it is killed: at work, when clients are coming back, before it listens. */
const moments = ['work', 'work', 'work', 'first', 'some', 'loading'] as const

export async function crashRound(seed: number, { messages = 500, mostKills = 6 } = {}): Promise<Outcome> {
  const random = new Random(seed)
  const model = new Model()
  const broker = await BrokerProcess.make(
    [
      'mqtt.mqueue.max_length = 0',
      'mqtt.mqueue.store_qos0 = off',
      `mqtt.session.max_inflight = ${random.pick([0, 1, 5, 32])}`,
      `mqtt.shared_subscription_strategy = ${random.pick(['random', 'round_robin', 'sticky', 'hash_clientid'])}`
    ],
    what => model.problem(what)
  )
  let harms = 0
  const subject: Subject = {
    port: broker.port,
    get harms() {
      return harms
    },
    start: () => broker.start(),
    harm: async (chance, entering) => {
      let entered = entering(6)
      for (const most = chance.int(2, mostKills); harms < most; ) {
        switch (chance.pick(moments)) {
          case 'work':
            await entered
            await sleep(chance.int(0, 600))
            break
          case 'first':
            await Promise.race([entered, entering(1)])
            await sleep(chance.int(0, 20))
            break
          case 'some':
            await entered
            await sleep(chance.int(0, 40))
            break
          case 'loading':
            await sleep(chance.int(0, 700))
        }
        harms++
        await broker.end(chance.chance(0.15) ? 'SIGTERM' : 'SIGKILL')
        if (chance.chance(0.3)) await sleep(chance.int(0, 300))
        entered = entering(chance.int(3, 12))
        broker.start()
      }
    },
    restart: async () => {
      await broker.end('SIGTERM')
      broker.start()
    }
  }
  try {
    return await round(seed, model, subject, { messages })
  } finally {
    await broker.remove()
  }
}
