/**
 * What Node.js says of this process: emqttd's `vm` in the terms of another machine. The
 * event loop's delay and garbage collections are watched from the start on; both are
 * counted by the runtime, the first without a turn of the event loop, the second with
 * one for some collections.
 */
import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { loadavg } from 'node:os'
import { constants, monitorEventLoopDelay, PerformanceObserver, performance } from 'node:perf_hooks'
import { getHeapStatistics } from 'node:v8'

/** What the types of Node.js do not have. */
interface GcDetail {
  readonly kind: number
}

/** A wakeup of the process each; what holds the event loop up for less may go unseen. */
const resolutionMs = 50

const round = (n: number): number => (Number.isFinite(n) ? Number(n.toFixed(3)) : 0)

export class Vm {
  readonly name = 'vm'
  readonly #delay = monitorEventLoopDelay({ resolution: resolutionMs })
  readonly #gc = { minor: 0, major: 0, incremental: 0, weak: 0, pause: 0, longest: 0 }
  readonly #observer = new PerformanceObserver(list => {
    for (const { duration, detail } of list.getEntries() as unknown as { duration: number; detail: GcDetail }[]) {
      const { kind } = detail
      if (kind === constants.NODE_PERFORMANCE_GC_MAJOR) this.#gc.major++
      else if (kind === constants.NODE_PERFORMANCE_GC_INCREMENTAL) this.#gc.incremental++
      else if (kind === constants.NODE_PERFORMANCE_GC_WEAKCB) this.#gc.weak++
      else this.#gc.minor++
      this.#gc.pause += duration
      this.#gc.longest = Math.max(this.#gc.longest, duration)
    }
  })
  #maxFds: number | undefined

  start(): void {
    this.#delay.enable()
    this.#observer.observe({ entryTypes: ['gc'] })
  }

  stop(): void {
    this.#delay.disable()
    this.#observer.disconnect()
  }

  load() {
    const [load1, load5, load15] = loadavg().map(n => n.toFixed(2)) as [string, string, string]
    return { 'cpu/load1': load1, 'cpu/load5': load5, 'cpu/load15': load15 }
  }

  memory() {
    const { rss, heapTotal, heapUsed, external, arrayBuffers } = process.memoryUsage()
    return {
      'memory/total': rss,
      'memory/heap_total': heapTotal,
      'memory/heap_used': heapUsed,
      'memory/heap_limit': getHeapStatistics().heap_size_limit,
      'memory/external': external,
      'memory/array_buffers': arrayBuffers
    }
  }

  process() {
    const { user, system } = process.cpuUsage()
    return {
      'process/pid': process.pid,
      'process/uptime': Math.floor(process.uptime()),
      'process/cpu_user': round(user / 1e6),
      'process/cpu_system': round(system / 1e6),
      'process/handles': process.getActiveResourcesInfo().length
    }
  }

  async io() {
    this.#maxFds ??= await maxFds()
    return { 'io/max_fds': this.#maxFds, 'io/active_fds': (await readdir('/dev/fd')).length - 1 } // one is that of the reading
  }

  /** Milliseconds above what the timer that measures it waits anyway; since the start. */
  eventLoop() {
    const ms = (ns: number): number => round(Math.max(0, ns / 1e6 - resolutionMs))
    return {
      'eventloop/utilization': round(performance.eventLoopUtilization().utilization),
      'eventloop/delay_mean': ms(this.#delay.mean),
      'eventloop/delay_p99': ms(this.#delay.percentile(99)),
      'eventloop/delay_max': this.#delay.max === 0 ? 0 : ms(this.#delay.max)
    }
  }

  gc() {
    const { minor, major, incremental, weak, pause, longest } = this.#gc
    return {
      'gc/minor': minor,
      'gc/major': major,
      'gc/incremental': incremental,
      'gc/weak_callbacks': weak,
      'gc/pause_total': round(pause),
      'gc/pause_max': round(longest)
    }
  }
}

/** 0 where it has no limit that can be known. */
async function maxFds(): Promise<number> {
  try {
    const limits = await readFile('/proc/self/limits', 'utf8')
    return Number(/^Max open files\s+(\d+)/m.exec(limits)?.[1] ?? 0)
  } catch {
    return await new Promise(resolve => {
      execFile('/bin/sh', ['-c', 'ulimit -n'], (err, out) => resolve(err === null ? Number(out) || 0 : 0))
    })
  }
}

/** The figures, and how many sockets there are. */
export interface VmFigures extends Pick<Vm, 'load' | 'memory' | 'process' | 'io' | 'eventLoop' | 'gc'> {
  ports(): Promise<{ 'ports/count': number; 'ports/limit': number }>
}
