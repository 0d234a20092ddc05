"""Learnt words: equal to diffusers' loader and to its textual-inversion script, in any company."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from jdx.backends.base import (
    AdapterSpec,
    GenerateJob,
    ModelSpec,
    PictureSpec,
    SamplerSpec,
    ScheduleSpec,
    StyleDrawJob,
    TokensSpec,
)
from jdx.backends.state_files import state_fault
from jdx.backends.torch.adapter_reader import load_adapter
from jdx.backends.torch.adapters import Adapter
from jdx.backends.torch.generate import generate
from jdx.backends.torch.merge import worn
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.token_files import TokenVectors, load_tokens, save_tokens
from jdx.backends.torch.tokens import first_vectors, spoken
from jdx.errors import ConfigError
from jdx.progress import NullProgress
from tests.jdx.backends.train_jobs import (
    THREE,
    Moments,
    Reference,
    Result,
    largest_gap,
    make_job,
    only_word,
    run,
    with_prior,
    with_text,
    with_word,
)

FILE = "learned_embeds.safetensors"


@pytest.fixture(autouse=True)
def model_is_put_back(models: Models) -> Iterator[None]:
    tokenizer, layer = models.tokenizer, models.text_encoder.get_input_embeddings()
    size, weight = len(tokenizer), layer.weight.clone()
    yield
    assert models.tokenizer is tokenizer
    assert len(tokenizer) == size
    assert models.text_encoder.get_input_embeddings() is layer
    assert torch.equal(layer.weight, weight)


def learnt(result: Result, style: str, step: int = 4) -> Tensor:
    with safe_open(result.folders[style, step] / FILE, "pt") as file:
        assert list(file.keys()) == [f"<style_{style}>"]
        tensor: Tensor = file.get_tensor(f"<style_{style}>")
    return tensor


# The loader --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("style", ["00", "my style", "a+b"])
def test_diffusers_reads_the_file_and_says_the_same(
    style: str, vectors: int, tiny_sd: Path, tmp_path: Path
) -> None:
    models = load(ModelSpec(str(tiny_sd)), "cpu", torch.float32)
    word = TokenVectors(
        f"<style_{style}>", torch.randn(vectors, 32, generator=torch.Generator().manual_seed(1))
    )
    save_tokens(tmp_path, word, {"step": 3})
    prompts = [f"a cat in {word.token}, drawn", f"{word.token} dog {word.token}", "a cat in style"]
    with spoken(models, load_tokens(tmp_path / FILE, 32)):
        ours = models.embed(prompts)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, local_files_only=True)
    pipe.load_textual_inversion(str(tmp_path), weight_name=FILE, local_files_only=True)
    theirs = torch.cat([pipe.encode_prompt(prompt, "cpu", 1, False)[0] for prompt in prompts])
    assert torch.equal(ours, theirs)
    assert torch.equal(ours[2], models.embed(prompts[2:])[0])  # other prompts are what they were
    assert (ours[0] - models.embed(prompts[:1])[0]).abs().max() > 1e-2


def test_equal_words_are_equal_files(tmp_path: Path) -> None:
    word = TokenVectors("<a>", torch.ones(2, 3))
    files = [save_tokens(tmp_path / str(i), word, {"b": 1, "a": 2}).read_bytes() for i in range(4)]
    assert len(set(files)) == 1
    with safe_open(tmp_path / "0" / FILE, "pt") as file:
        assert json.loads(file.metadata()["jdx"])["a"] == 2


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"<a>": torch.ones(2, 31)}, "this base model's words are 32 wide"),
        ({"<a>": torch.ones(32), "<b>": torch.ones(32)}, "holds 2 tensors"),
        ({"<a>": torch.full((1, 32), torch.nan)}, "must be finite"),
        ({"a</w>": torch.ones(1, 32)}, None),
    ],
)
def test_files_that_cannot_be_used(
    tensors: dict[str, Tensor], message: str | None, models: Models, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / FILE)
    if message is not None:
        with pytest.raises(ConfigError, match=message):
            load_adapter(tmp_path, models)
        return
    with (
        pytest.raises(ConfigError, match="already has this word"),
        worn(models, load_adapter(tmp_path, models)),
    ):
        pass


def test_a_vector_of_one_dimension_and_a_torn_file(models: Models, tmp_path: Path) -> None:
    save_file({"<a>": torch.ones(32)}, tmp_path / FILE)
    adapter = load_adapter(tmp_path, models)
    assert adapter.tokens is not None
    assert adapter.tokens.vectors.shape == (1, 32)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:50])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_adapter(tmp_path, models)
    with pytest.raises(ValueError, match="not finite"):
        save_tokens(tmp_path, TokenVectors("<a>", torch.full((1, 32), torch.inf)), {})


# The first vectors --------------------------------------------------------------------------------------------


def test_vectors_begin_as_the_init_word(models: Models) -> None:
    """The tiny tokenizer spells by letters: "e" is one token, "pots" four."""
    weight = models.text_encoder.get_input_embeddings().weight
    ids = models.tokenizer("pots", add_special_tokens=False).input_ids

    def first(init: str, vectors: int) -> Tensor:
        return first_vectors(models.tokenizer, weight, TokensSpec("<a>", vectors, init, 0.1))

    one = models.tokenizer("e", add_special_tokens=False).input_ids
    assert [len(one), len(ids)] == [1, 4]
    assert torch.equal(first("e", 3), weight[one * 3])
    assert torch.equal(first("pots", 4), weight[ids])
    assert torch.equal(first("pots", 8), weight[[i for i in ids for _ in range(2)]])
    torch.testing.assert_close(first("pots", 1)[0], weight[ids].mean(0))
    torch.testing.assert_close(first("pots", 2)[1], weight[ids[2:]].mean(0))


# Training -----------------------------------------------------------------------------------------------------


class Inversion(Reference):
    """diffusers' textual_inversion.py on the same draws, with adapters or without.

    The embedding table is grown by the new words, all of it is given to AdamW, only the new rows get
    gradients, and the rows that were there are put back after every step.
    """

    def __init__(self, job: Any, adapter: AdapterSpec, models: Models):
        super().__init__(job, adapter, replace_tokenizer(models, copy.deepcopy(models.tokenizer)))

    def further_groups(self) -> list[dict[str, Any]]:
        word = self.adapter.tokens
        assert word is not None
        names = [word.token, *(f"{word.token}_{i}" for i in range(1, word.vectors))]
        (init,) = self.models.tokenizer.of_base(word.init)
        assert self.models.tokenizer.add_tokens(names) == word.vectors
        old = self.text.get_input_embeddings().weight.detach()
        grown = torch.nn.Embedding(len(old) + word.vectors, old.shape[1], dtype=old.dtype)
        grown.weight.data = torch.cat([old, old[[init] * word.vectors]]).clone()
        is_new = torch.arange(len(grown.weight))[:, None] >= len(old)
        grown.weight.register_hook(lambda grad: torch.where(is_new, grad, 0.0))  # type: ignore[no-untyped-call]
        self.text.set_input_embeddings(grown)
        self.table, self.old = grown.weight, old
        return [{"params": [self.table], "lr": word.lr, "weight_decay": word.weight_decay}]

    def step(self, step: int) -> float:
        loss = super().step(step)
        self.table.data[: len(self.old)] = self.old
        return loss


def replace_tokenizer(models: Models, tokenizer: Any) -> Models:
    class Spelling:
        """A word of several vectors as diffusers' loader spells it out."""

        model_max_length = 77

        def __call__(self, texts: Any, **settings: Any) -> Any:
            texts = [texts] if isinstance(texts, str) else texts
            spelt = [StableDiffusionPipeline._maybe_convert_prompt(None, text, tokenizer) for text in texts]
            return tokenizer(spelt, **settings)

        def add_tokens(self, names: list[str]) -> int:
            return int(tokenizer.add_tokens(names))

        def of_base(self, word: str) -> list[int]:
            return list(tokenizer(word, add_special_tokens=False).input_ids)

    other = copy.copy(models)
    other._warn_if_cut = lambda prompt: None  # type: ignore[method-assign]
    other.tokenizer = Spelling()
    return other


CASES: dict[str, AdapterSpec] = {
    "one vector": only_word(THREE[0]),
    "three vectors, clipped": only_word(replace(THREE[0], max_grad_norm=0.02), 3, weight_decay=0.3),
    "with both adapters and prior": with_word(with_text(with_prior(THREE[1])), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_optimising_rows_of_the_embedding(
    case: str, models: Models, moments: Moments, tmp_path: Path
) -> None:
    adapter = CASES[case]
    job = make_job(moments, models, adapter, log_every=1, batch_size=2)
    ours = run(job, models, tmp_path)
    reference = Inversion(job, adapter, models)
    losses = [reference.step(step) for step in range(4)]
    assert [mean for _, mean in ours.losses[adapter.style]] == pytest.approx(losses, rel=1e-10)
    gap = (learnt(ours, adapter.style) - reference.table.detach()[len(reference.old) :]).abs().max()
    assert gap < 1e-7  # published in float32
    assert (learnt(ours, adapter.style) - reference.old[-1]).abs().max() > 1e-3
    if adapter.unet.rank:
        assert largest_gap(ours.weights(adapter.style), reference.weights()) < 1e-7
    else:
        assert not (ours.folders[adapter.style, 4] / "pytorch_lora_weights.safetensors").exists()


@pytest.fixture(scope="module")
def mixed() -> tuple[AdapterSpec, ...]:
    return (
        only_word(THREE[0], 3),
        with_word(with_text(THREE[1]), 1, lr=1e-3, weight_decay=0.0),
        with_word(THREE[2], 2, init="cat"),
        with_text(replace(THREE[0], style="07")),
        replace(THREE[0], style="08"),
    )


@pytest.fixture(scope="module")
def together(
    mixed: tuple[AdapterSpec, ...], models: Models, moments: Moments, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    return run(make_job(moments, models, *mixed, batch_size=2), models, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("settings", [{}, {"micro_batch": 4}, {"micro_batch": 1}], ids=str)
def test_company_packs_and_passes_change_nothing(
    settings: dict[str, int],
    mixed: tuple[AdapterSpec, ...],
    together: Result,
    models: Models,
    moments: Moments,
    tmp_path: Path,
) -> None:
    jobs = [mixed] if settings else [(adapter,) for adapter in mixed]
    for n, adapters in enumerate(jobs):
        job = make_job(moments, models, *adapters, batch_size=2, **settings)
        other = run(job, models, tmp_path / str(n))
        for adapter in adapters:
            assert largest_gap(other.tensors(adapter.style), together.tensors(adapter.style)) < 1e-10
    files = {style: {p.name for p in folder.iterdir()} for (style, _), folder in together.folders.items()}
    common, lora = {"state.safetensors", "losses.csv"}, "pytorch_lora_weights.safetensors"
    assert files == {
        "00": {*common, FILE},
        "05": {*common, FILE, lora},
        "11": {*common, FILE, lora},
        "07": {*common, lora},
        "08": {*common, lora},
    }


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_windows_and_restarts(cut: int, models: Models, moments: Moments, tmp_path: Path) -> None:
    """The word learns for two steps, then the UNet's adapter; a restart before, at or after the change is exact."""
    adapter = replace(with_word(THREE[0], 2, steps=2), unet_start=2, max_grad_norm=0.05)
    settings: dict[str, Any] = {"log_every": 1, "schedule": ScheduleSpec("constant", 1)}
    stops = (1, 2, 3, 4)
    whole = run(make_job(moments, models, adapter, **settings, snapshots=stops), models, tmp_path / "whole")
    resume = {"00": whole.folders["00", cut]}
    rest = tuple(step for step in stops if step > cut)
    job = make_job(moments, models, adapter, **settings, snapshots=rest, resume=resume, start_step=cut)
    second = run(job, models, tmp_path / "second")
    for file in (FILE, "pytorch_lora_weights.safetensors", "state.safetensors", "losses.csv"):
        assert (whole.folders["00", 4] / file).read_bytes() == (
            second.folders["00", 4] / file
        ).read_bytes(), file
    assert torch.equal(learnt(whole, "00", 2), learnt(whole, "00", 4))
    assert not torch.equal(learnt(whole, "00", 1), learnt(whole, "00", 2))
    lora = [whole.tensors("00", step)["unet.param"] for step in stops]
    assert torch.equal(lora[0], lora[1])
    # The UNet's own warm-up of one step begins with its window: at step 3 its rate is 0, as the word's was at 1.
    assert torch.equal(lora[1], lora[2])
    assert not torch.equal(lora[2], lora[3])


def test_a_gap_between_windows_is_a_fault(models: Models, moments: Moments, tmp_path: Path) -> None:
    adapter = replace(with_word(THREE[0], 2, steps=2), unet_start=3)
    with pytest.raises(ConfigError, match=r"adapter 00: steps = 3 to 3"):
        run(make_job(moments, models, adapter), models, tmp_path)
    with pytest.raises(ConfigError, match="steps = 3 to 4"):
        run(make_job(moments, models, only_word(THREE[0], steps=2)), models, tmp_path)
    with pytest.raises(ConfigError, match="steps = 1 to 2"):
        run(make_job(moments, models, replace(THREE[0], unet_start=2)), models, tmp_path)


def test_faults_of_words(models: Models, moments: Moments, tmp_path: Path) -> None:
    known = replace(THREE[0], tokens=TokensSpec("a</w>", 0, "<|endoftext|>", -1.0, steps=0))
    twice = [
        replace(THREE[k], tokens=TokensSpec(f"<style_{n}>", 1, " ", 0.1)) for k, n in ((1, "x"), (2, "X"))
    ]
    with pytest.raises(ConfigError) as caught:
        run(make_job(moments, models, known, *twice), models, tmp_path)
    text = str(caught.value)
    for part in (
        "already has this word",
        "two words of this name",
        "cannot spell it",
        "tokens.vectors = 0",
        "tokens.lr = -1.0",
        "tokens.steps = 0",
    ):
        assert part in text
    assert text.count("cannot spell it") == 2


def test_words_longer_than_a_prompt_are_refused(models: Models, moments: Moments, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokens.vectors = 76\n.*at most 75"):
        run(make_job(moments, models, only_word(THREE[0], 76)), models, tmp_path)


def test_init_words_of_several_tokens_are_said_once(
    models: Models, moments: Moments, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    adapters = [only_word(adapter, init="pot") for adapter in THREE]
    run(make_job(moments, models, *adapters, snapshots=(1,)), models, tmp_path)
    said = [r.message for r in caplog.records if "init word" in r.message and "pot" in r.message]
    assert said[-1] == "the init word 'pot' is 3 tokens, spread over the vectors: p o t</w>"
    assert len(said) <= 2  # once while memory is measured, once in the pack


def test_the_average_is_what_is_published(models: Models, moments: Moments, tmp_path: Path) -> None:
    adapter = replace(only_word(THREE[0], 2), ema_decay=0.9)
    result = run(make_job(moments, models, adapter), models, tmp_path)
    state = result.tensors("00")
    assert torch.equal(learnt(result, "00").flatten(), state["tokens.ema"].float())
    assert not torch.equal(state["tokens.ema"], state["tokens.param"])


def test_a_word_of_another_size_is_not_resumed(models: Models, moments: Moments, tmp_path: Path) -> None:
    first = run(make_job(moments, models, only_word(THREE[0], 2), snapshots=(1,)), models, tmp_path / "first")
    resume = {"00": first.folders["00", 1]}
    assert state_fault(resume["00"], 1) is None
    job = make_job(moments, models, only_word(THREE[0], 3), resume=resume, start_step=1)
    with pytest.raises(ConfigError, match="words or base model differ"):
        run(job, models, tmp_path / "second")


def test_out_of_memory_halves_the_pack(
    models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = [only_word(adapter, 2) for adapter in THREE]
    job = make_job(moments, models, *adapters, batch_size=2, snapshots=(2, 4))
    whole = run(job, models, tmp_path / "whole")
    forward, calls = models.unet.forward, []

    def small(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(x))
        if len(x) > 4 and len(calls) > 3:
            raise torch.cuda.OutOfMemoryError("simulated")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(models.unet, "forward", small)
    halved = run(job, models, tmp_path / "halved")
    assert max(calls) == 6
    assert max(calls[4:]) <= 4
    for style in ("00", "05", "11"):
        assert largest_gap(whole.tensors(style), halved.tensors(style)) < 1e-10


def test_bfloat16_base_keeps_words_in_float32(tiny_sd: Path, moments: Moments, tmp_path: Path) -> None:
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        models = load(ModelSpec(str(tiny_sd)), "cpu", dtype)
        job = make_job(moments, models, only_word(THREE[0], 2), with_word(THREE[1]), log_every=4)
        result = run(job, models, tmp_path / str(dtype))
        assert learnt(result, "00").dtype == torch.float32
        assert not torch.equal(learnt(result, "00"), learnt(result, "00").bfloat16().float())
        losses[dtype] = [mean for style in ("00", "05") for _, mean in result.losses[style]]
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)


# Drawing ------------------------------------------------------------------------------------------------------


def test_drawing_says_the_word_as_diffusers_does(tiny_sd: Path, moments: Moments, tmp_path: Path) -> None:
    """A trained folder with word and adapter, drawn by us and by a plain diffusers pipeline."""
    models = load(ModelSpec(str(tiny_sd)), "cpu", torch.float32)
    adapter = with_word(with_text(replace(THREE[0], unet_lr=0.1)), 2, lr=0.5)
    folder = run(make_job(moments, models, adapter), models, tmp_path / "trained").folders["00", 4]
    prompt, spec = "a cat in <style_00>, drawn", SamplerSpec("ddim", 3, 4.0)
    style = StyleDrawJob("00", folder, (PictureSpec("cat.png", prompt, "", 7),))
    job = GenerateJob(models.spec, spec, 64, (style,))
    generate(job, models, tmp_path / "drawn", NullProgress(), lambda name, path: None)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(folder), weight_name="pytorch_lora_weights.safetensors")
    pipe.load_textual_inversion(str(folder), weight_name=FILE, local_files_only=True)

    def theirs(text: str) -> Tensor:
        seed = torch.Generator().manual_seed(7)
        picture = pipe(
            text, num_inference_steps=3, guidance_scale=4.0, height=64, width=64, generator=seed
        ).images[0]
        return pixels(picture)

    ours = pixels(Image.open(tmp_path / "drawn" / "00" / "cat.png"))
    assert (ours - theirs(prompt)).abs().max() <= 1
    assert (ours - theirs("a cat in style, drawn")).abs().max() > 3  # the word does something


def pixels(picture: Image.Image) -> Tensor:
    return torch.tensor(list(picture.convert("RGB").getdata()), dtype=torch.float32)


def test_worn_puts_everything_on_and_takes_it_off(models: Models) -> None:
    word = TokenVectors("<w>", torch.ones(2, 32))
    before = models.embed(["a cat", "<w>"])
    with worn(models, Adapter(tokens=word)):
        inside = models.embed(["a cat", "<w>"])
        assert torch.equal(inside[0], before[0])
        assert not torch.equal(inside[1], before[1])
    assert torch.equal(models.embed(["a cat", "<w>"]), before)
    with pytest.raises(RuntimeError, match="stop"), worn(models, Adapter(tokens=word)):
        raise RuntimeError("stop")
