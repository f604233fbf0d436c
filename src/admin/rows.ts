/**
 * Answers with a list that may be long: rows are made while they are sent, for a few
 * milliseconds in each turn of the event loop and no faster than they are read, so that
 * neither the broker's clients nor its memory notice how many there are.
 */
import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { setImmediate as nextTurn } from 'node:timers/promises'

/** Of a turn, in milliseconds; the rest is for messages. */
const slice = 1
const atOnce = 64 * 1024

export async function sendRows(
  request: IncomingMessage,
  response: ServerResponse,
  rows: Generator<unknown>
): Promise<void> {
  const asLines = request.headers.accept === 'application/x-ndjson'
  let isFirst = true
  let row = rows.next() // what is wrong from the start is still answered as such
  response.writeHead(200, { 'content-type': asLines ? 'application/x-ndjson' : 'application/json' })
  const closed = new AbortController()
  response.once('close', () => closed.abort())
  while (row.done !== true) {
    const until = performance.now() + slice
    let text = ''
    for (; row.done !== true && text.length < atOnce && performance.now() < until; row = rows.next()) {
      if (asLines) text += `${JSON.stringify(row.value)}\n`
      else text += `${isFirst ? '[' : ',\n'}${JSON.stringify(row.value)}`
      isFirst = false
    }
    try {
      if (!response.write(text)) await once(response, 'drain', { signal: closed.signal }) // maybe still in this turn
      await nextTurn(undefined, { signal: closed.signal })
    } catch {
      rows.return(undefined) // who asked has left
      return
    }
  }
  response.end(asLines ? '' : isFirst ? '[]' : ']')
}
