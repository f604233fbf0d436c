import assert from 'node:assert/strict'
import test from 'node:test'
import { createLog } from '../../src/base/log/log.js'
import { Alarms } from '../../src/observe/alarms.js'

function made() {
  const lines: string[] = []
  const alarms = new Alarms(createLog({ level: 'debug', format: 'text', write: line => void lines.push(line) }))
  const events: string[] = []
  alarms.on('raised', ({ id }) => void events.push(`raised ${id}`))
  alarms.on('cleared', ({ id, clearedAt }) => void events.push(`cleared ${id} ${clearedAt !== undefined}`))
  return { alarms, lines, events }
}

test('Alarms.raise() lists, logs and tells once; clear() ends it, and remembers', () => {
  const { alarms, lines, events } = made()
  alarms.raise('a', 'warning', 'too much', { length: 3 })
  alarms.raise('b', 'critical', 'far too much')
  alarms.raise('a', 'warning', 'again')
  assert.deepEqual(
    alarms.list().map(({ id, severity, title, details, clearedAt }) => [id, severity, title, details, clearedAt]),
    [
      ['a', 'warning', 'too much', { length: 3 }, undefined],
      ['b', 'critical', 'far too much', {}, undefined]
    ]
  )
  assert.deepEqual(alarms.history(), [])
  alarms.clear('a')
  alarms.clear('a')
  alarms.clear('nosuch')
  assert.deepEqual(
    alarms.list().map(({ id }) => id),
    ['b']
  )
  const [over] = alarms.history()
  assert.ok(over!.id === 'a' && over!.clearedAt! >= over!.raisedAt)
  assert.deepEqual(events, ['raised a', 'raised b', 'cleared a true'])
  assert.match(lines[0]!, /\[warning\] alarm: too much alarm=a length=3/)
  assert.match(lines[1]!, /\[error\] alarm: far too much alarm=b/)
  assert.match(lines[2]!, /\[info\] alarm is over: too much alarm=a/)
  assert.equal(lines.length, 3)
  alarms.raise('a', 'warning', 'once more')
  assert.equal(events.at(-1), 'raised a')
})

test('Alarms.history() keeps the last thousand', () => {
  const { alarms } = made()
  for (let i = 0; i < 1100; i++) {
    alarms.raise(String(i), 'warning', 'w')
    alarms.clear(String(i))
  }
  const history = alarms.history()
  assert.deepEqual([history.length, history[0]!.id, history.at(-1)!.id], [1000, '100', '1099'])
})
