/** `2016-01-16 13:17:32`, in the time zone of who reads it. @param at seconds since 1970. */
export function clock(at: number): string {
  const date = new Date(at * 1000)
  const two = (n: number): string => String(n).padStart(2, '0')
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join('-')
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':')}`
}
