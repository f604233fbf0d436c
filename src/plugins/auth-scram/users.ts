/** What `broker-ctl scram` is told of the users, and can do with them. */

export interface ScramUser {
  readonly username: string
  readonly iterations: number
  readonly superuser: boolean
}

export interface ScramUsers {
  list(): ScramUser[]
  /** Adds a user, or gives one another password. */
  add(username: string, password: string): Promise<void>
  remove(username: string): void
}
