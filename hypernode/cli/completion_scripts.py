"""What shells source to complete `hypernode`: they ask the program itself (complete.py) and show what it says."""

from __future__ import annotations

from typing import Final

_BASH: Final = r"""# bash completion of hypernode: source it, or put it into
# ~/.local/share/bash-completion/completions/hypernode
_hypernode() {
    local line=${COMP_LINE:0:COMP_POINT} word value IFS=$' \t\n'
    local -a words
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[${#words[@]}-1]}
    COMPREPLY=()
    while IFS= read -r value; do
        case $value in
        :file) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$word")) ;;
        :dir) compopt -o filenames; COMPREPLY+=($(compgen -d -- "$word")) ;;
        *) COMPREPLY+=("${value%%$'\t'*}") ;;
        esac
    done < <("${words[0]}" __complete bash "${words[@]:1}" 2>/dev/null)
}
complete -F _hypernode hypernode
"""

_ZSH: Final = r"""#compdef hypernode
# zsh completion of hypernode: put it into a directory of $fpath as _hypernode, or source it after compinit
_hypernode() {
    local -a values shown
    local line value description width=0
    while IFS= read -r line; do
        case $line in
        :file) _files; continue ;;
        :dir) _files -/; continue ;;
        esac
        value=${line%%$'\t'*}
        description=${line#*$'\t'}
        values+=("$value")
        shown+=("$value  -- $description")
    done < <("${words[1]}" __complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#values} )) && compadd -U -l -d shown -a values
}
if [ "$funcstack[1]" = "_hypernode" ]; then _hypernode "$@"; else compdef _hypernode hypernode; fi
"""

_FISH: Final = r"""# fish completion of hypernode: put it into ~/.config/fish/completions/hypernode.fish
function __hypernode_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] __complete fish $words[2..-1] 2>/dev/null)
        switch $line
            case :file
                __fish_complete_path (commandline -ct)
            case :dir
                __fish_complete_directories (commandline -ct)
            case '*'
                echo $line
        end
    end
end
complete -c hypernode -f -a '(__hypernode_complete)'
"""

SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
