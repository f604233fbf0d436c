/** The store: while the broker runs these go through its admin socket, else src/cli/store.ts does the same. */

import type { StoreState } from '../ops/operations.js'
import { command, line } from './command.js'

const told = ({ file, size, free, records, journal }: StoreState): string =>
  [
    line('file', file, 16),
    line('size', bytes(size), 16),
    line('free', bytes(free), 16),
    ...Object.entries(records).map(([table, count]) => line(`${table}/count`, count, 16)),
    ...(journal === undefined ? [] : Object.entries(journal).map(([name, value]) => line(name, value, 16)))
  ].join('\n')

export const store = {
  'store info': command({
    summary: 'Show the store: its file, its size and what it holds',
    run: ({ store }) => store.info(),
    print: told
  }),
  'store check': command({
    summary: 'Read every record of the store and check it',
    run: ({ store }) => store.check(),
    print: state => `The store is sound.\n${told(state)}`
  }),
  'store compact': command({
    summary: 'Make the file of the store as small as it can be',
    acts: true,
    run: ({ store }) => store.compact(),
    print: ({ before, after }) => `The store had ${bytes(before)}, and has ${bytes(after)} now.`
  }),
  'store backup': command({
    summary: 'Copy the store to a file, while the broker goes on',
    acts: true,
    usage: '<file>',
    path: 'file',
    run: ({ store }, { file }) => store.backup(file),
    print: ({ file, size }) => `The store is copied to ${file} (${bytes(size)}).`
  }),
  'store restore': command({
    summary: 'Have the next start take such a copy for the store',
    acts: true,
    usage: '<file>',
    path: 'file',
    run: ({ store }, { file }) => store.restore(file),
    print: ({ file }) => `The next start of the broker takes ${file} for its store, and puts the present one aside.`
  })
}

/** `12.5 MB`. */
function bytes(count: number): string {
  const units = ['bytes', 'KB', 'MB', 'GB', 'TB']
  let unit = 0
  let value = count
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}
