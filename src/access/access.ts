/**
 * Who may come in, and who may publish or subscribe to what.
 *
 * Authenticators (plugins) are asked in the order in which they were loaded; with a
 * method in CONNECT, the one that has the method decides alone (control/exchange.ts). As
 * soon as there is one, a client that none allows is refused; anonymous clients
 * are a matter of `mqtt.allow_anonymous` only while there is none. Anything that
 * fails refuses: an open door is never the answer to a lost database.
 */
import type { MqttOptions } from '../config/broker-options.js'
import { ConfigError } from '../config/problem.js'
import { BrokerError } from '../errors.js'
import type { Action, ClientInfo, Hooks, Talk } from '../hooks.js'
import type { Log } from '../log.js'
import { splitShared } from '../wire/topic.js'
import { AclCache } from './acl-cache.js'
import type { AclRules } from './acl-file.js'

/** A client that was let in, with what was decided about it so far. */
export interface Identity {
  readonly client: ClientInfo
  /** Stands above the ACL. */
  readonly superuser: boolean
  readonly cache: AclCache
}

/** 'refused' is CONNACK 4, 'unavailable' CONNACK 3. */
export type Admission = Identity | 'refused' | 'unavailable'

type Verdict = boolean | 'failed'

type AccessOptions = Pick<MqttOptions, 'allowAnonymous' | 'aclNomatch' | 'cacheAcl' | 'aclCache'>

export class Access {
  #options: AccessOptions
  readonly #hooks: Hooks
  readonly #log: Log
  #loadAcl: () => AclRules
  #acl: AclRules
  /** Goes up when rules change, which makes every cached verdict stale at once. */
  #epoch = 0

  /** @param loadAcl reads and checks mqtt.acl_file; throws a ConfigError. */
  constructor(options: AccessOptions, loadAcl: () => AclRules, hooks: Hooks, log: Log) {
    this.#options = options
    this.#hooks = hooks
    this.#log = log
    this.#loadAcl = loadAcl
    this.#acl = loadAcl()
  }

  /** At once where no plugin is asked. */
  authenticate(client: ClientInfo, password: Buffer | undefined): Admission | Promise<Admission> {
    if (!this.#hooks.judgesClients) return this.#admission(client, this.#anonymous(client))
    return this.#hooks.ask('client.authenticate', client, password).then(answer => this.#admission(client, answer))
  }

  #admission(client: ClientInfo, answer: 'allow' | 'superuser' | 'deny' | 'ignore' | 'failed'): Admission {
    if (answer === 'failed') return 'unavailable'
    if (answer === 'allow' || answer === 'superuser') {
      return this.identity(client, answer === 'superuser')
    }
    return 'refused'
  }

  /** Begins an exchange of enhanced authentication; undefined when no plugin has the method. */
  converse(method: string, gone: () => void): Talk | undefined {
    return this.#hooks.converse(method, gone)
  }

  /** Somebody who was let in, of whom the ACL has said nothing yet. */
  identity(client: ClientInfo, superuser: boolean): Identity {
    const { ttl, maxSize } = this.#options.aclCache
    return { client, superuser, cache: new AclCache(ttl, maxSize) }
  }

  #anonymous({ local }: ClientInfo): 'allow' | 'deny' {
    const { allowAnonymous } = this.#options
    return allowAnonymous === 'true' || (allowAnonymous === 'local' && local) ? 'allow' : 'deny'
  }

  /** At once where acl.conf alone decides, so that a publish need not wait for a promise. */
  authorize(identity: Identity, action: Action, topic: string): boolean | Promise<boolean> {
    if (identity.superuser) return true
    const cached = action === 'publish' && this.#options.cacheAcl
    const epoch = this.#epoch
    const known = cached ? identity.cache.get(topic, epoch) : undefined
    if (known !== undefined) return known
    const settle = (verdict: Verdict): boolean => {
      // A failure is no verdict: once the backend is back, the client must not wait for its cache.
      if (cached && verdict !== 'failed') identity.cache.set(topic, verdict, epoch)
      return verdict === true
    }
    const verdict = this.#judge(identity, action, action === 'publish' ? topic : splitShared(topic).filter)
    return verdict instanceof Promise ? verdict.then(settle) : settle(verdict)
  }

  #judge(identity: Identity, action: Action, topic: string): Verdict | Promise<Verdict> {
    if (!this.#hooks.has('client.authorize')) return this.#byFile(identity, action, topic)
    return this.#hooks.ask('client.authorize', identity.client, action, topic).then(answer => {
      if (answer === 'failed') return answer
      return answer === 'ignore' ? this.#byFile(identity, action, topic) : answer === 'allow'
    })
  }

  #byFile({ client }: Identity, action: Action, topic: string): boolean {
    const { clientId, username, peer } = client
    const rule = this.#acl.decide({ clientId, username, address: peer.address }, action, topic)
    const allowed = rule?.allow ?? this.#options.aclNomatch === 'allow'
    if (!allowed) {
      const by = rule === undefined ? 'mqtt.acl_nomatch' : `acl.conf:${rule.line}`
      this.#log.info('denied', { clientId, username, action, topic, by })
    }
    return allowed
  }

  /** Reads acl.conf again; on any problem the rules in force stay. */
  reloadAcl(): { rules: number } {
    try {
      this.#acl = this.#loadAcl()
    } catch (err) {
      if (!(err instanceof ConfigError)) throw err
      throw new BrokerError('CONFIG_INVALID', `${err.message}\nthe rules in force stay`, { cause: err })
    }
    this.forgetVerdicts()
    return { rules: this.#acl.rules.length }
  }

  /** Other options and rules from now on. */
  use(options: AccessOptions, loadAcl: () => AclRules, acl: AclRules): void {
    this.#options = options
    this.#loadAcl = loadAcl
    this.#acl = acl
    this.forgetVerdicts()
  }

  get acl(): AclRules {
    return this.#acl
  }

  /** After a plugin came or went, what it would have said counts anew. */
  forgetVerdicts(): void {
    this.#epoch++
  }
}
