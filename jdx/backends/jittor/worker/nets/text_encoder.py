"""CLIPTextModel (Radford et al. 2021), as transformers computes it, up to its last hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np

from jdx.backends.jittor.worker.nets.attention import attend
from jdx.backends.jittor.worker.nets.configs import TEXT, TextConfig, config_of
from jdx.backends.jittor.worker.nets.layers import LayerNorm, Linear, gelu, quick_gelu
from jdx.backends.jittor.worker.nets.weights import Source, open_weights

UNSEEN = -1e9
"""Added to the logits of later tokens: their weights are 0 in float32, and no infinity meets another."""


class TextEncoder:
    """Token ids to text states. `modules`: its layers by path, without `text_model.`, in transformers' order.

    `look_up` gives the embeddings (n, L, width) of ids (n, L); whoever sets another puts it back.
    """

    def __init__(self, source: Source, c: TextConfig):
        self.config = c
        embeddings = source.below("embeddings")
        self.token_embedding = embeddings.take("token_embedding.weight", c.vocab_size, c.hidden_size)
        self.position_embedding = embeddings.take(
            "position_embedding.weight", c.max_position_embeddings, c.hidden_size
        )
        layers = source.below("encoder.layers")
        self.layers = [Layer(layers.below(i), c) for i in range(c.num_hidden_layers)]
        self.norm = LayerNorm(source.below("final_layer_norm"), c.hidden_size, c.layer_norm_eps)
        self.modules: Mapping[str, Any] = source.book.modules
        self.look_up: Callable[[jt.Var], jt.Var] = self.embeddings_of

    def embeddings_of(self, ids: jt.Var) -> jt.Var:
        """The vocabulary's embeddings (n, L, width) of ids (n, L)."""
        return self.token_embedding[ids]

    def __call__(self, ids: np.ndarray[Any, Any] | jt.Var) -> jt.Var:
        """The last hidden states (n, L, width) of token ids (n, L)."""
        ids = ids if isinstance(ids, jt.Var) else jt.array(np.asarray(ids, np.int32))
        L = ids.shape[1]
        h = self.look_up(ids) + self.position_embedding[:L]
        mask = jt.array(np.triu(np.full((L, L), UNSEEN, np.float32), 1)).stop_grad()
        for layer in self.layers:
            h = layer(h, mask)
        return self.norm(h)


class Layer:
    """Attention over the tokens before, and a feed-forward, each beside a residual."""

    def __init__(self, source: Source, c: TextConfig):
        width, attention = c.hidden_size, source.below("self_attn")
        self.heads = c.num_attention_heads
        self.k, self.v, self.q, self.out = (
            Linear(attention.below(name), width, width) for name in ("k_proj", "v_proj", "q_proj", "out_proj")
        )
        self.norm1 = LayerNorm(source.below("layer_norm1"), width, c.layer_norm_eps)
        self.wide = Linear(source.below("mlp.fc1"), width, c.intermediate_size)
        self.narrow = Linear(source.below("mlp.fc2"), c.intermediate_size, width)
        self.act = gelu if c.hidden_act == "gelu" else quick_gelu
        self.norm2 = LayerNorm(source.below("layer_norm2"), width, c.layer_norm_eps)

    def __call__(self, h: jt.Var, mask: jt.Var) -> jt.Var:
        """h: (n, L, width); mask: (L, L), added to the logits."""
        x = self.norm1(h)
        h = h + self.out(attend(self.q(x), self.k(x), self.v(x), self.heads, mask=mask))
        return h + self.narrow(self.act(self.wide(self.norm2(h))))


def load_text_encoder(folder: Path, variant: str | None) -> TextEncoder:
    """The text encoder in a model's folder.

    Raises: BackendError with everything in its config that is not supported, or in its weights that does not fit.
    """
    config = config_of(folder / "config.json", TEXT, TextConfig)
    source = open_weights(folder, "model", variant)
    encoder = TextEncoder(source, config)
    source.book.close(folder)
    return encoder
