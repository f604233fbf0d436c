/**
 * Completion for bash, zsh and fish: scripts made of commander's own tree, so that they
 * know what the program knows. Words, options and their choices stand in the script;
 * names that only a running broker knows are asked of it by `broker-ctl __complete`.
 */
import type { Command as Program } from 'commander'
import { BrokerError } from '../base/errors.js'

export const shells = ['bash', 'zsh', 'fish'] as const

export function completion(root: Program, shell: string): string {
  const known = shells.find(s => s === shell)
  if (known === undefined)
    throw new BrokerError('BAD_REQUEST', `no such shell: ${shell}; there are ${shells.join(', ')}`)
  const tree = treeOf(root)
  return { bash, zsh, fish }[known](root.name(), tree)
}

// ── the tree ─────────────────────────────────────────────────────────────────

/** What may stand in a place. */
type Value =
  | { readonly is: 'choices'; readonly choices: readonly string[] }
  | { readonly is: 'asked'; readonly kind: string }
  | { readonly is: 'directory' }
  | { readonly is: 'free' }

interface Option {
  /** `-t`, `--timeout`. */
  readonly names: readonly string[]
  readonly summary: string
  /** Undefined when it takes none. */
  readonly value: Value | undefined
}

interface Place {
  /** The words that lead here: `clients show`; empty at the root. */
  readonly at: string
  readonly words: readonly { readonly word: string; readonly summary: string }[]
  readonly options: readonly Option[]
  /** Of each argument in turn. */
  readonly values: readonly Value[]
}

/** What an argument's name says of its values. */
const asked: Readonly<Record<string, string>> = {
  clientId: 'clients',
  plugin: 'plugins',
  key: 'keys',
  listener: 'listeners',
  target: 'targets'
}
const listed: Readonly<Record<string, readonly string[]>> = {
  access: ['full', 'read'],
  level: ['debug', 'info', 'warning', 'error', 'critical'],
  shell: shells
}

function valueNamed(name: string, given: readonly string[] | undefined): Value {
  const choices = given ?? (Object.hasOwn(listed, name) ? listed[name] : undefined)
  if (choices !== undefined) return { is: 'choices', choices }
  if (Object.hasOwn(asked, name)) return { is: 'asked', kind: asked[name]! }
  return name === 'dir' ? { is: 'directory' } : { is: 'free' }
}

function treeOf(root: Program): Place[] {
  const help = root.createHelp()
  const optionsOf = (program: Program): Option[] =>
    help.visibleOptions(program).map(({ short, long, description, required, optional, argChoices, flags }) => ({
      names: [short, long].filter(name => name !== undefined),
      summary: description,
      value: required || optional ? valueNamed(/[<[](\w+)/.exec(flags)?.[1] ?? '', argChoices) : undefined
    }))
  const everywhere = optionsOf(root)
  const places: Place[] = []
  const walk = (program: Program, at: string): void => {
    const children = help.visibleCommands(program).filter(child => child.name() !== 'help' || at === '')
    const own = optionsOf(program)
    places.push({
      at,
      words: children.map(child => ({ word: child.name(), summary: child.description() || `${child.name()} …` })),
      options: [...own, ...everywhere.filter(o => !own.some(each => each.names.some(n => o.names.includes(n))))],
      // A group takes its words as arguments, to say which of them it does not know.
      values: children.length > 0 ? [] : program.registeredArguments.map(a => valueNamed(a.name(), a.argChoices))
    })
    for (const child of children) walk(child, at === '' ? child.name() : `${at} ${child.name()}`)
  }
  walk(root, '')
  return places
}

/** The options that take a value, over all places, by name. */
const withValue = (tree: readonly Place[]): string[] => [
  ...new Set(tree.flatMap(p => p.options.flatMap(o => (o.value === undefined ? [] : o.names))))
]

// ── the scripts ──────────────────────────────────────────────────────────────

const functionName = (program: string): string => `_${program.replaceAll('-', '_')}`
/** For any of the three shells, which agree on single quotes but for fish's backslash. */
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`
const lines = (items: readonly string[]): string => quoted(items.join('\n'))
const indent = (text: readonly string[], by: string): string => text.map(line => by + line).join('\n')

/** The arms of `case "$at/$arg"` and of `case "$at $expects"`, which bash and zsh share. */
function arms(tree: readonly Place[], words: (place: Place) => string): { places: string[]; values: string[] } {
  const action = (value: Value): string | undefined => {
    if (value.is === 'choices') return `list=${lines(value.choices)}`
    if (value.is === 'asked') return `list=$("$program" "\${home[@]}" __complete ${value.kind} "$cur" 2>/dev/null)`
    return value.is === 'directory' ? 'directories=1' : undefined
  }
  const places: string[] = []
  const values: string[] = []
  for (const place of tree) {
    if (place.words.length > 0) places.push(`${quoted(`${place.at}/0`)}) ${words(place)} ;;`)
    for (const [i, value] of place.values.entries()) {
      const what = action(value)
      if (what !== undefined) places.push(`${quoted(`${place.at}/${i}`)}) ${what} ;;`)
    }
    for (const { names, value } of place.options) {
      const what = value === undefined ? undefined : action(value)
      if (what === undefined) continue
      values.push(`${names.map(name => quoted(`${place.at}/${name}`)).join(' | ')}) ${what} ;;`)
    }
  }
  return { places, values }
}

const leading = (tree: readonly Place[]): string => `|${tree.map(p => p.at).join('|')}|`

/** Finds out where the cursor is: `at` the words so far, `arg` how many arguments, `expects` an option's value. */
const walking = (tree: readonly Place[]): string => `    if [[ -n $expects ]]; then
      [[ $expects == --home ]] && home=(--home "$word")
      expects=
      continue
    fi
    case "$word" in
      --home=*) home=("$word") ;;
      ${withValue(tree).join(' | ')}) expects=$word ;;
      -*) ;;
      *)
        next="\${at:+$at }$word"
        if [[ ${quoted(leading(tree))} == *"|$next|"* ]]; then
          at=$next
        else
          arg=$((arg + 1))
        fi
        ;;
    esac`

/** What may stand at the cursor: a value of the option before it, an option, or a word. */
const choosing = (values: string[], options: string[], places: string[]): string => `  if [[ -n $expects ]]; then
    case "$at/$expects" in
${indent(values, '      ')}
    esac
  elif [[ $cur == -* ]]; then
    case "$at" in
${indent(options, '      ')}
    esac
  else
    case "$at/$arg" in
${indent(places, '      ')}
    esac
  fi`

function bash(program: string, tree: readonly Place[]): string {
  const { places, values } = arms(tree, p => `list=${lines(p.words.map(w => w.word))}`)
  const options = tree.map(p => `${quoted(p.at)}) list=${lines(p.options.flatMap(o => o.names))} ;;`)
  return `# bash completion for ${program}: source <(${program} completion bash)
${functionName(program)}() {
  local program="\${1/#\\~/$HOME}" cur='' at='' expects='' arg=0 list='' directories='' next word i line colon
  local home=() words=()
  COMPREPLY=()
  # bash breaks words at colons and equal signs.
  for ((i = 1; i <= COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    if ((\${#words[@]} > 0)) && [[ $word == [:=]* || \${words[\${#words[@]} - 1]} == *[:=] ]]; then
      words[\${#words[@]} - 1]+=$word
    else
      words+=("$word")
    fi
  done
  cur=\${words[\${#words[@]} - 1]}
  for word in "\${words[@]:0:\${#words[@]}-1}"; do
${walking(tree)}
  done
${choosing(values, options, places)}
  if [[ -n $directories ]]; then
    compopt -o filenames 2>/dev/null
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "$cur")
    return
  fi
  colon=''
  [[ $COMP_WORDBREAKS == *:* ]] && colon=\${cur%"\${cur##*:}"}
  while IFS= read -r line; do
    [[ -n $line && $line == "$cur"* ]] || continue
    line=\${line#"$colon"}
    [[ $line =~ ^[A-Za-z0-9_./:@%+,=-]*$ ]] || printf -v line '%q' "$line"
    COMPREPLY+=("$line")
  done <<<"$list"
}
complete -F ${functionName(program)} ${program}`
}

function zsh(program: string, tree: readonly Place[]): string {
  const entry = (name: string, summary: string): string => `${name.replaceAll(':', '\\:')}:${summary}`
  const described = (items: readonly string[]): string => `described=(${items.map(quoted).join(' ')})`
  const { places, values } = arms(tree, p => described(p.words.map(w => entry(w.word, w.summary))))
  const options = tree.map(
    p => `${quoted(p.at)}) ${described(p.options.flatMap(o => o.names.map(n => entry(n, o.summary))))} ;;`
  )
  return `#compdef ${program}
# zsh completion for ${program}: source <(${program} completion zsh)
${functionName(program)}() {
  local program=\${words[1]/#\\~/$HOME} cur=\${words[CURRENT]} at='' expects='' arg=0 list='' directories='' next word
  local -a home described
  for word in "\${(@)words[2,CURRENT-1]}"; do
${walking(tree)}
  done
${choosing(values, options, places)}
  if [[ -n $directories ]]; then
    _files -/
  elif ((\${#described} > 0)); then
    _describe ${quoted(program)} described
  elif [[ -n $list ]]; then
    compadd -- "\${(@f)list}"
  fi
}
if [[ \${funcstack[1]} == ${functionName(program)} ]]; then
  ${functionName(program)} "$@"
else
  compdef ${functionName(program)} ${program}
fi`
}

function fish(program: string, tree: readonly Place[]): string {
  const name = `_${functionName(program)}`
  const text = (s: string): string => `'${s.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
  const out: string[] = []
  const offer = (value: Value): string | undefined => {
    if (value.is === 'choices') return `-a ${text(value.choices.join(' '))}`
    if (value.is === 'asked') return `-a '(${name}_ask ${value.kind})'`
    return value.is === 'directory' ? `-a '(__fish_complete_directories)'` : undefined
  }
  for (const { at, words, options, values } of tree) {
    const here = (arg: number | 'any'): string => `-n ${text(`${name}_is ${text(at)} ${arg}`)}`
    for (const { word, summary } of words)
      out.push(`complete -c ${program} ${here(0)} -a ${text(word)} -d ${text(summary)}`)
    for (const [i, value] of values.entries()) {
      const what = offer(value)
      if (what !== undefined) out.push(`complete -c ${program} ${here(i)} ${what}`)
    }
    for (const { names, summary, value } of options) {
      const flags = names.map(n => (n.startsWith('--') ? `-l ${n.slice(2)}` : `-s ${n.slice(1)}`)).join(' ')
      const what = value === undefined ? '' : ` -x ${offer(value) ?? ''}`
      out.push(`complete -c ${program} ${here('any')} ${flags} -d ${text(summary)}${what}`)
    }
  }
  return `# fish completion for ${program}: ${program} completion fish | source
function ${name}_walk
    set -l at
    set -l arg 0
    set -l expects
    set -g ${name}_home
    for word in (commandline -opc)[2..-1]
        if test -n "$expects"
            test "$expects" = --home; and set -g ${name}_home --home $word
            set expects
            continue
        end
        switch $word
            case '--home=*'
                set -g ${name}_home $word
            case ${withValue(tree).map(text).join(' ')}
                set expects $word
            case '-*'
            case '*'
                set -l next (string join ' ' $at $word)
                if contains -- $next ${tree
                  .filter(p => p.at !== '')
                  .map(p => text(p.at))
                  .join(' ')}
                    set at $at $word
                else
                    set arg (math $arg + 1)
                end
        end
    end
    echo "$at"
    echo $arg
end
function ${name}_is
    set -l where (${name}_walk)
    test "$where[1]" = $argv[1]; and test $argv[2] = any -o "$where[2]" = $argv[2]
end
function ${name}_ask
    ${name}_walk >/dev/null
    set -l program (commandline -opc)[1]
    $program $${name}_home __complete $argv[1] (commandline -ct) 2>/dev/null
end
complete -c ${program} -f
${out.join('\n')}`
}
