"""Convolutional trunks that show what each of their stages sees: what LPIPS and FID look through."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}
_NORMS = ("batch", "group", "none")


@dataclass(frozen=True)
class StageConfig:
    """One stage of a `ConvTrunk`: `layers` × (convolution, norm, activation), `stride` on the first.

    Raises:
        ValueError: a number below 1, or an even kernel (it would move the picture by half a pixel).
    """

    channels: int
    layers: int = 1
    kernel: int = 3
    stride: int = 2

    def __post_init__(self) -> None:
        low = {name: value for name, value in asdict(self).items() if value < 1}
        if low or self.kernel % 2 == 0:
            raise ValueError(
                f"trunk stage {asdict(self)}: all four numbers are integers >= 1, and the kernel is odd"
            )


@dataclass(frozen=True)
class TrunkConfig:
    """The shape of a `ConvTrunk`, and how a picture is made ready for it (`config.json` of its folder).

    `image_size`: side in pixels to which PIL resizes (bilinear), None for "as it is"; `mean` and `std` apply
    to values in [0, 1].

    Raises:
        ValueError: no stages, an unknown norm or activation, or channels that `groups` does not divide.
    """

    stages: tuple[StageConfig, ...]
    image_size: int | None = 128
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    norm: str = "batch"
    groups: int = 8
    eps: float = 1e-5
    activation: str = "relu"
    format: int = 1

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ValueError("trunk config: " + "; ".join(faults))

    def _faults(self) -> Sequence[str]:
        faults = []
        if not self.stages:
            faults.append("`stages` is empty, at least one is needed")
        if self.norm not in _NORMS:
            faults.append(f"norm {self.norm!r} is not one of {', '.join(_NORMS)}")
        if self.activation not in _ACTIVATIONS:
            faults.append(f"activation {self.activation!r} is not one of {', '.join(_ACTIVATIONS)}")
        if self.norm == "group":
            bad = [s.channels for s in self.stages if s.channels % self.groups]
            faults += [f"{channels} channels cannot be split into {self.groups} groups" for channels in bad]
        if self.format != 1:
            faults.append(f"format {self.format} is newer than this program, which reads format 1")
        return faults

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TrunkConfig":
        """Read a `config.json` that has been parsed; unknown keys are an error that lists the known ones."""
        known = set(cls.__dataclass_fields__)
        unknown = sorted(set(data) - known)
        if unknown:
            raise ValueError(f"trunk config: unknown keys {unknown}, known are {sorted(known)}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        plain["stages"] = tuple(StageConfig(**stage) for stage in data.get("stages", []))
        return cls(**plain)


class _ConvLayer(nn.Module):
    def __init__(self, before: int, stage: StageConfig, stride: int, config: TrunkConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            before, stage.channels, stage.kernel, stride, stage.kernel // 2, bias=config.norm == "none"
        )
        self.norm: nn.Module = nn.Identity()
        if config.norm == "batch":
            self.norm = nn.BatchNorm2d(stage.channels, eps=config.eps)
        elif config.norm == "group":
            self.norm = nn.GroupNorm(config.groups, stage.channels, eps=config.eps)
        self.act = _ACTIVATIONS[config.activation]()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.act(self.norm(self.conv(x))))


class ConvTrunk(nn.Module):
    """A plain stack of conv-norm-activation stages, small enough to train and ship with a project.

    `forward`: (N, 3, H, W) normalised by `config.mean` and `config.std` → one (N, C, h, w) per stage.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList()
        before = 3
        for stage in config.stages:
            widths = [before] + [stage.channels] * (stage.layers - 1)
            strides = [stage.stride] + [1] * (stage.layers - 1)
            layers = [_ConvLayer(w, stage, s, config) for w, s in zip(widths, strides, strict=True)]
            self.stages.append(nn.Sequential(*layers))
            before = stage.channels

    def forward(self, x: Tensor) -> list[Tensor]:
        seen = []
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return seen


def save_trunk(trunk: ConvTrunk, folder: Path | str, dtype: torch.dtype = torch.float16) -> None:
    """Write `config.json` and `model.safetensors` as `load_trunk` reads them; floats become `dtype`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = asdict(trunk.config)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    state = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for key, value in trunk.state_dict().items()
    }
    save_file(state, folder / "model.safetensors")


def load_trunk(folder: Path | str) -> ConvTrunk:
    """Read a folder that `save_trunk` wrote, as float32 and in evaluation mode.

    Raises:
        FileNotFoundError: one of the two files is absent.
        ValueError: the config is not one, or the weights do not fit it.
    """
    folder = Path(folder)
    trunk = ConvTrunk(TrunkConfig.from_json(json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    state = load_file(folder / "model.safetensors")
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    load_state(trunk, state, folder / "model.safetensors")
    return trunk


def load_state(module: nn.Module, state: dict[str, Tensor], origin: Path | str) -> None:
    """Fill `module` strictly, set it to evaluation and freeze it; a misfit names the file and the keys."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{origin}: the weights do not fit {type(module).__name__}: {error}") from error
    module.eval().requires_grad_(False)


class SqueezeTrunk(nn.Module):
    """The seven stages of SqueezeNet 1.1 (Iandola et al. 2016) that LPIPS looks at (Zhang et al. 2018).

    `forward`: (N, 3, H, W) in [−1, 1] → seven maps of 64, 128, 256, 384, 384, 512 and 512 channels.
    """

    _ENDS = (2, 5, 8, 10, 11, 12, 13)
    CHANNELS = (64, 128, 256, 384, 384, 512, 512)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_1

        self.features = squeezenet1_1(weights=None).features
        # LPIPS' own scaling of [−1, 1] to ImageNet's statistics (`ScalingLayer` of the lpips package).
        self.register_buffer(
            "shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x - self.get_buffer("shift")) / self.get_buffer("scale")
        seen = []
        for begin, end in zip((0, *self._ENDS[:-1]), self._ENDS, strict=True):
            for layer in self.features[begin:end]:
                x = layer(x)
            seen.append(x)
        return seen


class _BasicConv(nn.Module):
    def __init__(self, before: int, after: int, **kwargs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, bias=False, **kwargs)  # type: ignore[arg-type]
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class InceptionStem(nn.Module):
    """The first three convolutions of the 2015-12-05 Inception: all that 64-dimensional FID needs.

    Names follow torch-fidelity's weight file, so its state dict loads after `stem_of`.
    `forward`: (N, 3, 299, 299) of (value − 128) / 128 → [(N, 64, 73, 73)], after the first max pooling.
    """

    PARTS = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _BasicConv(3, 32, stride=2)
        self.Conv2d_2a_3x3 = _BasicConv(32, 32)
        self.Conv2d_2b_3x3 = _BasicConv(32, 64, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        return [F.max_pool2d(x, kernel_size=3, stride=2)]

    @classmethod
    def stem_of(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of a whole Inception state dict that belongs to the stem."""
        return {key: value for key, value in state.items() if key.split(".")[0] in cls.PARTS}
