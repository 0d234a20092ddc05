"""How often passes are recorded as CUDA graphs, for tests on a GPU: where none can be, drawing goes on without."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from jdx.backends.torch import recorded_pass
from jdx.backends.torch.recorded_pass import Graph, Work


def count_recordings(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """The recordings that are made from now on; those that fail are not among them."""
    made: list[Graph] = []
    capture = recorded_pass.capture

    def noted(work: Work, inputs: Sequence[Tensor], device: torch.device) -> Graph:
        made.append(capture(work, inputs, device))
        return made[-1]

    monkeypatch.setattr(recorded_pass, "capture", noted)
    return made
