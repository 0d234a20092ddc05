"""DINO, CLIP-R and CLIP-IQA against transformers, torchmetrics and piq on the same random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.multimodal import clip_iqa as torchmetrics_iqa

from evaluation import Judges, ScoreOptions, Scorer, load_judges
from evaluation.clip_iqa import PROMPTS as IQA_PROMPTS
from evaluation.clip_r import TOP, candidates, read_nouns, wanted_noun
from evaluation.judges import NOUNS, NetworkSpec
from evaluation.loaders import LOADERS
from evaluation.pictures import MODES
from evaluation.preprocess import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, HfPreprocess
from evaluation.states import read_state
from evaluation.weights import Located
from tests.evaluation.tiny import picture, save_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def judges(tiny_judges: Path) -> Judges:
    """The tiny set, loaded once."""
    return load_judges(tiny_judges, device="cpu")


def _embed(eye: Any, pictures: list[Image.Image]) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = eye.forward(torch.stack([torch.from_numpy(eye.prepare(p)) for p in pictures]))[0]
        return out


@pytest.mark.parametrize("size", [(512, 512), (300, 401), (640, 200), (97, 64)])
@pytest.mark.parametrize("network", ["dino", "clip"])
def test_preprocessing_equals_transformers_on_pil(network: str, size: tuple[int, int]) -> None:
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = picture(0, 50).resize(size)
    if network == "dino":
        # facebook/dinov2-base's own settings.
        ours = HfPreprocess(256, (224, 224), IMAGENET_MEAN, IMAGENET_STD)
        theirs = BitImageProcessorPil(
            size={"shortest_edge": 256}, image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD)
        )
    else:
        ours, theirs = HfPreprocess(224, (224, 224), CLIP_MEAN, CLIP_STD), CLIPImageProcessorPil()
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    assert np.abs(ours(image) - expected).max() < 1e-5


def test_preprocessor_file_is_read_as_transformers_reads_it(tiny_judges: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tiny_judges.parent / "clip"
    image = picture(1, 77)
    theirs = CLIPImageProcessorPil.from_pretrained(folder)(image, return_tensors="np")["pixel_values"][0]
    assert np.abs(HfPreprocess.from_file(folder / "preprocessor_config.json")(image) - theirs).max() < 1e-5


def test_dino_equals_transformers(
    judges: Judges, tiny_judges: Path, challenge_set: tuple[Path, Path]
) -> None:
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(tiny_judges.parent / "dino").eval()
    generated, references = (sorted(folder.rglob("00/**/*.png")) for folder in challenge_set)
    prepare = HfPreprocess.from_file(tiny_judges.parent / "dino" / "preprocessor_config.json")

    def vector(path: Path) -> torch.Tensor:
        x = torch.from_numpy(prepare(Image.open(path)))[None]
        with torch.inference_mode():
            out: torch.Tensor = model(pixel_values=x).pooler_output[0]
            return out

    # One pair at a time, as the official checker does.
    pairs = [[torch.cosine_similarity(vector(g), vector(r), 0).item() for r in references] for g in generated]
    score = Scorer(judges, ScoreOptions(cache=None)).add_style(
        "00", {p.stem: p for p in generated}, references
    )
    assert score.dino == pytest.approx(np.mean(pairs), abs=1e-5)


def test_clip_r_equals_the_checker(judges: Judges, tiny_judges: Path) -> None:
    """Candidates, softmax over all of them and the top five, done with CLIPModel's own forward."""
    from transformers import AutoTokenizer, CLIPModel

    folder = tiny_judges.parent / "clip"
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    prompts = ["Cat", "Moon", "Ice cream", "Ice_cream", "Key.v2"]
    pictures = {prompt: picture(i) for i, prompt in enumerate(prompts)}
    scorer = Scorer(judges, ScoreOptions(cache=None))
    score = scorer.add_style("00", pictures, [picture(50), picture(51)])
    nouns = (tiny_judges.parent / "nouns.txt").read_text().splitlines()
    prepare = HfPreprocess.from_file(folder / "preprocessor_config.json")
    for prompt, image in pictures.items():
        texts = sorted({noun.lower() for noun in nouns} | {prompt.split(".")[0].lower()})
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        tokens.pop("token_type_ids", None)
        with torch.inference_mode():
            logits = model(pixel_values=torch.from_numpy(prepare(image))[None], **tokens).logits_per_image
        top = [texts[i] for i in logits.softmax(-1)[0].topk(5).indices]
        assert list(score.pictures[prompt].clip_r_top5) == top
        assert score.pictures[prompt].clip_r_hit == (prompt.split(".")[0].lower() in top)


def test_candidates_are_the_contest_nouns_and_the_stem() -> None:
    nouns = read_nouns(NOUNS)
    assert len(nouns) == 215
    assert len(candidates(nouns, "Ice cream")) == 215
    assert "ice_cream" in candidates(nouns, "Ice_cream")
    assert len(candidates(nouns, "Ice_cream")) == 216
    assert wanted_noun("Cat.old.png") == "cat"
    assert TOP == 5


@pytest.fixture(scope="module")
def rn50(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small ResNet CLIP of piq with random weights, and its state dict in a file."""
    from piq.feature_extractors.clip import CLIP

    torch.manual_seed(3)
    model = CLIP(
        embed_dim=20,
        image_resolution=64,
        vision_layers=(1, 2, 1, 1),
        vision_width=8,
        vision_patch_size=None,
        context_length=16,
        vocab_size=514,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=2,
    ).eval()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("bn3.weight", "running_var")):
            value.data.uniform_(0.5, 1.5)
    folder: Path = tmp_path_factory.mktemp("rn50")
    save_tokenizer(folder / "tokenizer")
    torch.save(model.state_dict(), folder / "RN50.pt")
    return model, folder


def test_clip_iqa_equals_torchmetrics_on_piq_weights(rn50: tuple[Any, Path]) -> None:
    from transformers import AutoTokenizer

    model, folder = rn50
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")

    class Processor:
        """What torchmetrics needs of CLIPProcessor."""

        def __init__(self) -> None:
            self.tokenizer = tokenizer

        def __call__(self, text: list[str]) -> Any:
            return tokenizer(text)

    pictures = [picture(i, 96) for i in range(3)]
    # 0…255 with the data range left at 1, as the official checker does.
    stack = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures]).float()
    with torch.inference_mode():
        anchors = torchmetrics_iqa._clip_iqa_get_anchor_vectors(
            "clip_iqa", model, Processor(), list(IQA_PROMPTS), "cpu"
        )
        features = torchmetrics_iqa._clip_iqa_update("clip_iqa", stack, model, Processor(), 1.0, "cpu")
        theirs = torchmetrics_iqa._clip_iqa_compute(features, anchors, ["quality"])

    from evaluation.clip_iqa import iqa_scores

    spec = NetworkSpec("clip_rn50", path=folder / "RN50.pt")
    loaded = LOADERS["clip_rn50"](Located(spec, folder / "RN50.pt", "", folder / "tokenizer"), CPU, "tf1")
    assert loaded.texts is not None
    vectors, pair = _embed(loaded.eye, pictures), loaded.texts.encode(IQA_PROMPTS)
    assert torch.allclose(torch.nn.functional.normalize(vectors, dim=1), features, atol=1e-5)
    assert torch.allclose(torch.nn.functional.normalize(pair, dim=1), anchors, atol=1e-5)
    assert (features[0] - features[1]).abs().max() > 1e-2, "the random network must tell pictures apart"
    assert iqa_scores(vectors, pair).tolist() == pytest.approx(theirs.tolist(), abs=1e-5)


def test_texts_of_another_tokenizer_are_other_texts(rn50: tuple[Any, Path], tmp_path: Path) -> None:
    """Cached text vectors are found by this digest."""
    folder, other = rn50[1], tmp_path / "tokenizer"
    save_tokenizer(other, length=4)
    spec = NetworkSpec("clip_rn50", path=folder / "RN50.pt")

    def digest(tokenizer: Path) -> str:
        texts = LOADERS["clip_rn50"](Located(spec, folder / "RN50.pt", "w", tokenizer), CPU, "tf1").texts
        assert texts is not None
        return texts.digest

    assert digest(folder / "tokenizer") == digest(folder / "tokenizer") != digest(other)


def test_weights_come_from_torchscript_archives_too(rn50: tuple[Any, Path], tmp_path: Path) -> None:
    """OpenAI publishes RN50.pt as such an archive."""
    linear = torch.nn.Linear(3, 2)
    torch.jit.trace(linear, torch.zeros(1, 3)).save(str(tmp_path / "archive.pt"))  # type: ignore[no-untyped-call]
    state = read_state(tmp_path / "archive.pt")
    assert torch.equal(state["weight"], linear.weight)
    assert set(read_state(rn50[1] / "RN50.pt")) == set(rn50[0].state_dict())


def test_clip_iqa_of_small_judges_uses_their_own_preprocessing(judges: Judges, tiny_judges: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    folder = tiny_judges.parent / "clip"
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    image = picture(4)
    score = Scorer(judges, ScoreOptions(cache=None)).add_style("00", {"Cat": image}, [picture(5)])
    tokens = tokenizer(list(IQA_PROMPTS), padding=True, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    x = torch.from_numpy(HfPreprocess.from_file(folder / "preprocessor_config.json")(image))[None]
    with torch.inference_mode():
        out = model(pixel_values=x, **tokens)
        cosines = out.image_embeds @ out.text_embeds.T
    assert score.clip_iqa == pytest.approx(float((100 * cosines).softmax(-1)[0, 0]), abs=1e-5)


def test_modes_with_more_than_eight_bits_are_not_taken() -> None:
    assert not {"I", "F", "I;16"} & set(MODES)
