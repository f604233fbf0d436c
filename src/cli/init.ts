/** `broker init`: a home of one's own, from the files that the package ships. What is there already stays. */
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { packageRoot } from '../base/home.js'
import { Exit, type Io } from './io.js'

export function init(dir: string, io: Io): number {
  const root = resolve(dir)
  for (const each of ['etc/plugins', 'etc/certs', 'log', 'data']) mkdirSync(join(root, each), { recursive: true })
  for (const folder of ['etc', 'etc/plugins']) {
    for (const name of readdirSync(join(packageRoot, folder))) {
      if (!name.endsWith('.conf')) continue
      const to = join(root, folder, name)
      const isThere = existsSync(to)
      if (!isThere) {
        cpSync(join(packageRoot, folder, name), to)
        if (folder === 'etc/plugins') chmodSync(to, 0o600) // for the passwords in them
      }
      io.out(`${isThere ? 'kept' : 'made'}  ${relative(root, to)}`)
    }
  }
  const here = root === process.cwd()
  io.out(`\n${root} is a home of the broker. Next:${here ? '' : `\n  cd ${quoted(root)}`}\n  broker start`)
  return Exit.ok
}

/** As a shell takes it. */
const quoted = (path: string): string => (/^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`)
