"""OpenAI's CLIP with a ResNet-50 eye (Radford et al. 2021), as CLIP-IQA uses it: without positions.

The checker's CLIP-IQA is torchmetrics' default, which loads this network through piq. It is written out here
because transformers has no ResNet CLIP and piq has had no release since 2023. Names follow OpenAI's file.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.trunks import load_state

# Width of a head of both transformers in every CLIP.
_HEAD = 64
# Entries of OpenAI's file that describe its network and are no weights.
_EXTRAS = ("input_resolution", "context_length", "vocab_size")


class _Bottleneck(nn.Module):
    """Residual block whose stride is an average pooling, on both ways."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(
                OrderedDict(
                    [
                        ("-1", nn.AvgPool2d(stride)),
                        ("0", nn.Conv2d(before, after, 1, bias=False)),
                        ("1", nn.BatchNorm2d(after)),
                    ]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.pool(F.relu(self.bn2(self.conv2(out))))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class _AttentionPool(nn.Module):
    """Attention of the mean place over all places; its positional embedding is loaded and left unused."""

    def __init__(self, places: int, width: int, after: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(places, width))
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, after)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        mean = x.mean(1, keepdim=True)
        x = torch.cat([mean, x], 1)
        q, k, v = (_heads(proj(y)) for proj, y in ((self.q_proj, mean), (self.k_proj, x), (self.v_proj, x)))
        seen = F.scaled_dot_product_attention(q, k, v)
        pooled: Tensor = self.c_proj(seen.transpose(1, 2).flatten(2)[:, 0])
        return pooled


def _heads(x: Tensor) -> Tensor:
    """(N, L, heads·64) → (N, heads, L, 64)."""
    return x.view(*x.shape[:2], -1, _HEAD).transpose(1, 2)


class _Visual(nn.Module):
    def __init__(self, width: int, layers: tuple[int, ...], places: int, after: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        before = width
        for i, count in enumerate(layers):
            inner = width * 2**i
            blocks = [_Bottleneck(before, inner, 1 if i == 0 else 2)]
            blocks += [_Bottleneck(4 * inner, inner, 1) for _ in range(count - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            before = 4 * inner
        self.attnpool = _AttentionPool(places, before, after)

    def forward(self, x: Tensor) -> Tensor:
        for i in (1, 2, 3):
            x = F.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x)))
        x = F.avg_pool2d(x, 2)
        for i in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{i}")(x)
        pooled: Tensor = self.attnpool(x)
        return pooled


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // _HEAD, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict([("c_fc", nn.Linear(width, 4 * width)), ("c_proj", nn.Linear(4 * width, width))])
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        h = self.mlp.get_submodule("c_fc")(self.ln_2(x))
        # OpenAI's "quick" GELU.
        h = h * torch.sigmoid(1.702 * h)
        out: Tensor = x + self.mlp.get_submodule("c_proj")(h)
        return out


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([_Block(width) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = torch.full((length, length), float("-inf"), device=x.device).triu_(1)
        for block in self.resblocks:
            x = block(x, mask)
        return x


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """How many numbered blocks a state dict has under a prefix."""
    return len({key.split(".")[2] for key in state if key.startswith(prefix)})


class ResNetClip(nn.Module):
    """Both towers; all sizes are read from the state dict.

    `encode_image`: (N, 3, H, W), any size from 32 up → (N, d). `encode_text`: (N, L) token ids, padded with 0
    to the context length → (N, d). Neither is normalised.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        context, width = state["positional_embedding"].shape
        after = state["text_projection"].shape[1]
        layers = tuple(_count(state, f"visual.layer{i}.") for i in (1, 2, 3, 4))
        places = state["visual.attnpool.positional_embedding"].shape[0]
        self.context = int(context)
        self.visual = _Visual(state["visual.layer1.0.conv1.weight"].shape[0], layers, places, after)
        self.transformer = _Transformer(width, _count(state, "transformer.resblocks."))
        self.token_embedding = nn.Embedding(*state["token_embedding.weight"].shape)
        self.positional_embedding = nn.Parameter(torch.zeros(context, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, after))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_image(self, x: Tensor) -> Tensor:
        out: Tensor = self.visual(x)
        return out

    def encode_text(self, ids: Tensor) -> Tensor:
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding)
        # The end token has the highest number, so argmax finds it.
        last = self.ln_final(x)[torch.arange(len(ids)), ids.argmax(-1)]
        out: Tensor = last @ self.text_projection
        return out

    @classmethod
    def from_state(cls, state: dict[str, Tensor], origin: Path | str) -> "ResNetClip":
        """Build and fill from OpenAI's state dict, as float32, in evaluation mode.

        Raises:
            ValueError: it is no state dict of a ResNet CLIP.
        """
        state = {key: value.float() for key, value in state.items() if key not in _EXTRAS}
        try:
            with torch.device("meta"):  # first numbers take longer to draw than the file takes to read
                model = cls(state)
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(f"{origin}: not the state dict of a ResNet CLIP (missing {error})") from error
        load_state(model.to_empty(device="cpu"), state, origin)
        return model
