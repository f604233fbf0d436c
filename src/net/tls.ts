/**
 * TLS for a listener: the server that makes the handshakes, the certificate files it serves, and the name that a
 * client's certificate proves.
 *
 * The server never listens itself: the listener gives it the sockets, after the PROXY header and the access rules. The
 * files are watched as long as they are served, so that a certificate can be renewed without a reload; files that are
 * not usable change nothing.
 */
import { constants, type X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import tls from 'node:tls'
import { BrokerError, messageOf } from '../base/errors.js'
import type { Log } from '../base/log/log.js'
import type { TlsOptions } from '../config/broker-keys.js'
import { certificateDaysLeft, watchFiles } from './certificates.js'

type CertificatePart = TlsOptions['peerCertAsUsername']

export interface TlsHandlers {
  /** The part of a client's certificate that is its user name; asked when a handshake is done, since it may change meanwhile. */
  userNamePart(): CertificatePart
  /** A handshake is done. @param certificateName of the client; undefined where no certificate is to tell it. */
  secured(socket: tls.TLSSocket, certificateName: string | undefined): void
  /** A handshake is done, but the client's certificate is not accepted. */
  refused(socket: tls.TLSSocket, why: string): void
  /** A handshake failed, and its socket is closed. */
  failed(socket: tls.TLSSocket, why: string): void
}

/** Makes the server; it has no certificate before CertificateFiles.serve(). */
export function createTlsServer(options: TlsOptions, handlers: TlsHandlers): tls.Server {
  const server = tls.createServer({
    handshakeTimeout: options.handshakeTimeout,
    requestCert: options.verify === 'verify_peer',
    rejectUnauthorized: options.failIfNoPeerCert
  })
  server.on('secureConnection', socket => {
    const certificate = options.verify === 'verify_peer' ? socket.getPeerX509Certificate() : undefined
    if (certificate === undefined) return handlers.secured(socket, undefined)
    if (!socket.authorized) return handlers.refused(socket, `client certificate: ${String(socket.authorizationError)}`)
    const part = handlers.userNamePart()
    const name = part === undefined ? undefined : nameOf(certificate, part)
    // Taking the name that CONNECT claims instead would let this certificate stand for anybody.
    if (part !== undefined && name === undefined) {
      return handlers.refused(socket, `client certificate: it has no ${part.toUpperCase()}`)
    }
    handlers.secured(socket, name)
  })
  server.on('tlsClientError', (err, socket) => {
    const plain =
      (err as NodeJS.ErrnoException).code === 'ERR_SSL_HTTP_REQUEST' || /wrong version number/.test(err.message)
    handlers.failed(socket, plain ? 'the peer does not speak TLS' : err.message)
  })
  return server
}

/** `CN` alone, or the whole subject as `C=DE,O=Home,CN=lamp`. */
function nameOf(certificate: X509Certificate, part: 'cn' | 'dn'): string | undefined {
  if (part === 'dn') return certificate.subject?.split('\n').join(',')
  // Not from `subject`, which escapes, and joins what stands in one RDN. Of several the first counts.
  const { CN } = certificate.toLegacyObject().subject as { CN?: string | string[] }
  return typeof CN === 'object' ? CN[0] : CN
}

/** Whose files they are. */
export interface CertificateOwner {
  /** The listener's name: `ssl:external`. */
  readonly name: string
  /** Resolves a path of the configuration against the broker's home. */
  readonly path: (relative: string) => string
  readonly log: Log
}

/** The certificate files of one listener: read when it is made, and again whenever they change while they are served. */
export class CertificateFiles {
  readonly #options: TlsOptions
  readonly #owner: CertificateOwner
  readonly #unwatch: () => void
  #context: tls.SecureContextOptions
  /** Serves them; undefined before serve(). */
  #server: tls.Server | undefined

  /** Throws a BrokerError when the files cannot be read or used. */
  constructor(options: TlsOptions, owner: CertificateOwner) {
    this.#options = options
    this.#owner = owner
    const files = [options.certfile, options.keyfile, options.cacertfile].filter(f => f !== undefined).map(owner.path)
    this.#unwatch = watchFiles(files, () => this.#readAgain()) // before they are read: no change is missed
    try {
      this.#context = readContext(options, owner)
    } catch (err) {
      this.#unwatch()
      throw err
    }
  }

  /** What the files hold and the options that go with it, to be compared. */
  get context(): tls.SecureContextOptions {
    return this.#context
  }

  /** Puts them in force for the handshakes that the server makes from now on. */
  serve(server: tls.Server): void {
    this.#server = server
    server.setSecureContext(this.#context)
    const { name, log } = this.#owner
    const days = certificateDaysLeft(this.#context.cert as Buffer)
    if (days < 30) {
      log.warning('certificate expires soon', { listener: name, file: this.#options.certfile, days })
    }
  }

  /** Looks at the files no more. */
  close(): void {
    this.#unwatch()
  }

  /** New files serve the next handshakes; connected clients stay. Bad ones change nothing. */
  #readAgain(): void {
    if (this.#server === undefined) return
    const { name, log } = this.#owner
    try {
      const context = readContext(this.#options, this.#owner)
      this.#server.setSecureContext(context)
      this.#context = context
      log.info('certificates read again', { listener: name })
    } catch (err) {
      log.error('certificates changed and are not usable; those in force stay', { listener: name, err })
    }
  }
}

function readContext(options: TlsOptions, { name, path }: CertificateOwner): tls.SecureContextOptions {
  const settingOf = (option: string): string => `listener.${name.replace(':', '.')}.${option}`
  const read = (file: string, option: string): Buffer => {
    try {
      return readFileSync(path(file))
    } catch (cause) {
      const why = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : messageOf(cause)
      throw new BrokerError('CONFIG_INVALID', `${settingOf(option)}: cannot read ${path(file)}: ${why}`, { cause })
    }
  }
  const versions = options.tlsVersions.map(v => versionNames[v]).sort()
  const context: tls.SecureContextOptions = {
    cert: read(options.certfile, 'certfile'),
    key: read(options.keyfile, 'keyfile'),
    minVersion: versions[0]!,
    maxVersion: versions.at(-1)!,
    secureOptions: options.reuseSessions ? 0 : constants.SSL_OP_NO_TICKET,
    honorCipherOrder: options.honorCipherOrder,
    ...(options.cacertfile === undefined ? {} : { ca: read(options.cacertfile, 'cacertfile') }),
    ...(options.dhfile === undefined ? {} : { dhparam: read(options.dhfile, 'dhfile') }),
    ...(options.ciphers === undefined ? {} : { ciphers: options.ciphers })
  }
  try {
    tls.createSecureContext(context)
  } catch (cause) {
    const files = `${path(options.certfile)}, ${path(options.keyfile)}`
    const why = /key values mismatch/.test(messageOf(cause))
      ? 'the key does not belong to the certificate'
      : messageOf(cause)
    throw new BrokerError('CONFIG_INVALID', `${settingOf('certfile')}: ${why} (${files})`, { cause })
  }
  return context
}

const versionNames = { tlsv1: 'TLSv1', 'tlsv1.1': 'TLSv1.1', 'tlsv1.2': 'TLSv1.2', 'tlsv1.3': 'TLSv1.3' } as const
