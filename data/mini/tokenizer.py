"""The small model's own CLIP tokenizer: byte-pair encoding (Sennrich et al. 2016) in CLIP's file format."""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

END = "</w>"
BOS, EOS, PAD = "<|startoftext|>", "<|endoftext|>", "!"
MODEL_MAX_LENGTH = 32

Word = tuple[str, ...]


def byte_letters() -> list[str]:
    """GPT-2's table: one printable letter for each of the 256 bytes, in CLIP's order ("!" is token 0)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in set(printable)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(hidden))]


def spell(word: str) -> Word:
    """A word as CLIP spells it: one letter per UTF-8 byte, the last one marked as the word's end."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in set(printable)]
    table = dict(zip([*printable, *hidden], byte_letters(), strict=True))
    letters = [table[b] for b in word.lower().encode()]
    return (*letters[:-1], letters[-1] + END)


def join(word: Word, pair: tuple[str, str]) -> Word:
    """The word with every occurrence of the pair made one symbol, from the left."""
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def learn_merges(words: Iterable[str], limit: int) -> list[tuple[str, str]]:
    """The most frequent pairs of the word list, in order; ties go by the alphabet, so the result is unique.

    Args:
        words: words with repetitions; more frequent ones become single tokens earlier.
        limit: most merges to learn. Learning also ends when every word is one token.
    """
    counts = Counter(w for w in words if w)
    spelt = {spell(word): n for word, n in sorted(counts.items())}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, n in spelt.items():
            for pair in pairwise(word):
                pairs[pair] += n
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        spelt = {join(word, best): n for word, n in spelt.items()}
    return merges


def vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """CLIP's order: 256 bytes, the same 256 as word ends, the merges, start and end of text."""
    letters = byte_letters()
    tokens = [*letters, *(c + END for c in letters), *("".join(m) for m in merges), BOS, EOS]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def make_tokenizer(words: Iterable[str], limit: int = 1000) -> CLIPTokenizer:
    """A CLIPTokenizer that spells any text, pads with "!" as SD 2.1's does, and holds 32 tokens."""
    merges = learn_merges(words, limit)
    return CLIPTokenizer(
        vocab=vocabulary(merges),
        merges=merges,
        unk_token=EOS,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MODEL_MAX_LENGTH,
    )


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and the older `vocab.json` + `merges.txt`, so that any release can read it."""
    tokenizer.save_pretrained(folder)
    backend = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in backend["merges"]]
    (folder / "vocab.json").write_text(json.dumps(backend["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
