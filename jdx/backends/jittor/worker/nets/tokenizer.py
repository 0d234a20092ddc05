"""CLIP's tokenizer (Radford et al. 2021) on the `tokenizers` library, with the ids of transformers' CLIPTokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from jdx.backends.layout import read_json
from jdx.errors import BackendError

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
"""What a word is: OpenAI's pattern."""
SPECIAL = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
"""CLIP's special tokens; a model's files may name others. Stable Diffusion 2.1 pads with "!"."""


class ClipTokenizer:
    """Texts to token ids. model_max_length: what the model's files say, without a limit if they are silent."""

    def __init__(self, folder: Path, added: Iterable[str] = ()):
        """The tokenizer of a model's folder, with further words.

        Raises: BackendError when the folder's files cannot be read.
        """
        about = _settings(folder)
        self.folder, self.added = folder, tuple(added)
        self.special = {name: _content(about.get(name, default)) for name, default in SPECIAL.items()}
        self.model_max_length = int(min(about.get("model_max_length", np.iinfo(np.int32).max), 2**31 - 1))
        try:
            self._fast = _whole(folder) or _built(folder, self.special)
            self._add_special(about)
        except Exception as error:  # `tokenizers` raises plain Exceptions
            raise BackendError(f"{folder} cannot be loaded: {error}") from error
        self._fast.add_tokens(list(self.added))

    def _add_special(self, about: Mapping[str, Any]) -> None:
        given = (about.get(name, default) for name, default in SPECIAL.items())
        self._fast.add_special_tokens([_added(token) for token in given])

    def __call__(self, texts: Sequence[str], length: int) -> npt.NDArray[np.int32]:
        """Token ids (n, length), start and end marks in, cut and padded."""
        self._fast.enable_truncation(length)
        pad = self.special["pad_token"]
        self._fast.enable_padding(length=length, pad_id=self.id_of(pad), pad_token=pad)
        ids = [encoding.ids for encoding in self._fast.encode_batch(list(texts))]
        return np.asarray(ids, np.int32).reshape(len(ids), length)

    def pieces(self, word: str) -> list[int]:
        """Token ids of a word without start and end marks."""
        self._fast.no_truncation()
        self._fast.no_padding()
        return list(self._fast.encode(word, add_special_tokens=False).ids)

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Ids of all tokens, added ones in."""
        return dict(self._fast.get_vocab())

    def id_of(self, token: str) -> int:
        """The id of one token as the vocabulary has it.

        Raises: KeyError when there is none.
        """
        found = self._fast.token_to_id(token)
        if found is None:
            raise KeyError(f"{self.folder} has no token {token!r}")
        return int(found)

    def __len__(self) -> int:
        """The number of tokens, added ones in."""
        return int(self._fast.get_vocab_size())

    def extended(self, words: Sequence[str]) -> ClipTokenizer:
        """A tokenizer that knows these words too, with ids from `len(self)` on, in their order."""
        return ClipTokenizer(self.folder, (*self.added, *words))


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json, in which older versions kept the special tokens."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            content, fault = read_json(folder / name)
            if content is None:
                raise BackendError(fault)
            found |= {key: value for key, value in content.items() if value is not None}
    return found


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _added(token: str | Mapping[str, Any]) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, normalized=False, special=True)
    flags = {key: bool(token.get(key, False)) for key in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(_content(token), special=True, **flags)


def _whole(folder: Path) -> Tokenizer | None:
    file = folder / "tokenizer.json"
    return Tokenizer.from_file(str(file)) if file.is_file() else None


def _built(folder: Path, special: Mapping[str, str]) -> Tokenizer:
    """The tokenizer of vocab.json and merges.txt, put together as transformers' CLIPTokenizer does."""
    bpe = models.BPE.from_file(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        fuse_unk=False,
        unk_token=special["unk_token"],
    )
    made = Tokenizer(bpe)
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    end, start = (_known(made, special[name]) for name in ("eos_token", "bos_token"))
    made.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    return made


def _known(tokenizer: Tokenizer, token: str) -> tuple[str, int]:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"vocab.json has no token {token!r}")
    return token, int(found)
