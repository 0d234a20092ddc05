"""Prompts that are longer than the text encoder reads: what is cut off, said once per prompt and process."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

log = logging.getLogger(__name__)

_said: set[tuple[str, int]] = set()


def cut_off(tokenizer: Any, prompt: str, limit: int) -> str:
    """The words of `prompt` beyond `limit` tokens, start and end marks included; empty when it fits."""
    ids = tokenizer(prompt, verbose=False).input_ids
    return str(tokenizer.decode(ids[limit - 1 : -1])) if len(ids) > limit else ""


def say_cuts(tokenizer: Any, prompts: Iterable[str], limit: int) -> None:
    """Warn of every prompt that is too long, with the words that the model will not see; each prompt once."""
    for prompt in prompts:
        if (prompt, limit) not in _said and (cut := cut_off(tokenizer, prompt, limit)):
            _said.add((prompt, limit))
            log.warning("prompt is longer than %d tokens; cut off: %r, of %r", limit, cut, prompt)
