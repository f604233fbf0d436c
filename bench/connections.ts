/**
 * Opens connections, a bounded number at a time, and holds them: each a client with a
 * session that says nothing more. A worker thread; it says when all are in.
 */
import { connect } from 'node:net'
import { parentPort, workerData } from 'node:worker_threads'
import { connectPacket } from './load.js'

const { port, count } = workerData as { port: number; count: number }
const atOnce = 100

async function open(i: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    socket.once('error', reject)
    socket.once('close', () => reject(new Error('the broker closed a connection')))
    socket.once('connect', () => socket.write(connectPacket(`bench-idle-${i}`, 4)))
    socket.once('data', (connack: Buffer) => (connack[3] === 0 ? resolve() : reject(new Error('refused'))))
  })
}

let next = 0
await Promise.all(
  Array.from({ length: atOnce }, async () => {
    while (next < count) await open(next++)
  })
)
parentPort!.postMessage('open')
