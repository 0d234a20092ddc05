"""What a job says while it works, one JSON line each."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TextIO


class Answers:
    """The worker's end of the pipe of answers. Safe to use from several threads."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._lock = threading.Lock()

    def say(self, what: str, /, **content: Any) -> None:
        """Send one line. Raises: TypeError (not JSON), OSError (nobody listens any more)."""
        line = json.dumps({"say": what, **content})
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


class Tell:
    """What a job may say, and the few things it is told beside its record.

    inputs: the order's folder, with the files that came with the job (generate: noise.safetensors). device: cpu or
    cuda. dtype: of the networks, "float32".
    """

    def __init__(self, answers: Answers, inputs: Path, device: str = "cpu", dtype: str = "float32"):
        self._answers = answers
        self.inputs, self.device, self.dtype = inputs, device, dtype

    def progress(self, name: str, total: int) -> None:
        """Begin a task of `total` units; the one before it ends."""
        self._answers.say("task", name=name, total=total)

    def advance(self, n: int = 1, **fields: float | str) -> None:
        """Count n more units done; fields, such as loss=0.12, are shown beside the count."""
        self._answers.say("advance", n=n, fields=fields)

    def style(self, style: str, folder: Path) -> None:
        """Hand over a style's finished folder: whoever hears it may move it at once."""
        self._answers.say("style", style=style, folder=str(folder))

    def snapshot(self, style: str, step: int, folder: Path) -> None:
        """Hand over a style's finished snapshot, like `style`."""
        self._answers.say("snapshot", style=style, step=step, folder=str(folder))

    def losses(self, step: int, losses: Mapping[str, float]) -> None:
        """Mean loss of each style since the last call."""
        self._answers.say("losses", step=step, losses=dict(losses))

    def log(self, text: str, level: Literal["info", "warning"] = "info") -> None:
        """A line of the trial's log."""
        self._answers.say("log", text=text, level=level)
