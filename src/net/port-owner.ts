/** Finds out which program listens on a TCP port, with what the host has for that; an answer is never promised. */
import { execFile } from 'node:child_process'

/** `mosquitto (pid 4711)`, or undefined when nobody can tell. */
export async function portOwner(port: number): Promise<string | undefined> {
  return (await fromLsof(port)) ?? (await fromSs(port))
}

async function fromLsof(port: number): Promise<string | undefined> {
  const out = await run('lsof', ['-nP', `-iTCP:${port}`, '-sTCP:LISTEN', '-Fpc'])
  const pid = /^p(\d+)$/m.exec(out)?.[1]
  const command = /^c(.+)$/m.exec(out)?.[1]
  return pid === undefined || command === undefined ? undefined : `${command} (pid ${pid})`
}

async function fromSs(port: number): Promise<string | undefined> {
  const out = await run('ss', ['-ltnpH', `sport = :${port}`])
  const [, command, pid] = /users:\(\("([^"]+)",pid=(\d+)/.exec(out) ?? []
  return pid === undefined ? undefined : `${command} (pid ${pid})`
}

async function run(command: string, args: string[]): Promise<string> {
  return await new Promise(resolve => {
    execFile(command, args, { timeout: 2000 }, (_err, stdout) => resolve(stdout))
  })
}
