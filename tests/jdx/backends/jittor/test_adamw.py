"""The optimiser of Jittor's worker where an adapter is as large as a real one."""

from __future__ import annotations

import json

import numpy as np

from tests.jdx.backends.jittor.conftest import Run

CLIPPED = """
import json
import jittor as jt, numpy as np
from jdx.backends.jittor.worker.jobs.adamw import Knobs, StackedAdamW, square_sums
from jdx.backends.windows import Window
P = 2**22 + 5
grad = np.random.default_rng(0).standard_normal((2, P)).astype(np.float32)
knobs = Knobs({"unet": [0.1, 0.1]}, {"unet": [0.0, 0.0]}, [1.0, np.inf], {"unet": Window()})
optimiser = StackedAdamW({"unet": jt.zeros((2, P))}, knobs)
optimiser.step({"unet": jt.array(grad)}, np.ones(2, np.float32), {"unet": 1.0})
small = [square_sums(jt.array(grad[:, :n])).tolist() for n in (1, 1023, 1024, 1025)]
print(json.dumps([optimiser.m["unet"].numpy()[:, :3].tolist(), small]))
"""


def test_a_large_gradient_is_clipped_by_its_own_norm(run_in_jittor: Run) -> None:
    """Added up in one float32, as by Jittor's own sum, its norm is 0.2 % too small; torch's clipping is the rule."""
    first, small = json.loads(run_in_jittor(CLIPPED).splitlines()[-1])
    grad = np.random.default_rng(0).standard_normal((2, 2**22 + 5)).astype(np.float32).astype(np.float64)
    norm = np.linalg.norm(grad[0])
    np.testing.assert_allclose(first[0], 0.1 * grad[0, :3] / (norm + 1e-6), rtol=1e-5)
    np.testing.assert_allclose(first[1], 0.1 * grad[1, :3], rtol=1e-5)  # not clipped
    for n, sums in zip((1, 1023, 1024, 1025), small, strict=True):
        np.testing.assert_allclose(sums, (grad[:, :n] ** 2).sum(1), rtol=1e-5)
