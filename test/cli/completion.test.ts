/** The completion scripts, as the shells run them. */
import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { begin, packageRoot } from '../support/cli.js'
import { hangMs, makeHome, Speaker, startServer, until } from '../support/server.js'

type Program = 'broker' | 'broker-ctl'
const programs: readonly Program[] = ['broker', 'broker-ctl']

const has = (shell: string): boolean => {
  try {
    execFileSync(shell, ['-c', 'true'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
const unless = (shell: string) => ({ skip: has(shell) ? false : `there is no ${shell} on this host` })

async function scriptOf(t: TestContext, program: Program, shell: string): Promise<string> {
  const { code, out, err } = await begin(program, ['completion', shell]).ended
  assert.deepEqual([code, err], [0, ''])
  const dir = mkdtempSync(join(tmpdir(), 'broker-completion-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const file = join(dir, shell)
  writeFileSync(file, out)
  return file
}

/** Runs a program of a shell that finds ours by name. */
async function run(shell: string, args: readonly string[]): Promise<string> {
  const env = { ...process.env, PATH: `${join(packageRoot, 'bin')}:${process.env['PATH']}`, HOME: '/nonexistent' }
  return await new Promise((resolve, reject) => {
    execFile(shell, args, { env, timeout: hangMs }, (err, out, errors) => {
      if (err !== null || errors !== '') reject(new Error(`${errors}${out}${err?.message ?? ''}`))
      else resolve(out)
    })
  })
}

/** What bash offers when Tab is pressed behind these words; the last is what has been begun. */
async function offered(script: string, words: readonly string[]): Promise<string[]> {
  const program = words[0]!
  const driver = `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$((\${#COMP_WORDS[@]} - 1)); COMP_LINE="$*"
    COMPREPLY=(); _${program.replaceAll('-', '_')} "$1"; for each in "\${COMPREPLY[@]}"; do printf '%s\\n' "$each"; done`
  return (await run('bash', ['--norc', '-c', driver, 'bash', script, ...words])).split('\n').filter(Boolean)
}

suite('completion', { concurrency: 2 }, () => {
  test('bash completes words, options and their values, for both programs', unless('bash'), async t => {
    const ctl = await scriptOf(t, 'broker-ctl', 'bash')
    const tab = (...words: string[]): Promise<string[]> => offered(ctl, ['broker-ctl', ...words])
    const first = await tab('')
    for (const word of ['status', 'clients', 'plugins', 'log', 'completion']) assert.ok(first.includes(word), word)
    assert.ok(!first.some(word => /^(node|complete|__complete|help)$/.test(word)), first.join(' '))
    assert.deepEqual(await tab('cli'), ['clients'])
    for (const word of ['list', 'show', 'kick']) assert.ok((await tab('clients', '')).includes(word), word)
    assert.deepEqual(await tab('--json', '--home', '/nowhere', 'plugins', 'l'), ['list', 'load'])
    assert.deepEqual(await tab('log', 'set-level', 'e'), ['error'])
    assert.deepEqual(await tab('completion', ''), ['bash', 'zsh', 'fish'])
    const options = await tab('clients', 'show', '--')
    for (const option of ['--json', '--table', '--home', '--help']) assert.ok(options.includes(option), option)
    assert.deepEqual(await tab('status', ''), [])

    const broker = await scriptOf(t, 'broker', 'bash')
    const press = (...words: string[]): Promise<string[]> => offered(broker, ['broker', ...words])
    assert.deepEqual(await press('st'), ['start', 'stop', 'status'])
    assert.ok(!(await press('')).some(word => /^(daemon|keep)$/.test(word)))
    assert.deepEqual(await press('stop', '--mode', ''), ['drain', 'fast', 'immediate'])
    assert.deepEqual(await press('stop', '-m', 'f'), ['fast'])
    assert.deepEqual(await press('attach', '--level', 'd'), ['debug'])
    assert.deepEqual(await press('start', '--t'), ['--timeout'])
    assert.deepEqual(await press('start', '--timeout', ''), [])
    assert.deepEqual(await press('--home', join(packageRoot, 'sr')), [join(packageRoot, 'src')])
    assert.deepEqual(await press('init', join(packageRoot, 'sr')), [join(packageRoot, 'src')])
    // What bash's own machinery makes of it.
    const specs = await run('bash', ['--norc', '-c', 'source "$1"; complete -p broker-ctl', 'bash', ctl])
    assert.equal(specs, 'complete -F _broker_ctl broker-ctl\n')
  })

  test(
    'bash completes what the broker knows: clients, plugins, listeners; and quotes what a client chose',
    unless('bash'),
    async t => {
      const running = await startServer(t, { plugins: { 'auth-pgsql': '' } })
      for (const id of ['lamp', 'lamp two', 'meter;rm', 'a:b', 'a:c']) await Speaker.connect(t, running, { id })
      await Speaker.connect(t, running, { id: 'bell\u0001', version: 4 })
      const ctl = await scriptOf(t, 'broker-ctl', 'bash')
      const home = ['--home', running.home.root]
      const once = (...words: string[]): Promise<string[]> => offered(ctl, ['broker-ctl', ...home, ...words])
      // On a busy machine the names may come too late for the shell, which then is offered none.
      const tab = async (...words: string[]): Promise<string[]> =>
        await until(words.join(' '), async () => {
          const names = await once(...words)
          return names.length > 0 ? names : undefined
        })
      assert.deepEqual(await tab('clients', 'show', 'l'), ['lamp', 'lamp\\ two'])
      assert.deepEqual(await tab('clients', 'kick', 'met'), ['meter\\;rm'])
      assert.deepEqual(await once('clients', 'kick', 'be'), [])
      assert.deepEqual(await tab('clients', 'kick', 'a', ':', 'b'), ['b'], 'bash breaks words at colons')
      assert.deepEqual(await tab('clients', 'kick', 'a', ':'), ['b', 'c'])
      assert.deepEqual(await tab('plugins', 'load', 'auth'), ['auth_pgsql'])
      assert.deepEqual(await once('clients', 'kick', 'lamp', ''), [])
      assert.deepEqual(await running.admin.call('complete', { kind: 'listeners' }), ['tcp:test'])
      await assert.rejects(running.admin.call('complete', { kind: 'constructor' }), { code: 'BAD_REQUEST' })
    }
  )

  test('without a broker it is silent', async t => {
    const { root } = makeHome(t)
    for (const kind of ['clients', 'plugins', 'nonsense']) {
      const { code, out, err } = await begin('broker-ctl', ['--home', root, '__complete', kind, 'x']).ended
      assert.deepEqual([code, out, err], [0, '', ''])
    }
  })

  test('a shell that is not known is told', async () => {
    for (const program of programs) {
      const { code, err } = await begin(program, ['completion', 'tcsh']).ended
      assert.deepEqual([code, err], [2, 'no such shell: tcsh; there are bash, zsh, fish\n'])
    }
  })

  test('zsh takes the scripts, and offers what they say', unless('zsh'), async t => {
    for (const program of programs) {
      const file = await scriptOf(t, program, 'zsh')
      assert.equal(await run('zsh', ['-n', file]), '')
      // The functions of its completion system, in the place of which a script can look.
      const driver = `compdef() { }; _describe() { print -lr -- "\${(@P)2}" }; compadd() { shift; print -lr -- "$@" }; source "$1"; shift
        words=("$@"); CURRENT=$#words; _${program.replaceAll('-', '_')}`
      const tab = async (...words: string[]): Promise<string[]> =>
        (await run('zsh', ['-f', '-c', driver, 'zsh', file, program, ...words])).trim().split('\n')
      if (program === 'broker') {
        assert.ok((await tab('')).includes('stop:Stop the broker'))
        assert.deepEqual(await tab('stop', '--mode', ''), ['drain', 'fast', 'immediate'])
      } else {
        assert.ok((await tab('clients', '')).includes('kick:Kick out a client'))
        assert.ok((await tab('clients', 'kick', '-')).includes('--json:print the result as JSON'))
      }
    }
  })

  test('fish takes the scripts, and offers what they say', unless('fish'), async t => {
    for (const program of programs) {
      const file = await scriptOf(t, program, 'fish')
      assert.equal(await run('fish', ['--no-execute', file]), '')
      const tab = async (line: string): Promise<string[]> =>
        (await run('fish', ['--no-config', '-c', 'source $argv[1]; complete -C $argv[2]', file, `${program} ${line}`]))
          .trim()
          .split('\n')
      const words = async (line: string): Promise<string[]> => (await tab(line)).map(each => each.split('\t')[0]!)
      if (program === 'broker') {
        assert.ok((await tab('sto')).includes('stop\tStop the broker'))
        assert.deepEqual(await words('stop --mode f'), ['fast'])
      } else {
        assert.ok((await tab('clients ki')).includes('kick\tKick out a client'))
        assert.ok((await tab('clients kick --j')).some(line => line.startsWith('--json')))
        assert.deepEqual(await words('log set-level war'), ['warning'])
      }
    }
  })
})
