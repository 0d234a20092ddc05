"""Self-attentions of a UNet by name, whatever framework holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from jdx.errors import ConfigError, Fault

M = TypeVar("M")

STAGES = ("down_blocks", "mid_block", "up_blocks")
"""In the order of the pass; diffusers registers the middle last."""
DECODER_SLOTS = {str(i): f"up_blocks.{i // 3}.attentions.{i % 3}" for i in range(64)}
"""StyleID's numbers of decoder slots: 6 to 11 in the paper, 7 to 11 in its authors' program for diffusers."""


def in_order_of_pass(found: Mapping[str, M]) -> dict[str, M]:
    """Modules by path, encoder, middle, decoder; each stage in the order given."""
    return dict(sorted(found.items(), key=lambda item: STAGES.index(item[0].split(".")[0])))


def styleid_layers(paths: Sequence[str], names: Sequence[str | int]) -> tuple[str, ...]:
    """Full paths of StyleID's self-attentions among `paths`, in their order, each once.

    A name is a path (`up_blocks.2.attentions.1.transformer_blocks.0.attn1`), the beginning of one
    (`up_blocks.2.attentions.1`, `up_blocks.2`: all below it), or a number of `DECODER_SLOTS`.

    Raises: ConfigError naming every unknown layer and all that there are.
    """
    return named_layers(paths, names, DECODER_SLOTS, "layers", "StyleID settings")


def blend_layers(paths: Sequence[str], names: Sequence[str], direction: str) -> tuple[str, ...]:
    """Full paths of the self-attentions of one direction, "c2f" or "f2c"; none when no name is given.

    A name is a path or the beginning of one, or the place among all `paths` in the order of the pass, 0 to 15 in
    Stable Diffusion 1.x and 2.x: 0-5 are the encoder's, 6 the middle's, 7-15 the decoder's.

    Raises: ConfigError naming every unknown layer and all that there are.
    """
    numbers = {str(i): short(path) for i, path in enumerate(paths)}
    return (
        named_layers(paths, names, numbers, f"blend.{direction}.layers", "StyleBlend settings")
        if names
        else ()
    )


def named_layers(
    paths: Sequence[str], names: Sequence[str | int], numbers: Mapping[str, str], key: str, what: str
) -> tuple[str, ...]:
    """Full paths of the named layers, in the order of `paths`, each once.

    A name is a path, the beginning of one (all below it), or a number of `numbers`, {digits: path or beginning},
    given as an integer or its digits.

    Raises: ConfigError, key `key`, naming every unknown layer and all that there are.
    """
    prefixes = {name: numbers.get(str(name), str(name)) for name in names}
    unknown = [str(n) for n, prefix in prefixes.items() if not any(_below(p, prefix) for p in paths)]
    if unknown or not names:
        raise ConfigError([Fault(key, ", ".join(unknown), _valid(paths, numbers))], what)
    return tuple(p for p in paths if any(_below(p, prefix) for prefix in prefixes.values()))


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + ".")


def short(path: str) -> str:
    """A self-attention's place without the inner names: `up_blocks.2.attentions.1`."""
    return path.split(".transformer_blocks.")[0]


def _valid(paths: Sequence[str], numbers: Mapping[str, str]) -> str:
    shorts = list(dict.fromkeys(short(path) for path in paths))
    known = [number for number, prefix in numbers.items() if any(_below(p, prefix) for p in paths)]
    return f"name at least one of {', '.join(shorts)}; or by number: {', '.join(known) or 'none here'}"
