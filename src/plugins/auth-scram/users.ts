/** What `broker-ctl scram` is told of the users. */

export interface ScramUser {
  readonly username: string
  readonly iterations: number
  readonly superuser: boolean
}
