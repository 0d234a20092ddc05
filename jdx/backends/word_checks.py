"""Faults of words that are to be learnt, whichever tokenizer is asked."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from jdx.backends.base import TokensSpec
from jdx.backends.word_files import names_of
from jdx.errors import Fault


def name_faults(known: Container[str], words: Iterable[Sequence[str]]) -> list[Fault]:
    """Names that the tokenizer already has (known: its vocabulary), or that two words share (it ignores case)."""
    faults: list[Fault] = []
    seen: set[str] = set()
    for name in (name for names in words for name in names):
        if name in known:
            allowed = "this model's tokenizer already has this word: a learnt word needs a name of its own"
            faults.append(Fault("tokens.token", name, allowed))
        elif name.casefold() in seen:
            faults.append(
                Fault("tokens.token", name, "two words of this name, whatever its case: rename a style")
            )
        seen.add(name.casefold())
    return faults


def word_faults(
    known: Container[str],
    pieces: Mapping[str, Sequence[int]],
    unknown: int,
    room: int,
    specs: Sequence[TokensSpec],
) -> list[Fault]:
    """Faults of words that are to be learnt, keys `tokens.token`, `tokens.init` and `tokens.vectors`.

    known: the vocabulary; pieces: token ids of each `init`; unknown: the id of what cannot be spelt; room: places of a
    prompt without its start and end marks.
    """
    faults = name_faults(known, [names_of(spec.token, spec.vectors) for spec in specs])
    for init in dict.fromkeys(spec.init for spec in specs):
        if not pieces[init] or unknown in pieces[init]:
            allowed = "this model's tokenizer cannot spell it: give a word, such as style"
            faults.append(Fault("tokens.init", repr(init), allowed))
    if (most := max((spec.vectors for spec in specs), default=0)) > room:
        allowed = f"at most {room}: a prompt of this model has no room for more"
        faults.append(Fault("tokens.vectors", str(most), allowed))
    return faults
