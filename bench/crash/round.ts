/**
 * One round: a broker with an empty store, clients of every kind that the promise is about, and a hand that kills
 * the broker while they are at it. In the end everything that was acknowledged must have arrived.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Message, Model } from './model.js'
import { Peer, type PeerOptions } from './peer.js'
import { Random } from './random.js'

export interface Outcome {
  readonly problems: readonly string[]
  readonly kills: number
  readonly messages: number
  readonly deliveries: number
  readonly refusals: number
  readonly ms: number
}

/** What happens to the broker. */
export interface Subject {
  readonly port: number
  start(): void
  /** How often it was harmed. */
  readonly harms: number
  /** Harms it for a while. `entering` resolves when so many clients have come in since it was asked. */
  harm(random: Random, entering: (count: number) => Promise<void>): Promise<void>
  /** Ends it in good order and starts it again; undefined where that is not part of it. */
  restart: (() => Promise<void>) | undefined
}

export interface RoundOptions {
  readonly messages: number
  /** What a broker may take until everything is where it belongs, in milliseconds. */
  readonly patience?: number
}

export async function round(
  seed: number,
  model: Model,
  subject: Subject,
  { messages, patience = 600_000 }: RoundOptions
): Promise<Outcome> {
  const began = performance.now()
  const random = new Random(seed)
  const all: Peer[] = []
  let waiting: { left: number; resolve: () => void }[] = []
  const peer = (options: PeerOptions): Peer => {
    const made = new Peer(options, subject.port, model, random.fork())
    made.entered = () => {
      for (const each of waiting) if (--each.left === 0) each.resolve()
      waiting = waiting.filter(each => each.left > 0)
    }
    all.push(made)
    return made
  }
  const entering = (count: number): Promise<void> => new Promise(resolve => waiting.push({ left: count, resolve }))
  const tasks: Promise<unknown>[] = []
  let isOver = false

  /** A stored subscriber. @returns itself, once its subscriptions are acknowledged. */
  const subscriber = async (options: PeerOptions, filters: readonly (readonly [string, number])[]): Promise<Peer> => {
    const made = peer(options)
    made.come()
    await made.subscribe(filters)
    return made
  }
  const rest = (most: number): Promise<void> => sleep(random.int(0, most))
  const version = (): 4 | 5 => random.pick([4, 5] as const)

  subject.start()
  const publishers = Array.from({ length: random.int(3, 5) }, (_, i) =>
    peer({ id: `p${i}`, version: version(), window: random.pick([1, 5, 20, 60]) })
  )
  for (const publisher of publishers) publisher.come()

  // Who is there all the time, in several manners.
  const steady = Promise.all([
    subscriber({ id: 'five', version: 5, receiveMaximum: random.pick([0, 2, 7]) }, [['t/#', 2]]),
    subscriber({ id: 'four', version: 4 }, [['t/+', 1]]),
    subscriber({ id: 'overlap', version: 5, receiveMaximum: random.pick([0, 3]) }, [
      ['t/#', 1],
      ['t/a', 2],
      ['+/b', 0]
    ]),
    subscriber({ id: 'slow', version: 5, receiveMaximum: random.int(1, 5), slowness: 10 }, [
      ['t/a', 2],
      ['t/b', 1]
    ]),
    subscriber({ id: 'retained', version: version() }, [['r/#', 1]]),
    subscriber({ id: 'exact-1', version: version() }, [['$share/exact/s/exactly/#', 2]]),
    subscriber({ id: 'exact-2', version: version(), receiveMaximum: 2 }, [['$share/exact/s/exactly/#', 2]]),
    subscriber({ id: 'least-1', version: version(), slowness: 5 }, [['$share/least/s/least', 1]])
  ])

  // Who comes and goes.
  const wanderer = async (options: PeerOptions, filters: readonly (readonly [string, number])[]): Promise<void> => {
    const made = await subscriber(options, filters)
    while (!isOver) {
      await rest(200)
      const how = random.int(0, 3)
      if (how === 0) made.takeOver()
      else if (how === 1) made.stumble()
      else {
        made.go(how === 2)
        await rest(600)
        made.come()
      }
    }
    made.come()
  }
  tasks.push(
    wanderer({ id: 'wanderer-4', version: 4 }, [['t/#', 2]]),
    wanderer({ id: 'wanderer-5', version: 5, receiveMaximum: 10, slowness: 5 }, [
      ['t/#', 2],
      ['t/b', 1]
    ]),
    wanderer({ id: 'exact-3', version: 5 }, [['$share/exact/s/exactly/#', 2]])
  )
  for (const publisher of publishers) tasks.push(unsteady(publisher))
  async function unsteady(publisher: Peer): Promise<void> {
    while (!isOver) {
      await rest(800)
      if (random.chance(0.5)) publisher.takeOver()
      else publisher.stumble()
    }
  }

  // Who is away until the end.
  const away = (async () => {
    const made = await subscriber({ id: 'away', version: version() }, [
      ['t/#', 2],
      ['r/0', 2]
    ])
    made.go(random.chance(0.5))
    return made
  })()

  /** Whose session ends while messages wait for it: they are for another of its group. */
  const quitter = (async () => {
    await steady
    const made = await subscriber({ id: 'least-2', version: 5 }, [['$share/least/s/least', 1]])
    await rest(300)
    made.go(false)
    await rest(300)
    for (const subscription of made.subscriptions) model.unsubscribing(subscription)
    made.come({ clean: true })
    while (!made.isIn) await sleep(5)
    for (const subscription of made.subscriptions) model.unsubscribed(subscription)
  })()

  /** Who starts anew, and gets nothing of what was before. */
  const renewer = (async () => {
    const made = await subscriber({ id: 'renewer', version: version() }, [['t/b', 2]])
    for (let n = random.int(1, 3); n > 0; n--) {
      made.go(random.chance(0.5))
      await rest(300)
      for (const subscription of made.subscriptions) model.unsubscribing(subscription)
      made.come({ clean: true })
      while (!made.isIn) await sleep(5)
      for (const subscription of made.subscriptions)
        if (subscription.goneAt === Infinity) model.unsubscribed(subscription)
      await made.subscribe([['t/b', 2]])
    }
  })()

  /** Who unsubscribes. */
  const leaver = (async () => {
    const made = await subscriber({ id: 'leaver', version: version() }, [
      ['t/c', 2],
      ['t/a', 1]
    ])
    await rest(800)
    await made.unsubscribe(made.subscriptions[1]!)
  })()

  const late = rest(1000).then(() => subscriber({ id: 'late', version: version() }, [['t/#', 2]]))

  /** Whose session ends of itself, whether the broker is there then or not. */
  const mayfly = (async () => {
    const made = await subscriber({ id: 'mayfly', version: 5, expiry: 1 }, [['t/a', 2]])
    const before = subject.harms
    for (const subscription of made.subscriptions) await made.unsubscribe(subscription) // so that the broker is there
    made.go(true)
    await sleep(1500) // that it is away must reach the disk, on a busy machine too
    const knowsWhen = subject.harms === before
    await sleep(1200)
    made.mustBePresent = knowsWhen ? false : undefined
    made.come()
  })()

  // What they publish.
  let left = messages
  const publishing = (async () => {
    await steady
    while (left > 0) {
      for (let burst = Math.min(left, random.int(1, 12)); burst > 0; burst--, left--) {
        const from = random.pick(publishers)
        from.publish(made(from))
      }
      await rest(15)
    }
  })()
  function made(from: Peer): Message {
    const { id } = from.options
    const qos = random.pick([1, 2] as const)
    const where = random.next()
    const length = random.chance(0.05) ? random.int(2000, 20_000) : random.int(40, 200)
    if (where < 0.12) return model.message(id, 's/exactly/x', qos, { length })
    if (where < 0.24) return model.message(id, 's/least', qos, { length })
    if (where < 0.4) {
      // One QoS a topic: what is sent again at QoS 1 may rightly come after what is not at QoS 2.
      const topic = qos === 1 ? `r/${id.slice(1)}` : `r/${id.slice(1)}/x`
      return model.message(id, topic, qos, {
        retain: true,
        length: random.chance(0.2) ? 0 : length
      })
    }
    return model.message(id, `t/${random.pick(['a', 'b', 'c'])}`, qos, { length, retain: random.chance(0.05) })
  }

  /** What is retained is asked for again and again. */
  let asking = 0
  const ask = async (): Promise<void> => {
    const who = `asks-${++asking}`
    const made = new Peer({ id: who, version: version(), expiry: 0 }, subject.port, model, random.fork())
    let from = model.retainedNow()
    made.entered = present => {
      if (!present) from = model.retainedNow()
      made.arrivals.length = 0
    }
    made.come({ clean: true })
    await made.subscribe([['r/#', 1]])
    let wrong: string[] = []
    for (let n = 0; n < 50; n++) {
      const found = new Map<string, string>()
      for (const { key, topic } of made.arrivals) {
        if (key.startsWith('|')) found.delete(topic)
        else found.set(topic, key)
      }
      wrong = model.wrongRetained(from, found)
      if (wrong.length === 0) break
      await sleep(20)
    }
    for (const what of wrong) model.problem(`${who}: ${what}`)
    made.go(true)
  }

  const harm = (async () => {
    await subject.harm(random.fork(), entering)
    isOver = true
  })()

  let isLate = false
  const deadline = sleep(patience, undefined, { ref: false }).then(() => {
    isLate = true
  })
  await Promise.race([
    deadline,
    Promise.all([harm, steady, publishing, quitter, renewer, leaver, late, mayfly, ...tasks, away.then(p => p.come())])
  ])
  const isDone = (): boolean => all.every(each => each.isThrough && !each.isAsking) && model.missing(all).length === 0
  for (let n = 1; !isLate && !isDone(); n++) {
    await sleep(20)
    // What MQTT 3 was refused it learns by having no answer, and sends again when it comes back.
    if (n % 50 === 0) for (const each of publishers) if (!each.isThrough) each.stumble()
  }
  if (isLate) {
    const stuck = all.filter(each => !each.isThrough || each.isAsking).map(({ options }) => options.id)
    if (stuck.length > 0) model.problem(`not through: ${stuck.join(', ')}`)
    for (const what of model.missing(all)) model.problem(what)
  } else {
    await Promise.race([deadline, ask()])
    await sleep(100) // for what comes a second time
    if (subject.restart !== undefined && random.chance(0.5)) {
      // What is over stays over.
      await subject.restart()
      while (!isLate && !all.every(each => each.isIn)) await sleep(20)
      await Promise.race([deadline, ask()])
    }
  }
  model.check(all)
  for (const each of all) each.go(false)
  const { problems, arrivals, refusals } = model
  const kills = subject.harms
  const ms = performance.now() - began
  return { problems, kills, messages: model.messages.size, deliveries: arrivals, refusals, ms }
}
