/** The store's commands where no broker runs to carry them out. The lock of the home keeps one from starting meanwhile. */
import { existsSync } from 'node:fs'
import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import { lock } from '../base/lock.js'
import { readSettings } from '../server/settings.js'
import { restoreFrom, StoreMaintenance } from '../store/maintenance.js'
import { damageOf, dataFile, openStore } from '../store/open.js'

export const offline: Readonly<Record<string, (home: Home, args: { file: string }) => Promise<unknown>>> = {
  'store info': home => withStore(home, care => care.info()),
  'store check': home => withStore(home, care => care.check()),
  'store compact': home => withStore(home, care => care.compact()),
  'store backup': (home, { file }) => withStore(home, care => care.backup(file)),
  'store restore': (home, { file }) => restoreFrom(directoryOf(home), file)
}

const directoryOf = (home: Home): string => home.path(readSettings(home).options.store.dir)

async function withStore<T>(home: Home, work: (care: StoreMaintenance) => Promise<T>): Promise<T> {
  const unlock = lock(home.brokerLock)
  if (typeof unlock === 'number')
    throw new BrokerError('CONFLICT', `the broker is starting or stopping (pid ${unlock})`)
  try {
    const directory = directoryOf(home)
    const file = dataFile(directory)
    if (!existsSync(file)) throw new BrokerError('NOT_FOUND', `There is no store yet: ${file}`)
    const damage = await damageOf(file)
    if (damage !== undefined) throw new BrokerError('UNAVAILABLE', `the store is damaged: ${damage}`)
    const { store } = await openStore(directory)
    try {
      return await work(new StoreMaintenance(directory, store))
    } finally {
      await store.close()
    }
  } finally {
    unlock()
  }
}
