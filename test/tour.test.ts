// The tour in docs/commands.md: each command is run by the real programs, and prints what the page shows.
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { AdminClient } from '../src/admin/client.js'
import { instance, packageRoot } from './support/cli.js'
import { until } from './support/server.js'

/** What differs from one run to the next: times, ports, sizes, and all that the machine decides. */
const masked = (text: string): string =>
  text
    .replace(/^(cpu|memory|process|io|ports|eventloop|gc|latency|bytes|uptime|datetime)\b.*/gm, line =>
      line.replace(/[\d.]+/g, 'N')
    )
    .replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'TIME')
    .replace(/ after \d+ s\b/g, ' after N s')
    .replace(/\b\d{4,}\b/g, 'N')

interface Step {
  readonly command: string
  readonly output: string
}

function stepsOf(page: string): Step[] {
  const tour = page.slice(page.indexOf('\n## A tour\n')).split(/\n## (?!A tour)/)[0]!
  return [...tour.matchAll(/^```console\n(.*?)^```$/gms)].flatMap(([, block]) =>
    block!
      .split(/^\$ /m)
      .slice(1)
      .map(step => ({ command: step.slice(0, step.indexOf('\n')), output: step.slice(step.indexOf('\n') + 1) }))
  )
}

const hasMosquitto = (): boolean => {
  try {
    execFileSync('which', ['mosquitto_sub'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

test('docs/commands.md: the tour', { skip: hasMosquitto() ? false : 'mosquitto-clients is not installed' }, async t => {
  const { home } = instance(t)
  const path = home.path('path')
  mkdirSync(path)
  for (const name of ['broker', 'broker-ctl']) symlinkSync(join(packageRoot, 'bin', name), join(path, name))
  const conf = readFileSync(join(packageRoot, 'etc/broker.conf'), 'utf8').replace(
    /^listener\.(ssl|ws|wss|api)\..*$/gm,
    ''
  )
  writeFileSync(home.path('etc/broker.conf'), conf.replace(/^(listener\.tcp\.external =).*$/m, '$1 127.0.0.1:0'))
  for (const file of ['etc/acl.conf', 'etc/plugins/auth-pgsql.conf']) {
    writeFileSync(home.path(file), readFileSync(join(packageRoot, file)))
  }
  const env = { ...process.env, BROKER_HOME: home.root, PATH: `${path}:${process.env['PATH']}`, NO_COLOR: '1' }
  const children: ChildProcess[] = []
  t.after(() => {
    for (const child of children) child.kill('SIGKILL')
  })
  /** The shell is replaced by what it starts, which can then be ended. */
  const start = (command: string): ChildProcess => {
    const child = spawn('sh', ['-c', command], { cwd: home.root, env, stdio: ['ignore', 'pipe', 'pipe'] })
    children.push(child)
    return child
  }
  const outputOf = async (child: ChildProcess): Promise<string> => {
    const parts: string[] = []
    for (const stream of [child.stdout!, child.stderr!]) stream.setEncoding('utf8').on('data', part => parts.push(part))
    await new Promise(resolve => child.once('close', resolve))
    return parts.join('')
  }

  start('exec broker foreground').stdout!.resume()
  const admin = new AdminClient(home.adminSocket)
  const [listener] = await until(
    'the broker runs',
    async () => await admin.call('listeners', {}).catch(() => undefined)
  )
  const port = listener!.listen.split(':')[1]!
  const clients = async (): Promise<string[]> => (await admin.call('clients list', {})).map(c => c.client_id)

  const steps = stepsOf(readFileSync(join(packageRoot, 'docs/commands.md'), 'utf8'))
  assert.ok(steps.length > 20, `${steps.length} steps`)
  for (const { command, output } of steps) {
    const line = command.replace('-p 1883', `-p ${port}`)
    if (line.endsWith(' &')) {
      const id = / -i (\S+)/.exec(line)![1]!
      start(`exec ${line.slice(0, -2)}`)
      await until(
        `${id} has subscribed`,
        async () =>
          (await clients()).includes(id) &&
          (await admin.call('subscriptions show', { clientId: id }).catch(() => [])).length > 0
      )
      continue
    }
    const printed = (await outputOf(start(line))).replace(`127.0.0.1:${port}`, '1883')
    assert.equal(masked(printed).trimEnd(), masked(output).trimEnd(), command)
  }
})
