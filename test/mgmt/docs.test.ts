// docs/api.md: each request is made, in its order, and is answered as the page shows.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { routesOf } from '../../src/mgmt/app.js'
import { basic, startWithApi } from '../support/api.js'
import { packageRoot } from '../support/cli.js'
import { client } from '../support/server.js'

/** What an answer is made of: its words and numbers differ from run to run, but for codes and what was asked for. */
function shape(value: unknown, name = ''): unknown {
  if (Array.isArray(value)) return value.map(each => shape(each))
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, shape(each, key)]))
  return ['code', 'message', 'topic', 'payload', 'client_id', 'username', 'active'].includes(name)
    ? value
    : typeof value
}

test('docs/api.md: every request is answered as it shows, and every route is there', async t => {
  const running = await startWithApi(t, { plugins: { 'auth-scram': 'auth.scram.iterations = 4096' } })
  const lamp = await client(t, running, { clientId: 'lamp' })
  lamp.on('error', () => {})
  await lamp.subscribeAsync('home/+/light', { qos: 1 })

  const page = readFileSync(join(packageRoot, 'docs/api.md'), 'utf8')
  const steps = [...page.matchAll(/^```console\n(.*?)^```$/gms)].flatMap(([, block]) => block!.split(/^\$ /m).slice(1))
  const routes = routesOf('1.2.3').map(({ method, path }) => ({ method, path, parts: path.split('/') }))
  const shown = new Set<string>()
  for (const step of steps) {
    const [line = '', ...rest] = step.trimEnd().split('\n')
    const [, login, method = 'GET', body, path = ''] =
      /^curl (-u admin:… )?(?:-X (\w+) )?(?:-d '([^']*)' )?'?http:\/\/127\.0\.0\.1:8080([^\s']+)'?$/.exec(line) ?? []
    assert.notEqual(path, '', line)
    const parts = path.split('?')[0]!.split('/')
    const route = routes.find(
      r =>
        r.method === method &&
        r.parts.length === parts.length &&
        r.parts.every((p, i) => p[0] === ':' || p === parts[i])
    )
    shown.add(`${method} ${route?.path}`)
    const as = login === undefined ? '' : basic('admin', running.password)
    const answer = await running.ask(path, { method, as, ...(body === undefined ? {} : { body }) })
    const expected = rest.join('\n')
    if (expected.endsWith('…')) {
      const begin = /^\W*\w+/.exec(expected)![0]
      assert.ok(answer.text.startsWith(begin), `${line}: ${answer.text.slice(0, 100)}`)
    } else if (expected.startsWith('{')) {
      assert.deepEqual(shape(answer.body), shape(JSON.parse(expected)), line)
    } else {
      assert.equal(answer.text, expected, line)
    }
  }
  assert.deepEqual([...shown].sort(), routes.map(({ method, path }) => `${method} ${path}`).sort())
  for (const [, code] of readFileSync(join(packageRoot, 'src/mgmt/route.ts'), 'utf8').matchAll(
    /^ {2}\w+: (1\d\d),?$/gm
  ))
    assert.match(page, new RegExp(`^\\|[^|]*\\b${code}\\b[^|]*\\|`, 'm'), `code ${code} is explained`)
})
