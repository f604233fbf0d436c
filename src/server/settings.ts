/** Everything under etc/ that a start needs, read and checked together, so that one run shows all problems. */
import { existsSync } from 'node:fs'
import { type AclRules, parseAcl } from '../access/acl-file.js'
import { BrokerError } from '../base/errors.js'
import type { Home } from '../base/home.js'
import { type BrokerOptions, brokerSchema } from '../config/broker-keys.js'
import { brokerConf } from '../config/cross-checks.js'
import { allOrProblems, ConfigError } from '../config/problem.js'
import { parseConfig, readConfig, readText, type Value, type Values } from '../config/schema.js'

export interface Settings {
  readonly options: BrokerOptions
  /** Reads mqtt.acl_file as it is now. */
  readonly loadAcl: () => AclRules
  /** What was read by key, and how to read it anew; not there where a program gave the options itself. */
  readonly files?: { readonly values: Values; readonly again: () => Settings }
}

/** Throws a ConfigError with the problems of etc/broker.conf and of the ACL file it names. */
export function readSettings(home: Home, env: NodeJS.ProcessEnv = process.env): Settings {
  if (!existsSync(home.conf)) {
    throw new BrokerError(
      'CONFIG_INVALID',
      `${home.root} is not a home of the broker: it has no etc/broker.conf.\nMake it one with \`broker init <dir>\`, or name another with --home <dir>.`
    )
  }
  let options: BrokerOptions | undefined
  const file = home.path('etc/acl.conf')
  const aclFile = (): string => (options === undefined ? file : home.path(options.mqtt.aclFile))
  const loadAcl = (): AclRules => parseAcl(readText(aclFile()), aclFile())
  const values = new Map<string, Value>()
  allOrProblems(
    () => {
      options = readConfig(home.conf, brokerSchema, {
        ...brokerConf,
        env,
        take: (key, value) => values.set(key, value)
      })
    },
    () => missingIsAProblem(loadAcl, aclFile)
  )
  return { options: options!, loadAcl, files: { values, again: () => readSettings(home, env) } }
}

/** The settings that a file with these values would make; throws a BrokerError in the file's words. */
export function settingsOf(home: Home, given: ReadonlyMap<string, Value>): Settings & { values: Values } {
  const set = [...given].filter(([, { from }]) => from !== undefined)
  const values = new Map<string, Value>()
  try {
    const options = parseConfig(set.map(([key, { text }]) => `${key} = ${text}`).join('\n'), brokerSchema, {
      ...brokerConf,
      env: {},
      take: (key, value) => values.set(key, { ...value, from: given.get(key)?.from })
    })
    const aclFile = home.path(options.mqtt.aclFile)
    return { options, loadAcl: () => parseAcl(readText(aclFile), aclFile), values }
  } catch (err) {
    if (!(err instanceof ConfigError)) throw err
    throw new BrokerError('BAD_REQUEST', err.problems.map(({ message }) => message).join('\n'), { cause: err })
  }
}

/** The ACL file's absence belongs in the list of problems, beside the others. */
function missingIsAProblem(loadAcl: () => AclRules, file: () => string): void {
  try {
    loadAcl()
  } catch (err) {
    if (err instanceof ConfigError || !(err instanceof BrokerError)) throw err
    const message = `${err.message} (mqtt.acl_file)`
    throw new ConfigError([{ file: file(), line: 0, column: 0, message }])
  }
}

/** The node's name for messages that must not fail: from the file if it can be read, else the usual one. */
export function nodeNameOf(home: Home, env: NodeJS.ProcessEnv = process.env): string {
  try {
    const given = env['BROKER_NODE__NAME'] ?? /^\s*node\.name\s*=\s*(\S+)/m.exec(readText(home.conf))?.[1]
    return given ?? brokerSchema.node.name.fallback!.value
  } catch {
    return brokerSchema.node.name.fallback!.value
  }
}
