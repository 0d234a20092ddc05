"""What is wrong with the steps in which the parts of a trial's adapters learn."""

from __future__ import annotations

from jdx.errors import Fault
from jdx.schema import TrialConfig


def window_faults(trial: TrialConfig) -> list[Fault]:
    """Nothing to train, networks that never begin, and steps in which nothing learns."""
    method, steps = trial.method, trial.train.steps
    if not method.train:
        allowed = "has no effect without training: 0, or method.train=true"
        return (
            [Fault("method.tokens.vectors", str(method.tokens.vectors), allowed)]
            if method.tokens.vectors
            else []
        )
    begins = {
        name: getattr(trial.optim, name).start_step
        for name in ("unet", "text_encoder")
        if getattr(trial.lora, name).rank
    }
    faults = []
    for name, start in begins.items():
        if start >= steps:
            allowed = f"must be below train.steps = {steps}, or this network's adapter never learns"
            faults.append(Fault(f"optim.{name}.start_step", str(start), allowed))
    if not begins and not method.tokens.vectors and not method.enhancer.enabled:
        allowed = (
            "nothing would be trained: give lora.rank, lora.text_encoder.rank or method.tokens.vectors at least 1, "
            "or use method=base"
        )
        return [Fault("lora.unet.rank", "0", allowed)]
    return faults or ([] if method.enhancer.enabled else _idle(trial, begins))


def _idle(trial: TrialConfig, begins: dict[str, int]) -> list[Fault]:
    """Steps after the word's last one and before the first network's first one."""
    tokens, first = trial.method.tokens, min(begins.values(), default=trial.train.steps)
    learnt = (tokens.steps or trial.train.steps) if tokens.vectors else 0
    if first <= learnt:
        return []
    where = "optim.unet.start_step" if "unet" in begins else "optim.text_encoder.start_step"
    if not begins:
        allowed = f"nothing would learn after it: null, or at least train.steps = {trial.train.steps}"
        return [Fault("method.tokens.steps", str(tokens.steps), allowed)]
    allowed = f"nothing would learn in steps {learnt + 1} to {first}: at most {learnt}"
    return [Fault(where, str(getattr(trial.optim, where.split(".")[1]).start_step), allowed)]
