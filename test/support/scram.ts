/** A client of SCRAM-SHA-256 (RFC 5802, RFC 7677), written for the tests alone: it shares nothing with the broker. */
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'

export interface ScramClientOptions {
  readonly gs2?: string
  readonly nonce?: string
  /** What it says in its last message of the header and the nonce, where it lies. */
  readonly lie?: (unproved: string) => string
}

export class ScramClient {
  readonly first: string
  readonly #gs2: string
  readonly #bare: string
  readonly #password: string
  readonly #lie: (unproved: string) => string
  /** What the server must answer in the end. */
  expected = ''

  constructor(
    username: string,
    password: string,
    { gs2 = 'n,,', nonce = randomBytes(12).toString('hex'), lie = same => same }: ScramClientOptions = {}
  ) {
    this.#gs2 = gs2
    this.#bare = `n=${username.replaceAll('=', '=3D').replaceAll(',', '=2C')},r=${nonce}`
    this.#password = password
    this.#lie = lie
    this.first = gs2 + this.#bare
  }

  /** client-final-message in answer to server-first-message. */
  final(challenge: string): string {
    const [, nonce, salt, iterations] = /^r=([^,]+),s=([^,]+),i=(\d+)$/.exec(challenge)!
    const mac = (key: Buffer, words: string): Buffer => createHmac('sha256', key).update(words).digest()
    const salted = pbkdf2Sync(this.#password, Buffer.from(salt!, 'base64'), Number(iterations), 32, 'sha256')
    const unproved = this.#lie(`c=${Buffer.from(this.#gs2).toString('base64')},r=${nonce}`)
    const all = [this.#bare, challenge, unproved].join(',')
    const clientKey = mac(salted, 'Client Key')
    const signature = mac(createHash('sha256').update(clientKey).digest(), all)
    const proof = Buffer.alloc(32)
    for (let i = 0; i < 32; i++) proof[i] = clientKey[i]! ^ signature[i]!
    this.expected = `v=${mac(mac(salted, 'Server Key'), all).toString('base64')}`
    return `${unproved},p=${proof.toString('base64')}`
  }
}
