"""What is the same in every backend whose models come in diffusers layout: their names and prompts, without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jdx.backends.base import Backend, ModelSpec, TokensSpec
from jdx.errors import Fault


class DiffusersBackend(Backend):
    """Looks at a model's configs and tokenizer with diffusers itself, whatever computes with its weights."""

    def name_faults(
        self,
        model: ModelSpec,
        targets: Mapping[str, Sequence[str]],
        layers: Mapping[str, Sequence[str]],
        tokens: Sequence[TokensSpec] = (),
    ) -> list[Fault]:
        """Targets, layers and words that the model lacks, see `torch.skeleton.name_faults`."""
        from jdx.backends.torch.skeleton import name_faults

        return name_faults(model, targets, layers, tokens)

    def say_long_prompts(
        self, model: ModelSpec, prompts: Sequence[str], tokens: Sequence[TokensSpec] = ()
    ) -> None:
        """Warn of prompts that would be cut, see `torch.skeleton.say_long_prompts`."""
        from jdx.backends.torch.skeleton import say_long_prompts

        say_long_prompts(model, prompts, tokens)
