/**
 * An instance of the broker is a directory, its home: etc/, log/ and data/ under
 * it. This file knows what is where, and how a command finds its home.
 */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { dirname, isAbsolute, join, resolve } from 'node:path'
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

  /** Where the admin socket's path is written down while it stands outside data/. */
  get socketRecord(): string {
    return this.path('data/admin.socket_path')
  }

  get adminSocket(): string {
    return this.#socket('admin.sock')
  }

  /**
   * A socket in data/, or in a short directory of this user's own when the home's path is too long for one.
   * Not in $TMPDIR, which is long itself on macOS and differs between a login and a service.
   */
  #socket(name: string): string {
    const natural = this.path(join('data', name))
    if (Buffer.byteLength(natural) <= longestSocketPath) return natural
    return join(this.shortDir, name)
  }

  get shortDir(): string {
    const id = createHash('sha256').update(this.root).digest('hex').slice(0, 12)
    return join(`/tmp/broker-${process.getuid?.() ?? 0}`, id)
  }

  /** Whether sockets stand in data/; pm2's are the longest-named ones. */
  get hasRoomForSockets(): boolean {
    return Buffer.byteLength(join(this.pm2, 'interactor.sock')) <= longestSocketPath
  }
}

/** The package's own directory: the home of a fresh clone, and what `broker init` copies from. */
export const packageRoot = fileURLToPath(new URL('../..', import.meta.url))

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
  cwd = process.cwd()
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
