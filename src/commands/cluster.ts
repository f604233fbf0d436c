/** What emqttd's cluster and bridges are to a broker that is one node and has none. */
import { command } from './command.js'

export const cluster = {
  'cluster status': command({
    summary: 'Cluster status',
    run: ({ broker }) => ({ running_nodes: [broker.state().node], stopped_nodes: [] as string[] }),
    print: ({ running_nodes }) => `Cluster status: [{running_nodes,[${running_nodes.map(n => `'${n}'`).join(',')}]}]`
  })
}

export const bridges = {
  'bridges list': command({ summary: 'List bridges', run: () => [] as object[] })
}
