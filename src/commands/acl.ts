import { command } from './command.js'

export const acl = {
  'acl reload': command({
    summary: 'reload etc/acl.conf',
    acts: true,
    run: ({ access }) => access.reloadAcl(),
    print: () => 'reload acl_internal successfully'
  })
}
