"""`prompt.json`: an object of numbered prompts, each of which names one picture to draw."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.faults import Findings
from data.names import prompt_fault, same_name

LAYOUT = 'an object such as {"0": "Cat", "1": "Ice cream"} in UTF-8'


@dataclass(frozen=True)
class Prompt:
    """One prompt: its key in `prompt.json` and its text, which is also the picture's file stem."""

    key: str
    text: str


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its keys as written, so that a repeated key is seen."""


def read_prompts(path: Path, findings: Findings) -> tuple[Prompt, ...]:
    """Prompts of one `prompt.json` in numeric key order; everything wrong goes to `findings`."""
    pairs = _read_pairs(path, findings)
    first_key: dict[str, str] = {}
    prompts = []
    for key, text in pairs:
        if _usable(path, key, text, findings):
            prompts.append(Prompt(key, text))
    for prompt in prompts:
        other = first_key.setdefault(same_name(prompt.text), prompt.key)
        if other != prompt.key:
            what = f"prompts {other!r} and {prompt.key!r} are both {prompt.text!r}"
            findings.fault(path, what, f"both would be saved as {prompt.text}.png: change or remove one")
        if "." in prompt.text:
            findings.note(path, f"prompt {prompt.text!r} is cut at its first dot by the contest's CLIP-R")
    return tuple(sorted(prompts, key=_numeric_order))


def _read_pairs(path: Path, findings: Findings) -> _Pairs:
    try:
        raw = path.read_bytes()
        if raw.startswith(codecs.BOM_UTF8):
            findings.note(path, "begins with a byte order mark, which is skipped")
        document = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_Pairs)
    except OSError as error:
        findings.fault(path, f"cannot be read ({error.strerror})", "check the file and its permissions")
    except UnicodeDecodeError as error:
        findings.fault(path, f"is not UTF-8 (byte {error.start})", "save it as UTF-8")
    except json.JSONDecodeError as error:
        findings.fault(path, f"is not JSON (line {error.lineno}: {error.msg})", f"write {LAYOUT}")
    except RecursionError:
        findings.fault(path, "is nested too deeply", f"write {LAYOUT}")
    else:
        if isinstance(document, _Pairs) and document:
            _find_repeated_keys(path, document, findings)
            return document
        kind = "an empty object" if isinstance(document, _Pairs) else f"a {type(document).__name__}"
        findings.fault(path, f"holds {kind}", f"write {LAYOUT}")
    return _Pairs()


def _find_repeated_keys(path: Path, pairs: _Pairs, findings: Findings) -> None:
    keys = [key for key, _ in pairs]
    for key in dict.fromkeys(keys):
        if keys.count(key) > 1:
            what = f"key {key!r} occurs {keys.count(key)} times"
            findings.fault(path, what, "give each prompt a key of its own (most readers keep only the last)")


def _usable(path: Path, key: str, text: object, findings: Findings) -> bool:
    if not isinstance(text, str):
        kind = "an object" if isinstance(text, _Pairs) else json.dumps(text)
        findings.fault(path, f"prompt {key!r} is {kind}, not a text", f"write {LAYOUT}")
        return False
    why = prompt_fault(text)
    if why:
        shown = text if len(text) <= 60 else text[:57] + "..."
        remedy = "the prompt is also the picture's file name: use 1 to 100 plain characters"
        findings.fault(path, f"prompt {key!r} ({shown!r}) {why}", remedy)
    return why is None


def _numeric_order(prompt: Prompt) -> tuple[bool, int, str]:
    numeric = prompt.key.isascii() and prompt.key.isdigit() and len(prompt.key) < 20
    return (not numeric, int(prompt.key) if numeric else 0, prompt.key)
