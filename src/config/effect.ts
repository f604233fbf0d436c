/**
 * When a changed key of etc/broker.conf is in force: the one place that says so for
 * `reload`, `set`, `show` and docs/configuration.md. A key that is not here needs a
 * restart, and fails a test.
 */

export type Effect =
  /** At once, and for who is connected. */
  | 'now'
  /** For connections that are made from then on; who is in keeps what it was told. */
  | 'connect'
  | { readonly restart: string }

const store: Effect = { restart: 'the store is open' }
const plugins: Effect = { restart: 'the loaded plugins came from there' }

export const effects: Readonly<Record<string, Effect>> = {
  'node.name': { restart: 'clients and $SYS topics know the node by it' },

  'log.messages_per_second': 'now',
  'log.console': 'now',
  'log.console.level': 'now',
  'log.console.format': 'now',
  'log.console.file': 'now',
  'log.console.size': 'now',
  'log.console.count': 'now',
  'log.error.file': 'now',
  'log.error.size': 'now',
  'log.error.count': 'now',
  'log.crash.file': { restart: 'what keeps the process writes it' },

  'mqtt.allow_anonymous': 'connect',
  'mqtt.acl_nomatch': 'now',
  'mqtt.acl_file': 'now',
  'mqtt.acl_deny_action': 'now',
  'mqtt.cache_acl': 'now',
  'mqtt.acl_cache.ttl': 'connect',
  'mqtt.acl_cache.max_size': 'connect',

  'mqtt.max_clientid_len': 'connect',
  'mqtt.max_packet_size': 'connect',
  'mqtt.keepalive_backoff': 'connect',
  'mqtt.max_keepalive': 'connect',
  'mqtt.check_payload_format': 'connect',
  'mqtt.client.idle_timeout': 'connect',
  'mqtt.client.max_publish_rate': 'connect',
  'mqtt.websocket_protocol_header': 'connect',
  'mqtt.max_topic_levels': 'connect',
  'mqtt.max_topic_alias': 'connect',
  'mqtt.shared_subscription_strategy': 'now',

  'mqtt.broker.sys_interval': 'now',

  'mqtt.session.max_subscriptions': 'connect',
  'mqtt.session.max_inflight': 'connect',
  'mqtt.session.retry_interval': 'now',
  'mqtt.session.max_awaiting_rel': 'connect',
  'mqtt.session.await_rel_timeout': 'now',
  'mqtt.session.expiry_interval': 'connect',
  'mqtt.session.ignore_loop_deliver': 'now',
  'mqtt.session.upgrade_qos': 'now',
  'mqtt.mqueue.type': 'now',
  'mqtt.mqueue.priority': 'now',
  'mqtt.mqueue.max_length': 'now',
  'mqtt.mqueue.low_watermark': 'now',
  'mqtt.mqueue.high_watermark': 'now',
  'mqtt.mqueue.store_qos0': 'now',
  'mqtt.retain.max_message_num': 'now',
  'mqtt.retain.max_payload_size': 'now',
  'mqtt.retain.expiry_interval': 'now',

  'mqtt.plugins.etc_dir': plugins,
  'mqtt.plugins.loaded_file': plugins,

  'store.type': store,
  'store.dir': store,
  'store.required': store,
  'store.sync': store,
  'store.sync_interval': store,

  'listener.T.N': 'now',
  'listener.T.N.max_clients': 'now',
  'listener.T.N.access.<n>': 'connect',
  'listener.T.N.mountpoint': 'connect',
  'listener.T.N.rate_limit': 'connect',
  'listener.T.N.proxy_protocol': 'connect',
  'listener.T.N.proxy_protocol_timeout': 'connect',
  'listener.T.N.backlog': 'now',
  'listener.T.N.send_timeout': 'connect',
  'listener.T.N.send_timeout_close': 'connect',
  'listener.T.N.nodelay': 'connect',
  'listener.T.N.peer_cert_as_username': 'connect',
  'listener.T.N.certfile': 'connect',
  'listener.T.N.keyfile': 'connect',
  'listener.T.N.cacertfile': 'connect',
  'listener.T.N.dhfile': 'connect',
  'listener.T.N.verify': 'connect',
  'listener.T.N.fail_if_no_peer_cert': 'connect',
  'listener.T.N.tls_versions': 'connect',
  'listener.T.N.ciphers': 'connect',
  'listener.T.N.honor_cipher_order': 'connect',
  'listener.T.N.reuse_sessions': 'connect',
  'listener.T.N.handshake_timeout': 'connect',
  'listener.T.N.path': 'connect',
  'listener.T.N.proxy_address_header': 'connect',
  'listener.T.N.proxy_port_header': 'connect',
  'listener.T.N.trusted_proxies': 'connect',

  'listener.api.N': 'now',
  'listener.api.N.max_clients': 'now',
  'listener.api.N.access.<n>': 'connect',
  'listener.api.N.certfile': 'connect',
  'listener.api.N.keyfile': 'connect',
  'listener.api.N.public': 'now',
  'listener.api.N.allow_origins': 'now'
}

/** @param key as a file has it, or with the stars of keysOf(). */
export function effectOf(key: string): Effect {
  return effects[inTable(key)] ?? { restart: 'it cannot be changed while the broker runs' }
}

/** `listener.ws.external.access.1` is `listener.T.N.access.<n>`. */
export const inTable = (key: string): string =>
  key
    .replace(/^listener\.api\.[^.]+/, 'listener.api.N')
    .replace(/^listener\.(?!api\.)\w+\.[^.]+/, 'listener.T.N')
    .replace(/^(listener\.\w+\.N\.access)\..*/, '$1.<n>')

/** What is not shown to anybody; a key of a plugin is recognised by its name. */
export const isSecret = (key: string): boolean => /(^|[._])(password|secret|token|passphrase)$/.test(key)
