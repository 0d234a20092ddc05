"""What one trial is made of: every setting with its type, range and unit, checked together before anything is loaded.

Hydra composes YAML; `build` turns the result into these frozen records, or raises one `ConfigError` that lists every
fault: misspelt keys (with the nearest real one), wrong types, numbers out of range, settings that contradict each
other. Code below `train.py` sees only these records, never a config object.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

_RECORD = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
record = dataclass(frozen=True, config=_RECORD, kw_only=True)

Steps = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]  # learning rate
Rank = Annotated[int, Field(ge=0, le=1024)]  # 0 = this network is not adapted
Count = Annotated[int, Field(ge=1)]
OptionalCount = Annotated[int | None, Field(ge=1)]
Location = Annotated[
    str, Field(min_length=1), AfterValidator(os.path.expanduser)
]  # a path, or a name beside paths
Seed = Annotated[int, Field(ge=0, lt=2**63)]
DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
LISTED_DEVICE = r"^(cpu|cuda:\d+)$"


@record
class Suggests:
    """Settings that suit a model's size; the groups below take them unless told otherwise."""

    unet_lr: Rate
    text_encoder_lr: Rate
    token_lr: Rate
    steps: Steps
    guidance_scale: Annotated[float, Field(ge=1.0, le=50.0)]
    styleid_steps: Annotated[int, Field(ge=2, le=1000)]


@record
class Model:
    """A Stable Diffusion 1.x or 2.x in diffusers layout."""

    name: str  # what the leaderboard calls it
    path: Location  # a folder or a hub id
    revision: str | None = None
    variant: str | None = None  # weight file variant, such as "fp16"
    resolution: Annotated[int, Field(ge=64, le=2048)]  # pixels; default of training and drawing
    suggests: Suggests


@record
class Data:
    """A set in the challenge layout: NN/images/OBJECT.png and NN/prompt.json."""

    name: str
    root: Location  # folder that holds the style folders
    styles: list[str | int] | None = None  # which styles; null = all
    max_references: OptionalCount = None  # references per style; null = all
    max_prompts: OptionalCount = None  # prompts per style; null = all


@record
class StyleWords:
    """What one style's prompts say beside the others': an entry of the table `method.prompts.styles`."""

    phrase: str = ""  # {phrase} in templates
    prefix: str = ""  # {prefix} in templates
    negative: str | None = None  # instead of sampler.negative_prompt
    train: str | None = None  # instead of method.prompts.train
    generate: str | None = None  # instead of method.prompts.generate


Table = Location | dict[str, Any] | None  # a file, the name of one that comes with jdx, or the mapping itself


@record
class Prompts:
    """Templates with {object}, {Object}, {a_object}, {style}, {token}, {prefix}, {phrase} and {expansion}."""

    train: str = "an image of {object} in style_{style}"
    generate: str = "an image of {object} in style_{style}"
    styles: Table = None  # {style: StyleWords}
    expand: Table = None  # {word: text}, what {expansion} stands for
    origin: str = "an image of {object}"  # template of the plain prompt
    origin_scale: Share = 0.0  # share of the plain prompt's embeddings in drawing; 0 = off
    origin_negative: str | None = None  # the plain prompt's negative; null = the same as the picture's


@record
class DrawSettings:
    """A sampler for pictures that are not the trial's own."""

    name: Literal["ddim", "unipc", "dpmpp", "euler"]
    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=1.0, le=50.0)]


@record
class Prior:
    """Prior preservation (Ruiz et al. 2023): keep drawing ordinary things the ordinary way."""

    weight: Annotated[float, Field(ge=0.0, le=100.0)]  # of the class pictures' loss; 0 = off
    fraction: Annotated[float | None, Field(gt=0.0, lt=1.0)] = (
        None  # share of the samples, instead of a weight
    )
    per_word: Annotated[int, Field(ge=1, le=1000)]  # class pictures per word
    words: Literal["references", "prompts", "both"]  # whose objects are drawn
    draw: str  # template of the class pictures' prompt, drawn by the untouched base
    caption: str  # template of their caption in training
    sampler: DrawSettings


@record
class Init:
    """Where drawing starts."""

    # "none" = noise, "average" = mean of the style's references, or a picture's path, where {style} is the style's id
    picture: Location
    strength: Share  # of the sampler's steps that is run; 0 would leave the start as it is, and is refused
    posterior: Literal["sample", "mode"] = (
        "sample"  # of the VAE: the start's latent is drawn from it, or its mean
    )


MOST_SIMILAR = "most_similar"
REFERENCES = ("rotate", "random", "random_per_style", MOST_SIMILAR)
"""Which reference StyleID takes: in turn over the prompts, at random per prompt or style, or the one nearest to the
content picture."""


@record
class StyleId:
    """StyleID (Chung et al. 2024): redraw with the references' attention keys and values."""

    enabled: bool
    layers: list[str]  # self-attentions: module paths, or the paper's integers "6".."11"
    gamma: Share  # share of the content's query
    temperature: Annotated[float, Field(gt=0.0, le=10.0)]  # factor of the attention logits
    steps: Annotated[int, Field(ge=2, le=1000)]  # of inversion and of drawing
    start_step: Annotated[int, Field(ge=0)]  # reverse steps without injection at the beginning
    adain: bool  # the first latent takes the style's mean and deviation
    reference: str | int  # one of REFERENCES, or an index
    reference_every: Count = 1  # with "rotate": prompts until the next reference takes its turn


@record
class BlendDirection:
    """Which self-attentions lend in one direction, and for how long."""

    layers: list[str]  # module paths, or numbers "0".."15" in the order of the pass
    share: Share  # of the drawing's steps, from the first


@record
class Candidates:
    """Pictures that a coarse branch learns from: references redrawn by SDEdit (Meng et al. 2022)."""

    per_reference: Annotated[int, Field(ge=1, le=1000)]
    keep: Annotated[int, Field(ge=1, le=1000)]  # the best by the judges' CLIP; all of them without judges
    strengths: Annotated[list[Annotated[float, Field(gt=0.0, le=1.0)]], Field(min_length=1)]  # in turn
    prompt: str  # template that all styles share
    negative_prompt: str
    sampler: DrawSettings


@record
class CoarseBranch:
    """The branch that gives the composition."""

    prompt: str  # template; {object} and {style}
    negative_prompt: str | None = None  # null = sampler.negative_prompt
    lora_scale: Annotated[float, Field(ge=0.0, le=4.0)]  # of the style's UNet adapter in this branch
    train: bool  # a text-encoder adapter of its own, on the candidates; else the untouched text encoder
    steps: Steps
    rank: Annotated[int, Field(ge=1, le=1024)]
    lr: Rate
    candidates: Candidates


@record
class Blend:
    """StyleBlend (Chen et al. 2025): a coarse and a fine branch, drawn together; the fine one's picture is kept."""

    enabled: bool
    c2f: BlendDirection  # queries, from coarse to fine
    f2c: BlendDirection  # keys and values, from fine to coarse
    coarse: CoarseBranch


@record
class Enhancer:
    """VAE prompt enhancer (contest entry f-chen165/jittor--AI): a style's average picture as a bias of its prompts."""

    enabled: bool
    weight: Annotated[float, Field(ge=0.0, le=100.0)]  # text states + weight · out
    lr: Annotated[float, Field(gt=0.0, le=1.0)]  # learning rate
    zero: Literal["first", "last"]  # the convolution that starts at zero
    branches: Literal["conditional", "both"]  # of classifier-free guidance, in drawing


@record
class Tokens:
    """Textual inversion (Gal et al. 2022): a word for each style, {token} in templates, learnt from its references."""

    vectors: Annotated[int, Field(ge=0, le=64)]  # embeddings of the word; 0 = off
    init: Annotated[str, Field(min_length=1)]  # the word whose embedding each vector starts from
    lr: Rate
    weight_decay: Annotated[float, Field(ge=0.0)]
    steps: OptionalCount = None  # after so many steps the word stays as it is; null = it learns to the end


@record
class Select:
    """Best of several candidates per prompt, by the trial's own judges."""

    candidates: Annotated[int, Field(ge=1, le=1000)] = 1  # pictures drawn per prompt; 1 = off
    style_weight: Annotated[float, Field(ge=0.0)] = 1.0  # of a picture's .2 DINO + .4 Hist + .4 (1 - LPIPS)
    text_weight: Annotated[float, Field(ge=0.0)] = 0.3  # of the mean of CLIP-R's hit and probability
    on: Literal["final", "content"] = "final"  # with StyleID: judge what it redrew, or what it is to redraw


@record
class Method:
    """Which parts a trial is composed of."""

    name: str
    train: bool = True  # false = draw with the untouched base
    lora_rank: Rank = 4  # what lora.rank is unless told otherwise; 0 = a method without adapters
    prompts: Prompts
    prior: Prior
    init: Init
    blend: Blend
    styleid: StyleId
    select: Select
    enhancer: Enhancer
    tokens: Tokens


@record
class NetworkLora:
    """LoRA of one network: delta W = alpha / rank · B A."""

    rank: Rank
    alpha: Annotated[float | None, Field(gt=0)] = (
        None  # null = rank; with rslora its square root: a factor of 1
    )
    dora: bool = False  # train the lengths of the weights' rows too (Liu et al. 2024)
    rslora: bool = False  # alpha / sqrt(rank) instead (Kalajdzievski 2023)
    targets: list[str]  # last parts of module paths, as PEFT's target_modules


@record
class Lora:
    """Low-rank adapters (Hu et al. 2021) on the UNet and the text encoder."""

    rank: Rank  # short for unet.rank
    joint: bool = False  # one adapter over all styles, which its captions tell apart
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    dora: bool = False  # short for both networks'
    rslora: bool = False  # short for both networks'
    unet: NetworkLora
    text_encoder: NetworkLora


@record
class NetworkOptim:
    """What may differ between networks."""

    lr: Rate
    start_step: Annotated[int, Field(ge=0)] = 0  # steps before its adapter begins to learn


@record
class Optim:
    """AdamW (Loshchilov and Hutter 2019), per adapter."""

    unet: NetworkOptim
    text_encoder: NetworkOptim
    betas: Annotated[list[Annotated[float, Field(ge=0.0, lt=1.0)]], Field(min_length=2, max_length=2)]
    eps: Annotated[float, Field(gt=0.0)]
    weight_decay: Annotated[float, Field(ge=0.0)]
    max_grad_norm: Annotated[float | None, Field(gt=0.0)] = (
        None  # of one adapter's whole gradient; null = off
    )
    schedule: Literal["constant", "cosine", "linear", "cosine_with_restarts", "step"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    cycles: Annotated[int, Field(ge=1)] = 1  # of cosine_with_restarts
    step_size: OptionalCount = None  # steps between two decays of schedule=step
    step_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7  # of one decay of schedule=step


@record
class Crop:
    """Training views: resize to `scale` × resolution, maybe turn, cut a square, maybe mirror."""

    scale: Annotated[float, Field(ge=1.0, le=4.0)]
    random: bool  # false = centre
    variants: Annotated[int, Field(ge=1, le=512)]  # different views per picture, encoded once each
    flip: Share  # probability of a mirrored view
    flip_tag: str = ""  # added to the caption of a mirrored view
    rotation: Annotated[float, Field(ge=0.0, le=180.0)] = (
        0.0  # degrees; turned by a uniform angle within ± this
    )


@record
class Train:
    """How long and on what the adapters learn."""

    steps: Steps  # optimiser steps per style
    seed: Seed
    resolution: Annotated[int, Field(ge=64, le=2048, multiple_of=8)]  # pixels
    batch_size: Annotated[int, Field(ge=1, le=256)]  # pictures per style and batch
    accumulation: Annotated[int, Field(ge=1, le=1024)]  # batches per optimiser step
    crop: Crop
    min_snr_gamma: Annotated[float | None, Field(gt=0.0)] = (
        None  # Hang et al. 2023; null = plain mean squares
    )
    ema_decay: Annotated[float | None, Field(gt=0.0, lt=1.0)] = (
        None  # draw with a running average; null = off
    )
    snapshots: list[Steps] = Field(default_factory=list)  # further step counts to keep adapters of
    score_snapshots: bool = False  # draw and score the set at every snapshot too (a sweep may stop there)
    checkpoint_every: Annotated[int, Field(ge=0)]  # steps between restart points; 0 = only the snapshots
    log_every: Count  # steps
    deterministic: bool = (
        False  # the same bits whatever the other styles; passes have a fixed number of samples
    )


@record
class Sampler:
    """How pictures are drawn."""

    name: Literal["ddim", "unipc", "dpmpp", "euler"]
    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=1.0, le=50.0)]  # 1 = no classifier-free guidance
    negative_prompt: str
    resolution: Annotated[int, Field(ge=64, le=2048, multiple_of=8)]  # pixels
    output_resolution: Annotated[int | None, Field(ge=64, le=2048)] = (
        None  # what is kept and scored; null = resolution
    )
    lora_scale: Annotated[float, Field(ge=0.0, le=4.0)] = 1.0
    seed: Seed | None = None  # null = train.seed; each picture's seed is drawn from (this, style, prompt)
    seeds: Location | None = None  # a seeds.json that fixes the seeds of some pictures


@record
class Networks:
    """Local copies of single judges' networks; null = as the judge set says."""

    dino: Location | None = None
    clip_r: Location | None = None
    clip_iqa: Location | None = None
    lpips: Location | None = None
    fid: Location | None = None


@record
class Evaluation:
    """Which judges score the pictures; `none` skips the score."""

    judges: Location  # "challenge", "mini", "none", or a judges.json
    histogram: Literal["official", "corrected"] = "official"
    fid_resize: Literal["tf1", "antialias"] = "tf1"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    networks: Networks


@record
class Tracker:
    """Where runs are mirrored; our own files stay the record."""

    name: Literal["none", "wandb"]
    project: str = "jdx"
    entity: str | None = None
    group: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"  # auto = online when there is an API key
    init_timeout: Annotated[float, Field(gt=0)] = 20.0  # seconds
    finish_timeout: Annotated[float, Field(gt=0)] = 30.0  # seconds
    log_pictures: bool = True
    log_adapters: bool = False


@record
class Backend:
    """What computes, and on which device. Nothing here may change a result beyond rounding, except dtype."""

    name: Literal["torch", "jittor", "jdiffusion"]
    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    # Several devices: each makes a share of the styles. auto = all GPUs that are visible, if device is auto
    devices: Literal["auto"] | list[Annotated[str, Field(pattern=LISTED_DEVICE)]] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto = bfloat16 on a GPU, float32 on a CPU
    micro_batch: Annotated[int, Field(ge=0)] = 0  # training samples in one pass; 0 = by memory
    draw_batch: Annotated[int, Field(ge=0)] = 0  # pictures drawn in one pass; 0 = by memory
    threads: Annotated[int, Field(ge=0)] = 0  # CPU threads; 0 = all that this process may use, with Jittor 2
    memory: Annotated[float, Field(ge=0.0)] = 0.0  # GiB that tensors may take on the device; 0 = what is free
    fused: Literal["auto", "off"] = (
        "auto"  # fused kernels between matrix products; auto = on GPUs with Triton
    )
    compile: Literal["auto", "off", "regional", "full"] = (
        "auto"  # torch.compile; auto = off: `fused` is faster
    )
    graphs: Literal["auto", "off"] = (
        "auto"  # steps and passes as CUDA graphs; auto = on GPUs, where one can be recorded
    )
    python: Location | None = None  # interpreter with Jittor; null = jdx makes an environment
    home: Location | None = None  # JITTOR_HOME; null = $JDX_JITTOR, else ~/.cache/jdx/jittor
    timeout: Annotated[float, Field(gt=0.0)] = 1800.0  # seconds without a word from Jittor's worker
    compile_timeout: Annotated[float, Field(gt=0.0)] = 3600.0  # seconds of Jittor's first compile


@record
class Store:
    """Where finished stages are kept for reuse."""

    root: Location


@record
class TrialConfig:
    """One trial: everything above."""

    model: Model
    data: Data
    method: Method
    lora: Lora
    optim: Optim
    train: Train
    sampler: Sampler
    evaluation: Evaluation
    tracker: Tracker
    backend: Backend
    store: Store
    group_size: Annotated[int, Field(ge=0)] = 0  # styles done from training to score at a time; 0 = all
    quiet: bool = False  # no live display
    tags: list[str] = Field(default_factory=list)


def changed(settings: Any, **settings_now: Any) -> Any:
    """A record of settings with some of them changed."""
    return replace(settings, **settings_now)


def plain(settings: Any) -> dict[str, Any]:
    """A record of settings as nested dicts and lists."""
    return asdict(settings)


def leaves(record_type: type[Any] = TrialConfig, prefix: str = "") -> dict[str, Any]:
    """Every setting's dotted name and pydantic field, groups included."""
    found: dict[str, Any] = {}
    for name, field in record_type.__pydantic_fields__.items():
        key = f"{prefix}{name}"
        found[key] = field
        if hasattr(field.annotation, "__pydantic_fields__"):
            found |= leaves(field.annotation, f"{key}.")
    return found


def is_text(field: Any) -> bool:
    """Whether a setting's value can be one text, by its pydantic field."""

    def texts(kind: Any) -> bool:
        if get_origin(kind) is list:
            return False
        return kind is str or any(
            texts(part) for part in get_args(kind) if isinstance(part, type) or get_args(part)
        )

    return texts(field.annotation)
