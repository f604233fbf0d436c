/** What the words of `broker` do, apart from those that run the broker in this process. */
import { BrokerError } from '../base/errors.js'
import { type Home, version } from '../base/home.js'
import { Exit, type Io, near, printError } from './io.js'
import { ping, restartDaemon, type StartOptions, type StopOptions, startDaemon, stopDaemon } from './pm2/daemon.js'

/** Each plugin whose file has changed may take its backend's time-outs. */
const reloadMs = 60_000

// What reads the configuration is loaded where it is needed: `broker ping` need not wait for it.

export async function start(home: Home, io: Io, options: Omit<StartOptions, 'crashFile'>): Promise<number> {
  const crashFile = await checked(home) // a bad file is reported here, not in the log
  return await showingTheLog(home, io, crashFile, async () => {
    const answer = await startDaemon(home, { ...options, crashFile })
    if (answer === undefined) {
      io.out(`broker ${version} is being started`)
      return Exit.ok
    }
    for (const { name, bind } of answer.listeners) io.out(`listening on ${name.padEnd(14)} ${bind}`)
    for (const notice of answer.notices) io.out(notice)
    io.out(`broker ${answer.version} is started successfully!`)
    return Exit.ok
  })
}

export async function stop(home: Home, io: Io, options: StopOptions): Promise<number> {
  if (!(await stopDaemon(home, options))) return await notResponding(home, io)
  io.out('ok')
  return Exit.ok
}

export async function restart(home: Home, io: Io, options: StopOptions): Promise<number> {
  const crashFile = await checked(home) // before the running one is stopped
  return await showingTheLog(home, io, crashFile, async () => {
    const { timeoutMs } = options
    const start = { wait: true, timeoutMs, crashFile, tell: io.err }
    if (!(await restartDaemon(home, options, start))) return await notResponding(home, io)
    io.out('ok')
    return Exit.ok
  })
}

export async function reload(home: Home, io: Io, json: boolean): Promise<number> {
  const { AdminClient } = await import('../admin/client.js')
  const { printReport } = await import('../commands/config.js')
  try {
    const report = await new AdminClient(home.adminSocket, reloadMs).call('reload', {})
    io.out(json ? JSON.stringify(report) : printReport(report))
    return Exit.ok
  } catch (err) {
    if (err instanceof BrokerError && err.code === 'UNREACHABLE') return await notResponding(home, io)
    throw err
  }
}

/** A start that fails is told with its reason, and with what the broker has written meanwhile. */
async function showingTheLog(home: Home, io: Io, crashFile: string, work: () => Promise<number>): Promise<number> {
  const { bookmark, logFile } = await import('./logs.js')
  const files = [...new Set([logFile(home), crashFile])].filter(file => file !== undefined)
  const marks = files.map(file => ({ file, news: bookmark(file) }))
  try {
    return await work()
  } catch (err) {
    if (err instanceof BrokerError && err.code === 'CONFLICT') {
      io.out(err.message) // emqttd says it on standard output
      return Exit.failed
    }
    await printError(io, err)
    for (const { file, news } of marks) {
      const lines = news().slice(-10)
      if (lines.length > 0) io.err(`\nIts last lines in ${near(file)}:\n${lines.map(l => `  ${l}`).join('\n')}`)
    }
    return Exit.failed
  }
}

export async function pong(home: Home, io: Io): Promise<number> {
  if ((await ping(home)) === undefined) return await notResponding(home, io)
  io.out('pong')
  return Exit.ok
}

export async function pid(home: Home, io: Io): Promise<number> {
  const answer = await ping(home)
  if (answer === undefined) return await notResponding(home, io)
  io.out(String(answer.pid))
  return Exit.ok
}

export async function status(home: Home, io: Io, json: boolean): Promise<number> {
  let answer: Awaited<ReturnType<typeof ping>>
  try {
    answer = await ping(home)
  } catch (err) {
    await printError(io, err)
    return Exit.unknown
  }
  if (answer === undefined) {
    const node = await nodeName(home)
    io.out(json ? JSON.stringify({ node, phase: 'stopped' }) : `Node '${node}' is not running`)
    return Exit.notRunning
  }
  if (json) {
    io.out(JSON.stringify(answer))
  } else {
    io.out(`Node '${answer.node}' is started`)
    io.out(answer.phase === 'running' ? `broker ${answer.version} is running` : `broker is ${answer.phase}`)
  }
  return Exit.ok
}

export async function check(home: Home, io: Io): Promise<number> {
  await checked(home)
  io.out(`${near(home.conf)} is valid`)
  return Exit.ok
}

async function checked(home: Home): Promise<string> {
  const { checkAll } = await import('./check.js')
  return await checkAll(home)
}

async function notResponding(home: Home, io: Io): Promise<number> {
  io.err(`Node '${await nodeName(home)}' not responding to pings.`)
  return Exit.failed
}

async function nodeName(home: Home): Promise<string> {
  const { nodeNameOf } = await import('../server/settings.js')
  return nodeNameOf(home)
}
