/** Reads every record of a store, in a process of its own: `node check.js data.mdb`. Damage may end it by a signal. */
import { unsealed } from './batch.js'
import { openFile } from './lmdb-file.js'
import { tables } from './store.js'

const file = openFile(process.argv[2]!, { readOnly: true })
for (const table of tables) {
  for (const { value } of file.tables[table]?.getRange({ snapshot: false }) ?? []) {
    if (unsealed(value) === undefined) {
      console.error(`a record of table ${table} is damaged`)
      process.exit(1)
    }
  }
}
process.exit(0)
