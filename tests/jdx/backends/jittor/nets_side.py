"""Run with Jittor: computes what `test_nets.py` compares. Usage: nets_side.py FOLDER.

FOLDER/NAME/given.safetensors and FOLDER/NAME/given.json are what the torch side wrote, FOLDER/NAME/answers.* go back.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
from safetensors.numpy import load_file, save_file

from jdx.backends.base import LoraSpec, ModelSpec
from jdx.backends.jittor.worker.nets import attention, models
from jdx.backends.jittor.worker.nets.adapters import Adapter, load_adapter, worn, write_adapter
from jdx.backends.jittor.worker.nets.dropout import KeyedDropout, keep
from jdx.backends.jittor.worker.nets.layers import GroupNorm, LayerNorm, Linear, gelu, quick_gelu, resized
from jdx.backends.jittor.worker.nets.models import Models
from jdx.backends.jittor.worker.nets.stacked import inject
from jdx.backends.jittor.worker.nets.tokenizer import ClipTokenizer
from jdx.backends.jittor.worker.nets.unet import hooked, self_attentions
from jdx.backends.jittor.worker.nets.weights import Book, Source
from jdx.backends.lora_keys import canonical_te_path
from jdx.backends.owners import Owner
from jdx.errors import BackendError, ConfigError

Arrays = dict[str, np.ndarray[Any, Any]]


def numpy(**values: jt.Var) -> Arrays:
    return {name: np.ascontiguousarray(value.numpy()) for name, value in values.items()}


def owners(given: dict[str, Any], network: str) -> list[Owner]:
    return [
        Owner(style, seed, LoraSpec(**{**spec[network], "targets": tuple(spec[network]["targets"])}))
        for style, seed, spec in given["owners"]
    ]


def forward(m: Models, given: dict[str, Any], data: Arrays) -> tuple[Arrays, dict[str, Any]]:
    """Every network's plain pass."""
    with jt.no_grad():
        states = m.embed(given["prompts"])
        answer = m.unet(jt.array(data["x"]), data["t"], states)
        mean, std = m.moments(data["pixels"])
        decoded = m.decode(m.scaled(data["mean"]))
        odd = m.unet(jt.array(data["odd"]), 7, states[:1])
    linears = [path for path, module in m.unet.modules.items() if isinstance(module, Linear)]
    texts = [path for path, module in m.text_encoder.modules.items() if isinstance(module, Linear)]
    about = {
        "ids": m.tokenise(given["prompts"]).tolist(),
        "linears": linears,
        "texts": texts,
        "attentions": list(self_attentions(m.unet)),
    }
    return numpy(states=states, answer=answer, mean=mean, std=std, decoded=decoded, odd=odd), about


def step(m: Models, given: dict[str, Any], data: Arrays) -> tuple[Arrays, dict[str, Any]]:
    """Loss and gradients of one step of K styles in both networks, to their inputs too."""
    dropout = KeyedDropout(given["dropout"])
    dropout.keys = data["keys"]
    unet = inject(m.unet, owners(given, "unet"), dropout=dropout)
    text = inject(m.text_encoder, owners(given, "text_encoder"), rename=canonical_te_path, dropout=dropout)
    first = {"first_unet": unet.flat.numpy(), "first_text": text.flat.numpy()}
    unet.flat, text.flat = jt.array(data["unet_flat"]), jt.array(data["text_flat"])
    unet.bind()
    text.bind()
    x = jt.array(data["x"])
    states = m.text_encoder(data["ids"])
    error = m.unet(x, data["t"], states) - jt.array(data["goal"])
    losses = (error * error).mean(3).mean(2).mean(1)
    grads = jt.grad(losses.sum(), [unet.flat, text.flat, x])
    found = numpy(losses=losses, unet=grads[0], text=grads[1], x=grads[2])
    row = unet.flat.numpy()[1]
    round_trip = bool(np.array_equal(unet.row(1, unet.vector(1, row)), row))
    about = {"layouts": [unet.layout(k) for k in range(len(unet.owners))], "round_trip": round_trip}
    unet.remove()
    text.remove()
    return {**found, **first}, about


def drawing(m: Models, given: dict[str, Any], data: Arrays, folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """A merged adapter, hooks in two self-attentions, and the adapter written again."""
    adapter = load_adapter(Path(given["adapter"]), m)
    write_adapter(folder / "again", Adapter(adapter.unet, adapter.text_encoder, metadata=adapter.metadata))
    x = jt.array(data["x"])
    seen: Arrays = {}

    def capture(q: jt.Var, k: jt.Var, v: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var, float]:
        seen.update(numpy(q=q, k=k, v=v))
        return q, k, v, 1.0

    def replaced(q: jt.Var, k: jt.Var, v: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var, float]:
        return q, k[::-1], v[::-1], 1.5

    with jt.no_grad():
        with worn(m, adapter, given["scale"]):
            states = m.embed(given["prompts"])
            drawn = m.unet(x, data["t"], states)
            drawn.sync()
        plain = m.embed(given["prompts"])
        with hooked(m.unet, {given["hooked"][0]: capture, given["hooked"][1]: replaced}):
            answer = m.unet(x, data["t"], plain)
            answer.sync()
        whole = m.unet(x, data["t"], plain)
        attention.LOGITS_AT_ONCE = 1000
        pieces = m.unet(x, data["t"], plain)
    return {
        **numpy(states=states, drawn=drawn, plain=plain, hooked=answer, whole=whole, pieces=pieces),
        **seen,
    }, {}


def layers(data: Arrays) -> Arrays:
    """Single layers where Jittor's own lose digits or are missing."""

    def of(**shapes: tuple[int, ...]) -> Source:
        book = Book(shapes, {})
        book.read = lambda name: data[f"norm.{name}"]  # type: ignore[method-assign]
        return Source(book)

    far = jt.array(data["far"])
    source = of(weight=(8,), bias=(8,))
    group = GroupNorm(source, 2, 8, 1e-5)(far)
    layer = LayerNorm(source, 8)(far.permute(0, 2, 3, 1))
    line = jt.array(data["line"])
    mask = keep(data["keys"], 99, 400, 0.3)
    size = resized(far, 11, 9)
    return numpy(group=group, layer=layer, gelu=gelu(line), quick=quick_gelu(line), mask=mask, resized=size)


def told(path: str) -> str:
    """The error of a model that must not load."""
    try:
        models.load(ModelSpec(path))
    except (BackendError, ConfigError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def main(folder: Path) -> None:
    given = json.loads((folder / "given.json").read_text())
    data = load_file(folder / "given.safetensors")
    m = models.load(ModelSpec(given["model"], variant=given.get("variant")))
    answers, about = forward(m, given, data)
    if "owners" in given:
        for name, (some, words) in {
            "step": step(m, given, data),
            "drawing": drawing(m, given, data, folder),
        }.items():
            answers |= {f"{name}.{key}": value for key, value in some.items()}
            about |= words
        answers |= {f"layers.{key}": value for key, value in layers(data).items()}
    about["errors"] = {name: told(path) for name, path in given["broken"].items()}
    tokenizers = given.get("tokenizers", [])
    about["tokenizers"] = [ClipTokenizer(Path(path))(given["texts"], 20).tolist() for path in tokenizers]
    save_file(answers, folder / "answers.safetensors")
    (folder / "answers.json").write_text(json.dumps(about))


if __name__ == "__main__":
    for part in sys.argv[1:]:
        main(Path(part))
