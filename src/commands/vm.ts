/** emqttd's `vm`: the machine under this broker is Node.js, and the figures are Node's. */
import type { Server } from '../server/server.js'
import { command, line } from './command.js'

/** emqttd's lines of the ports are two narrower. */
const print = (values: object): string =>
  Object.entries(values)
    .map(([name, value]) => line(name, value, name.startsWith('ports/') ? 22 : 24))
    .join('\n')

/** Sockets, of which each is a file too. */
const ports = async ({ clients, listeners, vm }: Server) => ({
  'ports/count': clients.connectionCount + listeners.length,
  'ports/limit': (await vm.io())['io/max_fds']
})

const all = async (server: Server) => ({
  ...server.vm.load(),
  ...server.vm.memory(),
  ...server.vm.process(),
  ...(await server.vm.io()),
  ...(await ports(server)),
  ...server.vm.eventLoop(),
  ...server.vm.gc()
})

export const vm = {
  vm: command({ summary: 'Show info of the Node.js VM', run: all, print }),
  'vm all': command({ summary: 'Show info of the Node.js VM', run: all, print }),
  'vm load': command({ summary: 'Show load of the host', run: ({ vm }) => vm.load(), print }),
  'vm memory': command({ summary: 'Show memory of the Node.js VM', run: ({ vm }) => vm.memory(), print }),
  'vm process': command({ summary: 'Show process of the Node.js VM', run: ({ vm }) => vm.process(), print }),
  'vm io': command({ summary: 'Show IO of the Node.js VM', run: ({ vm }) => vm.io(), print }),
  'vm ports': command({ summary: 'Show sockets of the Node.js VM', run: ports, print }),
  'vm eventloop': command({ summary: 'Show delays of the event loop', run: ({ vm }) => vm.eventLoop(), print }),
  'vm gc': command({ summary: 'Show garbage collections', run: ({ vm }) => vm.gc(), print })
}
