/**
 * Reads every record of a store, in a process of its own: `node check.js data.mdb`. Damage may end it by a signal, and it
 * ends with the process that started it, when its standard input does.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { openFile } from './lmdb-file.js'
import { tables } from './store.js'

const sliceLength = 2000

process.stdin.once('end', () => process.exit(2)).resume()
const file = openFile(process.argv[2]!, { readOnly: true })
let count = 0
for (const table of tables) {
  for (const { value } of file.tables[table]?.getRange({ snapshot: false }) ?? []) {
    if (value === undefined) {
      console.error(`a record of table ${table} is damaged`)
      process.exit(1)
    }
    if (++count % sliceLength === 0) await turn()
  }
}
process.exit(0)
