/** emqttd's `vm`: the machine under this broker is Node.js, and the figures are Node's. */
import type { VmFigures } from '../ops/operations.js'
import { command, line } from './command.js'

/** emqttd's lines of the ports are two narrower. */
const print = (values: object): string =>
  Object.entries(values)
    .map(([name, value]) => line(name, value, name.startsWith('ports/') ? 22 : 24))
    .join('\n')

const all = async (vm: VmFigures) => ({
  ...vm.load(),
  ...vm.memory(),
  ...vm.process(),
  ...(await vm.io()),
  ...(await vm.ports()),
  ...vm.eventLoop(),
  ...vm.gc()
})

export const vm = {
  vm: command({ summary: 'Show info of the Node.js VM', run: ({ vm }) => all(vm), print }),
  'vm all': command({ summary: 'Show info of the Node.js VM', run: ({ vm }) => all(vm), print }),
  'vm load': command({ summary: 'Show load of the host', run: ({ vm }) => vm.load(), print }),
  'vm memory': command({ summary: 'Show memory of the Node.js VM', run: ({ vm }) => vm.memory(), print }),
  'vm process': command({ summary: 'Show process of the Node.js VM', run: ({ vm }) => vm.process(), print }),
  'vm io': command({ summary: 'Show IO of the Node.js VM', run: ({ vm }) => vm.io(), print }),
  'vm ports': command({ summary: 'Show sockets of the Node.js VM', run: ({ vm }) => vm.ports(), print }),
  'vm eventloop': command({ summary: 'Show delays of the event loop', run: ({ vm }) => vm.eventLoop(), print }),
  'vm gc': command({ summary: 'Show garbage collections', run: ({ vm }) => vm.gc(), print })
}
