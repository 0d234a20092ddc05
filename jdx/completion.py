"""Tab completion of `python -m jdx.train` in bash, zsh and fish.

Hydra completes `python FILE.py` and installed commands; its scripts do not know `python -m MODULE`. The answers are
Hydra's. For other uses of Python all three leave what was offered without them: file names in bash, the shell's own
completion of Python in zsh and fish.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

FLAGS = ("-sc", "--shell-completion")
BASH = r"""_jdx_train()
{
    COMPREPLY=()
    local line=${COMP_LINE:0:COMP_POINT}
    [[ $line =~ ^[[:space:]]*([^[:space:]]+)[[:space:]]+-m[[:space:]]+jdx\.train[[:space:]] ]] || return 0
    local python=${BASH_REMATCH[1]/#\~/$HOME}
    local found=$(COMP_LINE=$line "$python" -m jdx.train -sc query=bash 2>/dev/null)
    COMPREPLY=($(compgen -W "$found" -- "${line##*[[:space:]]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _jdx_train python python3"""
ZSH = r"""_jdx_train()
{
    if [[ $words[2] != -m || $words[3] != jdx.train || $CURRENT -lt 4 ]]; then
        if (( $+functions[_python] )); then _python "$@"; else _default "$@"; fi
        return
    fi
    local line="${words[1,CURRENT-1]} $PREFIX"
    compadd -S '' -- ${(f)"$(COMP_LINE=$line ${~words[1]} -m jdx.train -sc query=fish 2>/dev/null)"}
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _jdx_train python python3"""
"""Asks as fish does, which gets an answer per line: names of files may hold blanks."""
FISH = r"""function _jdx_train_asked
    string match -qr '\s-m\s+jdx\.train\s' -- (commandline -cp)
end
function _jdx_train
    set -l line (commandline -cp)
    set -l python (string match -r '(\S+)\s+-m\s+jdx\.train\s' -- $line)[2]
    set python (string replace -r '^~' $HOME -- $python)
    for found in (COMP_LINE="$line" $python -m jdx.train -sc query=fish 2>/dev/null)
        # A folder's name ends in a slash, after which fish puts no blank.
        set -l path (string match -r '=([./].*)' -- $found)[2]
        if test -n "$path" -a -d "$path"
            echo $found/
        else
            echo $found
        end
    end
end
complete -c python -c python3 -n _jdx_train_asked -f -a '(_jdx_train)'"""
SCRIPTS = {
    "install=bash": BASH,
    "install=zsh": ZSH,
    "install=fish": FISH,
    "uninstall=bash": "complete -r python python3; unset -f _jdx_train",
    "uninstall=zsh": "compdef -d python python3; unfunction _jdx_train\n"
    "if (( $+functions[_python] )); then compdef _python python python3; fi",
    "uninstall=fish": "function _jdx_train_asked; false; end; functions -e _jdx_train",
}
_COMMAND = re.compile(r"^.*?\s-m\s+jdx\.train\s")


def asked(words: Sequence[str]) -> bool:
    """Whether the command is about completion, not about a trial."""
    return any(word in FLAGS for word in words)


def script(words: Sequence[str]) -> str | None:
    """What `-sc install=SHELL` and `-sc uninstall=SHELL` print; None: Hydra answers."""
    return next((SCRIPTS[word] for word in words if word in SCRIPTS), None)


def trim() -> None:
    """Leave of the line that is completed what Hydra can read: the settings, without flags."""
    line = os.environ.get("COMP_LINE", "")
    settings = re.sub(r"\s-\S+(?=\s)", " ", _COMMAND.sub(" ", line, count=1))
    os.environ["COMP_LINE"] = f"jdx {settings.lstrip()}"
