/** Finds out which program listens on a TCP port, with what the host has for that; an answer is never promised. */
import { execFile } from 'node:child_process'

/** `mosquitto (pid 4711)`, or undefined when nobody can tell. */
export async function portOwner(port: number, patienceMs = 2000): Promise<string | undefined> {
  return (await fromLsof(port, patienceMs)) ?? (await fromSs(port, patienceMs))
}

async function fromLsof(port: number, patienceMs: number): Promise<string | undefined> {
  const out = await run('lsof', ['-nP', `-iTCP:${port}`, '-sTCP:LISTEN', '-Fpc'], patienceMs)
  const pid = /^p(\d+)$/m.exec(out)?.[1]
  const command = /^c(.+)$/m.exec(out)?.[1]
  return pid === undefined || command === undefined ? undefined : `${command} (pid ${pid})`
}

async function fromSs(port: number, patienceMs: number): Promise<string | undefined> {
  const out = await run('ss', ['-ltnpH', `sport = :${port}`], patienceMs)
  const [, command, pid] = /users:\(\("([^"]+)",pid=(\d+)/.exec(out) ?? []
  return pid === undefined ? undefined : `${command} (pid ${pid})`
}

async function run(command: string, args: string[], timeout: number): Promise<string> {
  return await new Promise(resolve => {
    execFile(command, args, { timeout }, (_err, stdout) => resolve(stdout))
  })
}
