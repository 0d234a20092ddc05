"""Tab completion of `python -m jdx.train` in bash.

Hydra completes `python FILE.py` and installed commands; its script does not know `python -m MODULE`. The answers are
Hydra's, and for other shells so is the script.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

FLAGS = ("-sc", "--shell-completion")
SCRIPT = r"""_jdx_train()
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
"""For other uses of Python it leaves file names, as they were without it."""
_COMMAND = re.compile(r"^.*?\s-m\s+jdx\.train\s")


def asked(words: Sequence[str]) -> bool:
    """Whether the command is about completion, not about a trial."""
    return any(word in FLAGS for word in words)


def script(words: Sequence[str]) -> str | None:
    """What `-sc install=bash` and `-sc uninstall=bash` print; None: Hydra answers."""
    if "install=bash" in words:
        return SCRIPT
    return "complete -r python python3; unset -f _jdx_train" if "uninstall=bash" in words else None


def trim() -> None:
    """Leave of the line that is completed what Hydra can read: the settings, without flags."""
    line = os.environ.get("COMP_LINE", "")
    settings = re.sub(r"\s-\S+(?=\s)", " ", _COMMAND.sub(" ", line, count=1))
    os.environ["COMP_LINE"] = f"jdx {settings.lstrip()}"
