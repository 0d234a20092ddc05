"""One loader for every kind of network: float32, frozen, in evaluation mode, from local files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluation.cache import feature_key
from evaluation.clip_rn50 import ResNetClip
from evaluation.errors import JudgesError
from evaluation.eyes import Eye, TextReader, exact
from evaluation.fid import Resize, resize_for_inception
from evaluation.judges import NetworkSpec
from evaluation.lpips import uniform_heads
from evaluation.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    HfPreprocess,
    Preprocess,
    RawPreprocess,
    SquarePreprocess,
)
from evaluation.states import read_state
from evaluation.trunks import InceptionStem, SqueezeTrunk, load_state, load_trunk
from evaluation.weights import Located, digest_of_tokenizer


@dataclass
class Loaded:
    """An eye, the widths of a trunk's stages, and the text tower of a CLIP."""

    eye: Eye
    channels: tuple[int, ...] = ()
    texts: TextReader | None = None


_DEFAULT_HEADS = {"squeeze": "lpips", "trunk": "uniform"}


def read_heads(spec: NetworkSpec, channels: tuple[int, ...]) -> list[Tensor]:
    """LPIPS' weights per stage, (C,) each, for a trunk of these widths.

    Raises:
        ValueError: the heads do not fit the trunk, or have negative weights.
    """
    heads = spec.options.get("heads", _DEFAULT_HEADS[spec.kind])
    if heads == "uniform":
        return uniform_heads(channels)
    if heads == "lpips":
        state = read_state(_lpips_package() / "weights" / "v0.1" / "squeeze.pth")
        found = [state[f"lin{i}.model.1.weight"] for i in range(len(channels))]
    else:
        state = load_file(heads)
        found = [state[f"lin{i}.weight"] for i in range(len(channels))]
    flat = [head.float().flatten() for head in found]
    if tuple(len(head) for head in flat) != channels or any((head < 0).any() for head in flat):
        sizes = [len(head) for head in flat]
        raise ValueError(f"heads {heads}: {list(channels)} weights >= 0 are wanted, found {sizes}")
    return flat


def _lpips_package() -> Path:
    """The folder of the lpips package, not imported: only its heads are used."""
    found = find_spec("lpips")
    if found is None or found.origin is None:
        raise ValueError("heads 'lpips' need the lpips package: pip install lpips")
    return Path(found.origin).parent


def _eye(module: nn.Module, prepare: Preprocess, located: Located, device: torch.device, **extra: Any) -> Eye:
    forward = extra.pop("forward", module)
    digest = feature_key(located.digest, prepare.key, *(f"{k}={v}" for k, v in sorted(extra.items())))
    return Eye(module, digest, prepare, forward, device)


def _load_vision(located: Located, device: torch.device, _: Resize) -> Loaded:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(located.place, dtype=torch.float32, local_files_only=True)
    model = model.to(device).eval().requires_grad_(False)
    prepare = HfPreprocess.from_file(located.place / "preprocessor_config.json")
    return Loaded(_eye(model, prepare, located, device, forward=partial(_pooler_output, model)))


def _pooler_output(model: nn.Module, x: Tensor) -> list[Tensor]:
    pooled_output = model(pixel_values=x).pooler_output
    if pooled_output is None:
        raise JudgesError(f"{type(model).__name__} has no pooled output; DINO's role needs one")
    return [pooled_output]


def _load_clip(located: Located, device: torch.device, _: Resize) -> Loaded:
    from transformers import AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(located.place, dtype=torch.float32, local_files_only=True)
    model = model.to(device).eval().requires_grad_(False)
    prepare = HfPreprocess.from_file(located.place / "preprocessor_config.json")
    eye = _eye(model, prepare, located, device, forward=partial(_clip_picture, model))
    tokenizer = AutoTokenizer.from_pretrained(located.place, local_files_only=True)
    return Loaded(eye, texts=_HfTexts(model, tokenizer, located.digest, device))


def _clip_picture(model: Any, x: Tensor) -> list[Tensor]:
    # Not get_image_features: what it returns has changed between releases of transformers.
    return [model.visual_projection(model.vision_model(pixel_values=x).pooler_output)]


@dataclass
class _HfTexts:
    model: Any
    tokenizer: Any
    digest: str
    device: torch.device

    def encode(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.device)
        with torch.inference_mode(), exact(self.device):
            out = self.model.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
            return cast(Tensor, self.model.text_projection(out.pooler_output)).float().cpu()


def _load_rn50(located: Located, device: torch.device, _: Resize) -> Loaded:
    from transformers import AutoTokenizer

    assert located.tokenizer is not None  # `locate` finds one for this kind
    model = ResNetClip.from_state(read_state(located.place), located.place).to(device)
    # The checker hands 0…255 to a metric that expects 0…1: its CLIP-IQA sees pictures 255 times too bright.
    prepare = RawPreprocess(CLIP_MEAN, CLIP_STD)
    eye = _eye(model, prepare, located, device, forward=lambda x: [model.encode_image(x)])
    tokenizer = AutoTokenizer.from_pretrained(located.tokenizer, local_files_only=True)
    # The tokenizer is a place of its own here, which the digest of the weight file knows nothing of.
    digest = feature_key(located.digest, digest_of_tokenizer(located.tokenizer))
    return Loaded(eye, texts=_Rn50Texts(model, tokenizer, digest, device))


@dataclass
class _Rn50Texts:
    model: ResNetClip
    tokenizer: Any
    digest: str
    device: torch.device

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Padded with 0, as torchmetrics does: the end token keeps the highest number, so argmax finds it."""
        ids = torch.zeros(len(texts), self.model.context, dtype=torch.long)
        for row, tokens in zip(ids, self.tokenizer(list(texts))["input_ids"], strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        with torch.inference_mode(), exact(self.device):
            return self.model.encode_text(ids.to(self.device)).float().cpu()


def _load_trunk(located: Located, device: torch.device, _: Resize) -> Loaded:
    trunk = load_trunk(located.place).to(device)
    config = trunk.config
    prepare = SquarePreprocess(config.image_size, config.mean, config.std)
    return Loaded(_eye(trunk, prepare, located, device), tuple(stage.channels for stage in config.stages))


def _load_squeeze(located: Located, device: torch.device, _: Resize) -> Loaded:
    trunk = SqueezeTrunk()
    state = read_state(located.place)
    features = {key: value for key, value in state.items() if key.startswith("features.")}
    load_state(trunk, features, located.place)
    # The checker resizes to 256 with PIL, then scales to [−1, 1].
    return Loaded(_eye(trunk.to(device), SquarePreprocess(256), located, device), SqueezeTrunk.CHANNELS)


def _load_inception(located: Located, device: torch.device, resize: Resize) -> Loaded:
    stem = InceptionStem()
    load_state(stem, InceptionStem.stem_of(read_state(located.place)), located.place)
    stem.to(device)

    def forward(x: Tensor) -> list[Tensor]:
        return cast(list[Tensor], stem((resize_for_inception(x, resize) - 128) / 128))

    return Loaded(_eye(stem, RawPreprocess(), located, device, forward=forward, resize=resize), (64,))


LOADERS: dict[str, Callable[[Located, torch.device, Resize], Loaded]] = {
    "hf_vision": _load_vision,
    "clip": _load_clip,
    "clip_rn50": _load_rn50,
    "trunk": _load_trunk,
    "squeeze": _load_squeeze,
    "inception": _load_inception,
}
