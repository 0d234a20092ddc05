"""What a backend must do, in plain records: encode pictures, train adapters, draw and redraw pictures.

Jobs are frozen dataclasses of numbers, strings and paths, and results are files, so that a backend may live in
another process or interpreter. A backend knows models, not methods: prompts arrive written out, loss weights as
numbers, starting latents as seeds or files. Every random number comes from `jdx.draws` (or, for a picture's first
latent, from its seed), keyed by the style's own name, so results do not depend on who shares a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jdx import draws
from jdx.errors import Fault

if TYPE_CHECKING:
    from jdx.progress import Progress

Dtype = Literal["float32", "bfloat16", "float64"]
CompileSetting = Literal["auto", "off", "regional", "full"]
ScheduleName = Literal["constant", "cosine", "linear", "cosine_with_restarts", "step"]


@dataclass(frozen=True)
class ModelSpec:
    """A Stable Diffusion in diffusers layout: a folder, or a hub id with an optional revision and file variant."""

    path: str
    revision: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class CropSpec:
    """How a reference becomes `variants` training views of `resolution` pixels.

    The picture's short edge is resized to round(scale * resolution) (antialiased bilinear, as torchvision's Resize
    on a PIL picture), then a square of `resolution` is cut: variant 0 at the centre when `random` is false, else at
    offsets drawn per (seed, style, picture file stem, variant), and mirrored with probability `flip`. Before the cut
    the resized picture is turned about its centre by an angle uniform in ±`rotation` degrees (bilinear; what comes in
    at the corners is the picture mirrored at its edge).
    """

    resolution: int
    scale: float = 1.04
    random: bool = True
    variants: int = 8
    flip: float = 0.0
    rotation: float = 0.0  # degrees, 0 to 180
    seed: int = 0

    def mirrors(self, *name: draws.Name) -> bool:
        """Whether a view is mirrored; name: (seed, style, picture file stem, variant)."""
        return self.flip > 0 and draws.uniform(*name, "flip") < self.flip


@dataclass(frozen=True)
class EncodeJob:
    """VAE posterior moments of the training views of some styles: {style: picture paths in order}."""

    model: ModelSpec
    crop: CropSpec
    pictures: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class LoraSpec:
    """Low-rank adapters on one network (Hu et al. 2021): W' = W + scale · B A, scale = alpha / rank.

    rank 0 means none. targets are the last parts of module paths, as PEFT's `target_modules` suffixes. rslora:
    scale = alpha / √rank (Kalajdzievski 2023). dora: rows of W' have lengths that are trained (Liu et al. 2024).
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    rslora: bool = False
    dora: bool = False

    @property
    def plain_alpha(self) -> float:
        """The alpha with which alpha / rank is the scale, whichever way it was asked for."""
        return self.alpha * self.rank**0.5 if self.rslora else self.alpha


@dataclass(frozen=True)
class EnhancerSpec:
    """VAE prompt enhancer of one style, trained with its adapter: text states + weight · out (jdx/methods/enhancer.py).

    zero: the convolution that starts at zero, "first" as published or "last".
    """

    weight: float
    lr: float
    zero: Literal["first", "last"]


@dataclass(frozen=True)
class TokensSpec:
    """Textual inversion (Gal et al. 2022): a word of a style's own, `vectors` embeddings learnt from its captions.

    token: the word as captions and prompts say it; of several vectors the first has this name and the others
    TOKEN_1, TOKEN_2, ..., and a text that says TOKEN means all of them. init: the word that it starts from.
    steps: after so many steps it stays as it is; None = it learns to the end.
    """

    token: str
    vectors: int
    init: str
    lr: float
    weight_decay: float = 1e-2
    steps: int | None = None


@dataclass(frozen=True)
class AdapterSpec:
    """One adapter of the stack: whose it is, its size and how fast it learns. Every number may differ in a stack."""

    style: str
    captions: tuple[
        str | tuple[str, ...], ...
    ]  # one per reference, or one for each of its views; as its moments
    seed: int
    unet: LoraSpec
    text_encoder: LoraSpec
    unet_lr: float
    text_encoder_lr: float
    weight_decay: float = 1e-2
    max_grad_norm: float | None = None  # of one adapter's whole gradient, both networks together
    prior_captions: tuple[str, ...] = ()  # one per class picture
    prior_weight: float = 0.0  # loss = instance + prior_weight * prior; 0 draws no such class pictures
    prior_fraction: float | None = None  # share of the samples that are class pictures, instead of a weight
    min_snr_gamma: float | None = None  # weights of time steps (Hang et al. 2023); null = all equal
    ema_decay: float | None = (
        None  # the adapter is the running average of its parameters; null = the last ones
    )
    unet_start: int = (
        0  # steps before this network's adapter begins to learn, with a fresh optimiser and schedule
    )
    text_encoder_start: int = 0
    enhancer: EnhancerSpec | None = None
    tokens: TokensSpec | None = None
    sources: tuple[
        str, ...
    ] = ()  # whose pictures it learns from, captions in their order; () = its style's own


@dataclass(frozen=True)
class ScheduleSpec:
    """Learning-rate factor over steps, after a linear warm-up.

    constant; cosine and linear fall to zero at the horizon; cosine_with_restarts falls to zero `cycles` times;
    step multiplies by `step_factor` every `step_size` steps after the warm-up.
    """

    name: ScheduleName = "constant"
    warmup_steps: int = 0
    cycles: int = 1
    step_size: int | None = None
    step_factor: float = 1.0


@dataclass(frozen=True)
class TrainJob:
    """Train all `adapters` together on one frozen base, and write a snapshot of each at every step in `snapshots`.

    restart_points: steps at which one is written too where enough time has passed (`stops.Stops`).
    moments[style] is the folder that `encode` wrote for it; an adapter of several `sources` visits each of them once
    in as many samples, whatever the number of their pictures. prior_moments[style] the folders with its class pictures,
    in the order of its prior_captions. enhancer_moments[style] is the folder of what its enhancer sees, where it has
    one: one view of each whole reference.
    resume[style] is a snapshot folder to continue from (all of a job's styles resume at `start_step` or none does).
    batch_size: instance samples per style and step (and as many class samples when prior_weight > 0).
    micro_batch: samples in one pass, 0 = chosen by memory; never changes the result beyond rounding.
    compile: how the network's passes are compiled. graphs: whether a step may be recorded as a CUDA graph.
    Neither changes a result beyond rounding.
    deterministic: the same bits whenever and with whatever other styles it is run, on the same kind of machine.
    """

    model: ModelSpec
    adapters: tuple[AdapterSpec, ...]
    moments: Mapping[str, Path]
    snapshots: tuple[int, ...]
    restart_points: tuple[int, ...] = ()
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    schedule_steps: int = 0  # horizon of a decaying schedule
    batch_size: int = 1
    accumulation: int = 1  # optimiser step after so many batches (a "step" is an optimiser step)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    dropout: float = 0.0
    prior_moments: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    enhancer_moments: Mapping[str, Path] = field(default_factory=dict)
    resume: Mapping[str, Path] = field(default_factory=dict)
    start_step: int = 0
    micro_batch: int = 0
    log_every: int = 10
    compile: CompileSetting = "off"
    graphs: bool = False
    deterministic: bool = False


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler by name and its steps; guidance 1 switches classifier-free guidance off."""

    name: Literal["ddim", "unipc", "dpmpp", "euler"]
    steps: int
    guidance_scale: float


@dataclass(frozen=True)
class PlainPrompt:
    """A second prompt, and its negative, whose text embeddings are mixed in: (1 - share)·E(own) + share·E(this)."""

    prompt: str
    negative_prompt: str
    share: float


@dataclass(frozen=True)
class PictureSpec:
    """One picture to draw. `file` is its name below the output folder, for example "Ice cream.png"."""

    file: str
    prompt: str
    negative_prompt: str
    seed: int
    coarse_prompt: str = ""  # of the coarse branch, where the style's job blends two branches
    coarse_negative: str = ""
    plain: PlainPrompt | None = None


@dataclass(frozen=True)
class InitSpec:
    """Start from a picture instead of noise (img2img, Meng et al. 2021): the last `strength` share of the steps.

    sampled: whether its latent is drawn from the VAE's posterior, with each picture's seed, or the posterior's mean.
    """

    picture: Path
    strength: float
    sampled: bool = True


@dataclass(frozen=True)
class BlendSpec:
    """StyleBlend (Chen et al. 2025): every picture is drawn twice at once, and the fine branch is what is kept.

    The fine branch has the style's adapter. The coarse one has `adapter`, which may only change its text (None = the
    untouched text encoder), and the style's UNet adapter at `lora_scale`. Layers: names of self-attentions; shares:
    of the drawing's steps, from the first, in [0, 1]. c2f: the coarse branch lends queries; f2c: the fine one lends
    keys and values.
    """

    c2f_layers: tuple[str, ...]
    c2f_share: float
    f2c_layers: tuple[str, ...]
    f2c_share: float
    adapter: Path | None = None
    lora_scale: float = 0.3


@dataclass(frozen=True)
class StyleDrawJob:
    """All pictures of one style: its adapter folder (None = the untouched base) and what to draw."""

    style: str
    adapter: Path | None
    pictures: tuple[PictureSpec, ...]
    init: InitSpec | None = None
    lora_scale: float = 1.0
    blend: BlendSpec | None = None
    enhanced: Literal["conditional", "both"] = "conditional"  # what an enhancer of the adapter acts on


@dataclass(frozen=True)
class GenerateJob:
    """Draw the pictures of some styles at `resolution` (pixels, a multiple of the VAE's factor)."""

    model: ModelSpec
    sampler: SamplerSpec
    resolution: int
    styles: tuple[StyleDrawJob, ...]
    batch_size: int = 0  # pictures in one pass, 0 = chosen by memory; changes nothing beyond rounding
    compile: CompileSetting = "off"  # of the network's passes; rounding only
    graphs: bool = False  # whether passes may be recorded as CUDA graphs


@dataclass(frozen=True)
class StyleIdSpec:
    """StyleID (Chung et al. 2024): self-attention with the content's queries and the style's keys and values.

    layers: module paths of self-attentions. gamma: share of the content's query, in [0, 1]. temperature: factor of
    the attention logits (1.5 in the paper). steps: of inversion and of drawing. start_step: reverse steps without
    injection at the beginning (1 in the authors' program). adain: give the first latent the style's moments.
    """

    layers: tuple[str, ...]
    gamma: float
    temperature: float
    steps: int
    start_step: int = 1
    adain: bool = True


@dataclass(frozen=True)
class StyleStyliseJob:
    """One style: its reference pictures and what to redraw.

    contents: {file: (content picture, index of the reference whose style it takes)}.
    """

    style: str
    references: tuple[Path, ...]
    contents: Mapping[str, tuple[Path, int]]


@dataclass(frozen=True)
class StyliseJob:
    """Redraw content pictures in the style of references, at `resolution` pixels, with an empty prompt."""

    model: ModelSpec
    spec: StyleIdSpec
    resolution: int
    styles: tuple[StyleStyliseJob, ...]
    batch_size: int = 0  # content pictures in one pass, 0 = chosen by memory
    compile: CompileSetting = "off"  # of the network's passes; rounding only
    graphs: bool = False  # whether passes may be recorded as CUDA graphs


OnStyle = Callable[[str, Path], None]
"""(style, finished folder), which may be taken away. One call at a time, maybe from a thread of the backend's; the last
call has returned when the backend's method returns or raises."""
OnSnapshot = Callable[[str, int, Path], None]
"""(style, step, finished folder). One call at a time, a style's steps in order, maybe from a thread of the backend's;
the last call has returned when `train` returns or raises."""
OnLosses = Callable[[int, Mapping[str, float]], None]  # (step, {style: mean loss since the last call})


@dataclass(frozen=True)
class TrainOutcome:
    """Which styles stopped early and why: {style: (step, reason)}. The others reached the last snapshot."""

    failed: Mapping[str, tuple[int, str]]
    seconds: float


class Backend(ABC):
    """Encode, train and draw with one framework. Finished folders are handed over one by one through callbacks.

    A callback may move the folder away; the backend never touches it afterwards.
    """

    name: str

    def setup_faults(self) -> list[Fault]:
        """What is wrong with the environment that the backend needs, seen without making or loading anything."""
        return []

    def identity(self) -> dict[str, str]:
        """What every result depends on beside the model, for the keys of the store."""
        return {"backend": self.name, "dtype": self.describe()["dtype"]}

    def close(self) -> None:
        """Give back what outlives a job, such as another process. The backend may be used again."""
        return

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Device, precision and library versions, for the record of a run."""

    @abstractmethod
    def check(self, model: ModelSpec) -> list[str]:
        """Faults of the model and device that can be seen without loading weights; empty when all is well."""

    @abstractmethod
    def name_faults(
        self,
        model: ModelSpec,
        targets: Mapping[str, Sequence[str]],
        layers: Mapping[str, Sequence[str]],
        tokens: Sequence[TokensSpec] = (),
    ) -> list[Fault]:
        """LoRA targets ({"unet" | "text_encoder": names}) and self-attentions that the model lacks.

        Names are diffusers' in every framework. layers: {"styleid" | "blend.c2f" | "blend.f2c": names}. Keys of the
        faults: the same with `.targets` or `.layers`. tokens: words to be learnt; keys `tokens.token` for names that
        the tokenizer has already, `tokens.init` for words that it cannot spell, `tokens.vectors` for words that no
        prompt has room for. No weights are loaded, but a hub id may be downloaded. Raises BackendError when the model
        cannot be had.
        """

    @abstractmethod
    def say_long_prompts(
        self, model: ModelSpec, prompts: Sequence[str], tokens: Sequence[TokensSpec] = ()
    ) -> None:
        """Warn, once per prompt, of those that the model would cut, with the words that it will not see.

        tokens: learnt words that the prompts may say. Raises BackendError when the model cannot be had.
        """

    @abstractmethod
    def encode(self, job: EncodeJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        """Write out/STYLE/moments.safetensors: `mean` and `std`, float32 (pictures, variants, C, h, w), unscaled."""

    @abstractmethod
    def train(
        self, job: TrainJob, out: Path, progress: Progress, on_snapshot: OnSnapshot, on_losses: OnLosses
    ) -> TrainOutcome:
        """Write out/STYLE/STEP/ with state.safetensors, losses.csv (step,loss) and the file of each trained part.

        Files: pytorch_lora_weights.safetensors for LoRA, learned_embeds.safetensors for a learnt word.
        With `ema_decay` the weights are the running average, and the state holds both it and the last parameters.
        """

    @abstractmethod
    def generate(self, job: GenerateJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        """Write out/STYLE/FILE for every picture asked for (PNG, RGB)."""

    @abstractmethod
    def stylise(self, job: StyliseJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        """Write out/STYLE/FILE for every content picture (PNG, RGB)."""
