/**
 * Who may come in, and who may publish or subscribe to what.
 *
 * Authenticators (plugins) are asked in the order in which they were loaded; with a
 * method in CONNECT, the one that has the method decides alone (client/enhanced-auth.ts). As
 * soon as there is one, a client that none allows is refused; anonymous clients
 * are a matter of `mqtt.allow_anonymous` only while there is none. Anything that
 * fails refuses: an open door is never the answer to a lost database.
 */

import type { Action, ClientInfo } from '../base/client-info.js'
import { BrokerError } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import type { MqttOptions } from '../config/broker-keys.js'
import { ConfigError } from '../config/problem.js'
import type { HookAnswer, Hooks, RunningExchange } from '../plugins/hooks.js'
import { sayReason } from '../wire/describe.js'
import { Reason } from '../wire/reason-codes.js'
import { splitShared } from '../wire/topic.js'
import { AclCache } from './acl-cache.js'
import type { AclRules } from './acl-file.js'
import { Banned, sayBan } from './banned.js'

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

/** A rule that was asked. */
export interface ExplainedStep {
  /** A plugin, or `etc/acl.conf:12`. */
  readonly by: string
  readonly text: string
  readonly matched: boolean
  readonly why?: string
}

export interface AclExplanation {
  readonly allowed: boolean
  /** What decided: as in the rules, `superuser`, or the key that stands for no rule. */
  readonly by: string
  /** The verdict that the client's cache has, and that counts until it is over. */
  readonly cached: boolean | null
  /** In the order in which they were asked, to the one that decided. */
  readonly rules: readonly ExplainedStep[]
}

export interface LoginTrial {
  readonly asked: readonly { by: string; answer: string; ms: number; why: string | null }[]
  readonly admitted: boolean
  readonly superuser: boolean
  /** Of MQTT 3. */
  readonly connack: number
  /** Of MQTT 5. */
  readonly reason: string
  readonly ban: string | null
}

/** $SYS is the broker's own: no ACL opens it to a client that publishes. */
const isBrokersOwn = (action: Action, topic: string): boolean => action === 'publish' && topic.startsWith('$SYS/')

type AccessOptions = Pick<MqttOptions, 'allowAnonymous' | 'aclFile' | 'aclNomatch' | 'cacheAcl' | 'aclCache'>

/** As `plugins list` has it. */
const listed = (plugin: string): string => plugin.replaceAll('-', '_')

export class Access {
  readonly banned = new Banned()
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
    if (!this.#hooks.hasAuthenticators) return this.#admission(client, this.#anonymous(client))
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
  beginExchange(method: string, gone: () => void): RunningExchange | undefined {
    return this.#hooks.beginExchange(method, gone)
  }

  /** A client that was let in, of which the ACL has said nothing yet. */
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
    if (isBrokersOwn(action, topic)) return false
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

  /** What would be decided over a publish or a subscription, and by what; nothing is cached or logged. */
  async explain(identity: Identity, action: Action, topic: string): Promise<AclExplanation> {
    const { client, superuser } = identity
    const cached = action === 'publish' && this.#options.cacheAcl ? identity.cache.get(topic, this.#epoch) : undefined
    const rules: ExplainedStep[] = []
    const verdict = (allowed: boolean, by: string): AclExplanation => ({ allowed, by, cached: cached ?? null, rules })
    if (isBrokersOwn(action, topic)) return { allowed: false, by: "$SYS is the broker's own", cached: null, rules: [] }
    if (superuser) return verdict(true, 'superuser')
    const judged = action === 'publish' ? topic : splitShared(topic).filter
    for (const { owner: plugin, answer, why, ms, rules: its = [] } of await this.#hooks.explain(
      'client.authorize',
      client,
      action,
      judged
    )) {
      const owner = listed(plugin)
      for (const { text, matched, why } of its)
        rules.push({ by: owner, text, matched, ...(why === undefined ? {} : { why }) })
      const decides = answer !== 'ignore'
      if (why !== undefined || its.length === 0 || !decides) {
        const text = `${answer === 'ignore' ? 'ignores it' : answer}, ${ms.toFixed(1)} ms`
        rules.push({ by: owner, text, matched: decides, ...(why === undefined ? {} : { why }) })
      }
      if (decides) return verdict(answer === 'allow', owner)
    }
    const { clientId, username, peer } = client
    const { aclFile, aclNomatch } = this.#options
    for (const { rule, misfit } of this.#acl.explain({ clientId, username, address: peer.address }, action, judged)) {
      const by = `${aclFile}:${rule.line}`
      rules.push({
        by,
        text: rule.text,
        matched: misfit === undefined,
        ...(misfit === undefined ? {} : { why: misfit })
      })
      if (misfit === undefined) return verdict(rule.allow, by)
    }
    return verdict(aclNomatch === 'allow', `mqtt.acl_nomatch = ${aclNomatch}`)
  }

  /** What each would say to a CONNECT, and what would come of it; nobody is let in. */
  async tryLogin(client: ClientInfo, password: Buffer | undefined): Promise<LoginTrial> {
    const { clientId, username, peer } = client
    const ban = this.banned.find({ clientId, username, address: peer.address })
    const trial = (code: number, reason: number, asked: readonly HookAnswer<string>[] = []): LoginTrial => ({
      asked: asked.map(({ owner, answer, ms, why }) => ({
        by: listed(owner),
        answer,
        ms: Number(ms.toFixed(1)),
        why: why ?? null
      })),
      admitted: code === 0,
      superuser: asked.at(-1)?.answer === 'superuser',
      connack: code,
      reason: sayReason(reason),
      ban: ban === undefined ? null : sayBan(ban)
    })
    if (ban !== undefined) return trial(5, Reason.BANNED)
    let asked: HookAnswer<string>[]
    if (this.#hooks.hasAuthenticators) asked = await this.#hooks.explain('client.authenticate', client, password)
    else {
      const owner = `mqtt.allow_anonymous = ${this.#options.allowAnonymous}`
      asked = [{ owner, answer: this.#anonymous(client), ms: 0, why: client.local ? 'this host' : 'another host' }]
    }
    const answer = asked.at(-1)?.answer
    if (answer === 'failed') return trial(3, Reason.SERVER_UNAVAILABLE, asked)
    if (answer === 'allow' || answer === 'superuser') return trial(0, Reason.SUCCESS, asked)
    return trial(4, Reason.BAD_USER_NAME_OR_PASSWORD, asked)
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
  reconfigure(options: AccessOptions, loadAcl: () => AclRules, acl: AclRules): void {
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
