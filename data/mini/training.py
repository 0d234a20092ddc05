"""One training stage: AdamW, warm-up and cosine, averaged weights, and a checkpoint to resume from."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Losses = Mapping[str, Tensor]


class OutOfTime(Exception):
    """The deadline came before the stage's end; its checkpoint is written, the same call again goes on."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast one stage trains: it ends at `steps` or after `seconds`, whichever comes first.

    The learning rate follows the larger of the two shares done, so it always ends at zero.

    Raises:
        ValueError: a number outside its range.
    """

    steps: int
    seconds: float
    batch: int
    lr: float
    warmup: float = 0.03
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    save_every: float = 90.0

    def __post_init__(self) -> None:
        bad = [k for k in ("steps", "seconds", "batch", "lr") if getattr(self, k) <= 0]
        if bad or not 0 <= self.ema < 1:
            raise ValueError(f"plan {self}: {', '.join(bad) or 'ema'} out of range (positive; 0 <= ema < 1)")

    def factor(self, done: float) -> float:
        """Learning-rate factor at the share `done` in [0, 1]: linear warm-up, then half a cosine."""
        if done < self.warmup:
            return done / self.warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - self.warmup) / (1 - self.warmup))))


def generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator for one (seed, stage, step): draws do not depend on where a run was interrupted."""
    state = 0
    for part in key:
        state = (state * 1_000_003 + part + 1) % (2**63 - 25)
    return torch.Generator(device).manual_seed(state)


class Stage:
    """Trains `modules` together; `fit` may be interrupted at any time and called again in a new process."""

    def __init__(
        self,
        name: str,
        modules: Mapping[str, nn.Module],
        plan: Plan,
        folder: Path,
        deadline: float | None = None,
    ) -> None:
        self.name, self.plan, self.deadline = name, plan, deadline
        self.modules = nn.ModuleDict(modules)
        self.file = folder / f"{name}.checkpoint.pt"
        self.log = folder / f"{name}.log.jsonl"
        self.params = [p for p in self.modules.parameters() if p.requires_grad]
        self.device = self.params[0].device
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=plan.lr, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=fused
        )
        self.average = [p.detach().clone() for p in self.params]
        self.step, self.elapsed = 0, 0.0
        if self.file.exists():
            self._load()

    def _groups(self) -> list[dict[str, Any]]:
        # Gains, offsets and temperatures are not decayed: zero is no neutral value for them.
        return [
            {"params": [p for p in self.params if p.ndim > 1]},
            {"params": [p for p in self.params if p.ndim <= 1], "weight_decay": 0.0},
        ]

    @property
    def done(self) -> float:
        """The share of the plan that is behind us, in [0, 1]."""
        return min(1.0, max(self.step / self.plan.steps, self.elapsed / self.plan.seconds))

    def fit(self, losses: Callable[[int], Losses]) -> None:
        """Run to the end of the plan. `losses(step)` gives named terms, of which "loss" is minimised.

        Raises:
            OutOfTime: `deadline` (of `time.monotonic`) passed; a checkpoint was written first.
            FloatingPointError: the gradient is not finite.
        """
        begin, saved = time.monotonic() - self.elapsed, time.monotonic()
        while self.done < 1:
            terms = losses(self.step)
            self._update(terms["loss"])
            if self.step % 100 == 0 or self.step == 10:
                self._report(terms)
            if self.step % 20 == 0:
                self.elapsed = time.monotonic() - begin
            if self.deadline is not None and time.monotonic() > self.deadline:
                self.elapsed = time.monotonic() - begin
                self._save()
                raise OutOfTime(f"stage {self.name} at {self.done:.0%}, step {self.step}")
            if time.monotonic() - saved > self.plan.save_every:
                self._save()
                saved = time.monotonic()
        self._save()

    def _update(self, loss: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr * self.plan.factor(self.done)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.params, self.plan.clip, foreach=True)
        if self.step % 100 == 0 and not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"{self.name}: gradient is {float(norm)} at step {self.step}")
        self.optimizer.step()
        self.step += 1
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.params], 1 - decay)

    def _report(self, terms: Losses) -> None:
        row = {"step": self.step, "seconds": round(self.elapsed, 1)}
        row |= {key: round(float(value), 5) for key, value in terms.items()}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")
        print(self.name, row, flush=True)

    def averaged(self) -> nn.ModuleDict:
        """The modules with the averaged weights in place (the running weights are lost)."""
        with torch.no_grad():
            for p, mean in zip(self.params, self.average, strict=True):
                p.copy_(mean)
        return self.modules.eval()

    def _save(self) -> None:
        state = {
            "modules": self.modules.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }
        beside = self.file.with_suffix(".part")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, beside)
        os.replace(beside, self.file)

    def _load(self) -> None:
        state = torch.load(self.file, map_location=self.device, weights_only=True)
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = [a.to(self.device) for a in state["average"]]
        self.step, self.elapsed = state["step"], state["elapsed"]


class Shuffle:
    """Index batches by step: each epoch is a permutation of n, its incomplete last batch is dropped."""

    def __init__(self, n: int, size: int, seed: int, device: torch.device) -> None:
        self.n, self.size, self.seed, self.device = n, min(size, n), seed, device
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.n // self.size)
        if epoch != self._epoch:
            rng = generator(self.device, self.seed, epoch)
            self._epoch, self._order = epoch, torch.randperm(self.n, generator=rng, device=self.device)
        return self._order[place * self.size : (place + 1) * self.size]


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU, plain float32 on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
