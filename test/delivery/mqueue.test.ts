import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { Message } from '../../src/delivery/message.js'
import { MQueue, Priorities } from '../../src/delivery/session/mqueue.js'
import { Outgoing } from '../../src/delivery/session/outgoing.js'

const outgoing = (topic: string, qos: 0 | 1 | 2): Outgoing =>
  new Outgoing(Message.of(topic, Buffer.alloc(0)), qos, false, undefined, undefined)

const byTopic = new Map([
  ['first', 10],
  ['second', 8],
  ['as second', 8]
])
const priorityOf = (topic: string): number => byTopic.get(topic) ?? 0

/** The same with an array. */
class NaiveQueue {
  items: Outgoing[] = []
  dropped = 0

  constructor(
    readonly most: number,
    readonly hasPriorities: boolean
  ) {}

  #rank = ({ message }: Outgoing): number => (this.hasPriorities ? priorityOf(message.topic) : 0)

  push(item: Outgoing): Outgoing | undefined {
    const all = [...this.items, item]
    if (this.most === 0 || all.length <= this.most) {
      this.items = all
      return undefined
    }
    const lowest = Math.min(...all.map(this.#rank))
    const candidates = all.filter(one => this.#rank(one) === lowest)
    const victim = candidates.find(({ qos }) => qos === 0) ?? candidates[0]!
    this.items = all.filter(one => one !== victim)
    this.dropped++
    return victim
  }

  shift(): Outgoing | undefined {
    const highest = Math.max(...this.items.map(this.#rank))
    const at = this.items.findIndex(one => this.#rank(one) === highest)
    return this.items.splice(at, at < 0 ? 0 : 1)[0]
  }
}

const step = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.tuple(fc.constantFrom('first', 'second', 'as second', 'x', 'y'), fc.constantFrom(0, 1, 2))
  },
  { weight: 2, arbitrary: fc.constant('shift' as const) }
)

test('MQueue gives out by priority and then as it came; full, it loses the lowest priority first, of that QoS 0, of that the oldest', () => {
  let lost = 0
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 80, size: 'max' }),
      fc.constantFrom(0, 1, 3, 20),
      fc.boolean(),
      (steps, most, hasPriorities) => {
        const queue = new MQueue(most, hasPriorities ? new Priorities(byTopic) : undefined)
        const naive = new NaiveQueue(most, hasPriorities)
        const check = (): void => {
          const { items } = naive
          const zero = items.filter(({ qos }) => qos === 0).length
          assert.deepEqual([queue.length, queue.length0, queue.dropped], [items.length, zero, naive.dropped])
          assert.equal(queue.full, most > 0 && items.length === most)
        }
        for (const one of steps) {
          if (one === 'shift') assert.equal(queue.shift(), naive.shift())
          else {
            const item = outgoing(one[0], one[1] as 0 | 1 | 2)
            assert.equal(queue.push(item), naive.push(item))
          }
          check()
        }
        while (naive.items.length > 0) assert.equal(queue.shift(), naive.shift())
        assert.equal(queue.shift(), undefined)
        check()
        lost += naive.dropped
      }
    ),
    { numRuns: 400 }
  )
  assert.ok(lost > 100, 'it was full often enough')
})
