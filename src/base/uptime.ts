/** How the broker tells of itself, in emqttd's form: to `broker-ctl broker` and under $SYS. */

export const description = 'tsmqttd MQTT Broker'

/** `1 hours, 25 minutes, 24 seconds`, emqttd's plural included. */
export function uptime(seconds: number): string {
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'days'],
    [Math.floor(seconds / 3600) % 24, 'hours'],
    [Math.floor(seconds / 60) % 60, 'minutes'],
    [seconds % 60, 'seconds']
  ]
  const first = parts.findIndex(([n]) => n > 0)
  return parts
    .slice(first === -1 ? 3 : first)
    .map(([n, unit]) => `${n} ${unit}`)
    .join(', ')
}

/** `2016-01-16 13:17:32`, in the time zone of this process. */
export function localTime(at: Date): string {
  const two = (n: number): string => String(n).padStart(2, '0')
  const day = [at.getFullYear(), two(at.getMonth() + 1), two(at.getDate())].join('-')
  return `${day} ${[at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(':')}`
}

/** The same of seconds since 1970. */
export const clock = (at: number): string => localTime(new Date(at * 1000))
