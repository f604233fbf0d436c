/**
 * An instance of the broker is a directory, its home: etc/, log/ and data/ under
 * it. This file knows what is where, and how a command finds its home.
 */
import { createHash } from 'node:crypto'
import { existsSync, lstatSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { basename, dirname, isAbsolute, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The longest path that fits a Unix socket everywhere: macOS has 104 bytes, with the closing zero. */
const longestSocketPath = 103

export class Home {
  readonly root: string

  constructor(root: string) {
    this.root = existsSync(root) ? realpathSync(root) : resolve(root)
  }

  /** A path of the configuration: relative ones are under the home. */
  readonly path = (relative: string): string => (isAbsolute(relative) ? relative : join(this.root, relative))

  get conf(): string {
    return this.path('etc/broker.conf')
  }

  get data(): string {
    return this.path('data')
  }

  get certs(): string {
    return this.path('etc/certs')
  }

  /** Held by the one process that serves this home. */
  get brokerLock(): string {
    return this.path('data/broker.lock')
  }

  /** Held by the pm2 of this home. */
  get pm2Lock(): string {
    return this.path('data/pm2.lock')
  }

  /** Held by `broker start`, `stop` and `restart` while they work. */
  get commandLock(): string {
    return this.path('data/command.lock')
  }

  /** Why the last start failed, left by the daemon for `broker start` to show. */
  get failure(): string {
    return this.path('data/start_failure')
  }

  get pm2(): string {
    return this.path('data/pm2')
  }

  get adminSocket(): string {
    return join(this.hasRoomForSockets ? this.data : this.shortDir, 'admin.sock')
  }

  /** Whether sockets stand in data/; pm2's are the longest-named ones. */
  get hasRoomForSockets(): boolean {
    return Buffer.byteLength(join(this.pm2, 'interactor.sock')) <= longestSocketPath
  }

  /** Where shortDir is written down, for users other than the broker's: root, say. */
  get shortDirRecord(): string {
    return this.path('data/socket_dir')
  }

  /**
   * Where the sockets stand when the home's path is too long for one: a directory of this user's own. Not in
   * $TMPDIR, which is long itself on macOS and differs between a login and a service.
   */
  get shortDir(): string {
    const own = this.#ownShortDir
    try {
      const recorded = readFileSync(this.shortDirRecord, 'utf8').trim()
      return basename(recorded) === basename(own) ? recorded : own // not that of a home this one is a copy of
    } catch {
      return own
    }
  }

  get #ownShortDir(): string {
    const id = createHash('sha256').update(this.root).digest('hex').slice(0, 12)
    return join(`/tmp/broker-${process.getuid?.() ?? 0}`, id)
  }

  /** Makes the directory for the sockets, whichever it is. */
  makeSocketDir(): void {
    mkdirSync(this.data, { recursive: true })
    if (this.hasRoomForSockets) return
    const dir = this.#ownShortDir
    makePrivate(dirname(dir))
    makePrivate(dir)
    writeFileSync(this.shortDirRecord, `${dir}\n`)
  }
}

/** A directory outside the home that is ours alone: /tmp is everybody's. */
function makePrivate(dir: string): void {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const stat = lstatSync(dir)
  const ours = process.getuid === undefined || stat.uid === process.getuid()
  if (!stat.isDirectory() || !ours || (stat.mode & 0o077) !== 0) {
    const message = `${dir} is not a directory of this user alone; remove it`
    throw Object.assign(new Error(message), { code: 'EEXIST', syscall: 'mkdir', path: dir })
  }
}

/** The package's own directory: the home of a fresh clone, and what `broker init` copies from. */
export const packageRoot = fileURLToPath(new URL('../../..', import.meta.url))

export const version: string = (
  JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string }
).version

/**
 * The home a command works on: `--home`, else BROKER_HOME, else the nearest directory from `cwd` up that
 * has etc/broker.conf, else the package's own.
 */
export function findHome({
  home,
  env = process.env,
  cwd = currentDirectory()
}: {
  home?: string | undefined
  env?: NodeJS.ProcessEnv
  cwd?: string
} = {}): Home {
  const named = home ?? env['BROKER_HOME']
  if (named !== undefined && named !== '') return new Home(resolve(cwd, named))
  for (let at = cwd; ; at = dirname(at)) {
    if (existsSync(join(at, 'etc/broker.conf'))) return new Home(at)
    if (dirname(at) === at) return new Home(packageRoot)
  }
}

/** It may have been removed since the shell went there. */
function currentDirectory(): string {
  try {
    return process.cwd()
  } catch {
    return '/'
  }
}
