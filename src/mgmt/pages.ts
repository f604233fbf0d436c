/**
 * A page of a list that may be long, in emqttd's form: rows are passed over and made for
 * a moment in each turn of the event loop, and no faster than they are read.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'

/** Of a turn, in milliseconds; the rest is for messages. */
const slice = 1
const atOnce = 64 * 1024

export interface List {
  readonly total: number
  readonly rows: Generator<unknown>
}

export interface Wanted {
  readonly page: number
  readonly size: number
}

/** The answer as text, in pieces. */
export async function* pageOf({ total, rows }: List, { page, size }: Wanted): AsyncGenerator<string> {
  const head = { current_page: page, page_size: size, total_num: total, total_page: Math.ceil(total / size) }
  yield `{"code":0,"result":${JSON.stringify(head).slice(0, -1)},"objects":[`
  let until = performance.now() + slice
  let left = (page - 1) * size
  let row = rows.next()
  for (; left > 0 && row.done !== true; left--, row = rows.next()) {
    if (performance.now() < until) continue
    await nextTurn()
    until = performance.now() + slice
  }
  left = size
  for (let text = ''; ; text = ',') {
    for (until = performance.now() + slice; left > 0 && row.done !== true; ) {
      text += JSON.stringify(row.value)
      row = --left > 0 ? rows.next() : row
      if (text.length > atOnce || performance.now() > until) break
      if (left > 0 && row.done !== true) text += ','
    }
    const isOver = left === 0 || row.done === true
    yield isOver ? `${text}]}}` : text
    if (isOver) return
    await nextTurn()
  }
}
