/** A broker in a process of its own, with a home that outlives it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const program = fileURLToPath(new URL('../../../bin/broker', import.meta.url))

export class BrokerProcess {
  readonly port: number
  /** Told when it ends without having been ended, or says that something is wrong with it. */
  readonly #problem: (what: string) => void
  readonly #home: string
  #child: ChildProcess | undefined
  #ended = Promise.resolve()
  starts = 0

  private constructor(port: number, home: string, problem: (what: string) => void) {
    this.port = port
    this.#home = home
    this.#problem = problem
    process.once('exit', this.#leave)
  }

  /** Whoever runs the rounds was told to end. */
  readonly #leave = (): void => {
    this.#child?.kill('SIGKILL')
    rmSync(this.#home, { recursive: true, force: true })
  }

  static async make(conf: readonly string[], problem: (what: string) => void): Promise<BrokerProcess> {
    const home = mkdtempSync(join(tmpdir(), 'broker-crash-'))
    const port = await freePort()
    mkdirSync(join(home, 'etc/plugins'), { recursive: true })
    const lines = [`listener.tcp.crash = 127.0.0.1:${port}`, 'log.console.level = warning', ...conf]
    writeFileSync(join(home, 'etc/broker.conf'), `${lines.join('\n')}\n`)
    writeFileSync(join(home, 'etc/acl.conf'), '')
    return new BrokerProcess(port, home, problem)
  }

  start(): void {
    this.starts++
    const child = spawn(process.execPath, [program, '--home', this.#home, 'foreground'], {
      stdio: ['ignore', 'pipe', 'pipe']
    })
    this.#child = child
    const say = (text: string): void => {
      for (const line of text.split('\n')) {
        if (/"level":"(error|critical|alert|emergency)"|Error/.test(line))
          this.#problem(`broker: ${line.slice(0, 600)}`)
      }
    }
    child.stdout!.setEncoding('utf8').on('data', say)
    child.stderr!.setEncoding('utf8').on('data', say)
    this.#ended = new Promise(resolve => {
      child.once('close', (code, signal) => {
        if (this.#child === child) this.#problem(`the broker ended by itself: ${code ?? signal}`)
        resolve()
      })
    })
  }

  /** SIGKILL is a crash, SIGTERM an end in good order. */
  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const child = this.#child
    this.#child = undefined
    child?.kill(signal)
    await this.#ended
  }

  async remove(): Promise<void> {
    await this.end('SIGKILL')
    process.off('exit', this.#leave)
    this.#leave()
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}
