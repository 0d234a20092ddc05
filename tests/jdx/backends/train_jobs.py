"""Small training jobs, and one adapter's training written with PEFT, diffusers and PyTorch alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from jdx import draws
from jdx.backends.base import AdapterSpec, EnhancerSpec, LoraSpec, TokensSpec, TrainJob, TrainOutcome
from jdx.backends.torch.models import Models
from jdx.backends.torch.training import train
from jdx.progress import NullProgress

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "v_proj", "fc1")
NONE = LoraSpec(0, 1.0, ())
PICTURES, VARIANTS, SIZE = 3, 2, 8

THREE = (
    AdapterSpec("00", ("a cat", "a dog", "an owl"), 1, LoraSpec(2, 4.0, ATTENTION), NONE, 2e-3, 0.0),
    AdapterSpec(
        "05", ("a cat", "a hat", "a cup"), 2, LoraSpec(4, 4.0, ATTENTION), NONE, 1e-3, 0.0, 0.1, 0.05
    ),
    AdapterSpec("11", ("a pen", "a pot", "an ant"), 1, LoraSpec(3, 1.0, ("to_q", "to_v")), NONE, 4e-3, 0.0),
)


def with_prior(adapter: AdapterSpec, weight: float = 0.7) -> AdapterSpec:
    """With class pictures of two words, two and one of them."""
    return replace(adapter, prior_captions=("a thing", "a thing", "a being"), prior_weight=weight)


def with_share(adapter: AdapterSpec, fraction: float = 0.5) -> AdapterSpec:
    return replace(with_prior(adapter, 0.0), prior_fraction=fraction)


def with_text(adapter: AdapterSpec, rank: int = 2) -> AdapterSpec:
    return replace(adapter, text_encoder=LoraSpec(rank, 3.0, TEXT), text_encoder_lr=3e-3)


def with_enhancer(adapter: AdapterSpec, zero: Literal["first", "last"] = "first") -> AdapterSpec:
    """With a bias large enough to matter, and a rate of its own."""
    return replace(adapter, enhancer=EnhancerSpec(0.5, 5e-3, zero))


def with_word(adapter: AdapterSpec, vectors: int = 1, **settings: Any) -> AdapterSpec:
    """The adapter with a word of its own in its captions."""
    word = TokensSpec(f"<style_{adapter.style}>", vectors, **{"init": "e", "lr": 5e-3, **settings})
    captions = tuple(f"{caption} in {word.token}, drawn" for caption in adapter.captions)
    return replace(adapter, captions=captions, tokens=word)


def only_word(adapter: AdapterSpec, vectors: int = 1, **settings: Any) -> AdapterSpec:
    return with_word(replace(adapter, unet=NONE, text_encoder=NONE), vectors, **settings)


def write_moments(folder: Path, name: str, pictures: int) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng([ord(letter) for letter in name])
    shape = (pictures, VARIANTS, 4, SIZE, SIZE)
    mean = (rng.normal(size=shape) * 4).astype(np.float32)
    std = (np.abs(rng.normal(size=shape)) * 0.2).astype(np.float32)
    save_file({"mean": mean, "std": std}, folder / "moments.safetensors")
    return folder


@dataclass
class Moments:
    """Random moments of any style, made once."""

    root: Path
    known: dict[str, Path] = field(default_factory=dict)

    def of(self, style: str, pictures: int = PICTURES) -> Path:
        """Three pictures; "few" has one."""
        pictures = 1 if style == "few" else pictures
        if style not in self.known:
            self.known[style] = write_moments(self.root / style, style, pictures)
        return self.known[style]


def make_job(moments: Moments, models: Models, *adapters: AdapterSpec, **settings: Any) -> TrainJob:
    things = {a.style: (moments.of("thing", 2), moments.of("being", 1)) for a in adapters}
    priors = {a.style: things[a.style] for a in adapters if a.prior_weight or a.prior_fraction}
    whole = {a.style: moments.of(f"whole {a.style}") for a in adapters if a.enhancer}
    return TrainJob(
        models.spec,
        adapters,
        {source: moments.of(source) for a in adapters for source in a.sources or (a.style,)},
        prior_moments=priors,
        enhancer_moments=whole,
        **{"snapshots": (4,), "log_every": 2, **settings},
    )


@dataclass
class Result:
    """What one call of a backend's `train` hands over."""

    outcome: TrainOutcome = field(default_factory=lambda: TrainOutcome({}, 0.0))
    folders: dict[tuple[str, int], Path] = field(default_factory=dict)
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def add_snapshot(self, style: str, step: int, folder: Path) -> None:
        self.folders[style, step] = folder

    def add_losses(self, step: int, means: Mapping[str, float]) -> None:
        for style, mean in means.items():
            self.losses.setdefault(style, []).append((step, mean))

    def means(self, style: str) -> list[float]:
        """The losses reported for a style, without their steps."""
        return [mean for _, mean in self.losses[style]]

    def tensors(self, style: str, step: int = 4) -> dict[str, Tensor]:
        return _read(self.folders[style, step] / "state.safetensors")

    def weights(self, style: str, step: int = 4) -> dict[str, Tensor]:
        return _read(self.folders[style, step] / "pytorch_lora_weights.safetensors")


def _read(file: Path) -> dict[str, Tensor]:
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)


def run(
    job: TrainJob, models: Models, out: Path, on_snapshot: Callable[[str, int, Path], None] | None = None
) -> Result:
    result = Result()

    def snapshot(style: str, step: int, folder: Path) -> None:
        result.add_snapshot(style, step, folder)
        if on_snapshot is not None:
            on_snapshot(style, step, folder)

    result.outcome = train(job, models, out, NullProgress(), snapshot, result.add_losses)
    return result


def largest_gap(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Reference:
    """One adapter trained as diffusers' DreamBooth LoRA script does, on the same draws: PEFT layers,
    DDPMScheduler's noise and velocity, one backward pass over the whole batch, torch's clipping and AdamW,
    `get_scheduler`.
    """

    def __init__(self, job: TrainJob, adapter: AdapterSpec, models: Models):
        self.job, self.adapter, self.models = job, adapter, models
        self.classes = 0  # class samples seen
        self.unet, self.text = copy.deepcopy(models.unet), copy.deepcopy(models.text_encoder)
        self.scheduler = DDPMScheduler.from_config(models.scheduler_config)
        self.scheduler.alphas_cumprod = models.alphas_cumprod.clone()  # float64, as the job's
        groups: list[dict[str, Any]] = [
            {"params": self._adapt(network, spec, prefix), "lr": lr}
            for network, spec, lr, prefix in (
                (self.unet, adapter.unet, adapter.unet_lr, ""),
                (self.text, adapter.text_encoder, adapter.text_encoder_lr, "text_model."),
            )
        ]
        groups += self.further_groups()
        self.params = [p for group in groups for p in group["params"]]
        self.optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=job.betas,
            eps=job.eps,
            weight_decay=adapter.weight_decay,
        )
        warm = job.schedule.warmup_steps
        name = "constant_with_warmup" if job.schedule.name == "constant" and warm else job.schedule.name
        self.rate = get_scheduler(
            name, self.optimiser, num_warmup_steps=warm, num_training_steps=job.schedule_steps
        )

    def further_groups(self) -> list[dict[str, Any]]:
        """Groups of AdamW's parameters beside the LoRA weights."""
        return []

    def _adapt(self, network: Any, spec: LoraSpec, prefix: str) -> list[Tensor]:
        if not spec.rank:
            return []
        config = LoraConfig(
            r=spec.rank, lora_alpha=spec.alpha, target_modules=list(spec.targets),
            use_rslora=spec.rslora, use_dora=spec.dora,
        )  # fmt: skip
        network.add_adapter(config)
        for path, module in network.named_modules():
            if hasattr(module, "lora_A"):
                A = module.lora_A["default"].weight
                owner = (self.adapter.seed, self.adapter.style)
                first = draws.normal(tuple(A.shape), *owner, prefix + path, "lora")
                A.data = torch.from_numpy(first).to(A.dtype) / spec.rank
                module.lora_B["default"].weight.data.zero_()
                if spec.dora:  # PEFT measured W + BA with its own first A and B, where B = 0
                    lengths = module.lora_magnitude_vector["default"].weight.double()
                    assert (lengths - module.base_layer.weight.norm(dim=1)).abs().max() < 1e-6
                    module.lora_magnitude_vector["default"].weight.data = module.base_layer.weight.norm(dim=1)
        params = [p for name, p in network.named_parameters() if "lora_" in name]
        for p in params:
            p.data = p.data.to(self.models.dtype)
        return params

    def _states(self, texts: Sequence[str], prior: Sequence[bool]) -> Tensor:
        """What the UNet is told; prior: which captions are of class pictures."""
        states: Tensor = self.text(self.models.tokenise(texts))[0]
        return states

    def _sample(self, step: int, i: int, prior: bool) -> tuple[Tensor, Tensor, int, str, bool]:
        """Latent, noise, time step and caption of one sample, and whether it is a class sample."""
        a, n = self.adapter, self.job.batch_size * self.job.accumulation
        who, name = (a.seed, a.style), (a.seed, a.style, step, i)
        if a.prior_fraction is not None:
            prior = draws.uniform(*name, "class") < a.prior_fraction
        self.classes += prior
        kind = "prior " if prior else ""
        own = tuple(self.job.moments[source] for source in a.sources or (a.style,))
        folders = self.job.prior_moments[a.style] if prior else own
        moments = [load_file(folder / "moments.safetensors") for folder in folders]
        mean, std = (
            np.concatenate([m[part] for m in moments]).astype(np.float64) for part in ("mean", "std")
        )
        captions: Sequence[str | tuple[str, ...]] = a.prior_captions if prior else a.captions
        if a.sources and not prior:  # rounds over the sources; in each round one picture of every source
            turn, place = divmod(step * n + i, len(folders))
            source = draws.visit(len(folders), turn * len(folders) + place, *who, "order", "source")
            sizes = [len(m["mean"]) for m in moments]
            ref = sum(sizes[:source]) + draws.visit(sizes[source], turn, *who, "order", source)
        else:
            ref = draws.visit(len(captions), step * n + i, *who, kind + "order")
        view = draws.integer(VARIANTS, *name, kind + "view")
        blur = draws.normal((4, SIZE, SIZE), *name, kind + "posterior")
        latent = torch.from_numpy(mean[ref, view] + std[ref, view] * blur) * self.models.vae_scaling
        noise = torch.from_numpy(draws.normal((4, SIZE, SIZE), *name, kind + "noise")).double()
        caption = captions[ref]
        text = caption if isinstance(caption, str) else caption[view]
        return latent, noise, draws.integer(1000, *name, kind + "timestep"), text, prior

    def _half(self, step: int, prior: bool) -> Tensor:
        """Mean squared error over the instance or the class samples of a step."""
        n = self.job.batch_size * self.job.accumulation
        samples = [self._sample(step, i, prior) for i in range(n)]
        latents, noise, times, texts, classes = zip(*samples, strict=True)
        z, eps, t = torch.stack(latents), torch.stack(noise), torch.tensor(times)
        states = self._states(texts, classes)
        noisy = self.scheduler.add_noise(z, eps, t)
        answer = self.unet(noisy, t, encoder_hidden_states=states).sample
        velocity = self.models.prediction_type == "v_prediction"
        goal = self.scheduler.get_velocity(z, eps, t) if velocity else eps
        loss = torch.nn.functional.mse_loss(answer, goal, reduction="none").mean(dim=(1, 2, 3))
        if (gamma := self.adapter.min_snr_gamma) is not None:
            abar = self.scheduler.alphas_cumprod[t]
            snr = abar / (1 - abar)
            loss = loss * torch.minimum(snr, torch.full_like(snr, gamma)) / (snr + 1 if velocity else snr)
        return loss.mean()

    def step(self, step: int) -> float:
        loss = self._half(step, prior=False)
        if self.adapter.prior_weight:
            loss = loss + self.adapter.prior_weight * self._half(step, prior=True)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.adapter.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.params, self.adapter.max_grad_norm)
        self.optimiser.step()
        self.rate.step()
        return loss.item()

    def weights(self) -> dict[str, Tensor]:
        """The adapter by diffusers' names."""
        found = {}
        for network, prefix in ((self.unet, "unet."), (self.text, "text_encoder.text_model.")):
            for name, p in network.named_parameters():
                if "lora_" in name:
                    name = name.replace(".default", "")
                    if network is self.unet:
                        name = name.replace("vector.weight", "vector")
                    found[prefix + name] = p.detach()
        return found
