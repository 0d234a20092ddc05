"""Jobs survive the journey to another interpreter, and the worker's modules need nothing that is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdx.backends import base
from jdx.backends.jittor.process import import_path
from jdx.backends.jittor.protocol import KINDS, read_job, write_job

ABSENT = (
    "torch",
    "hydra",
    "omegaconf",
    "pydantic",
    "rich",
    "diffusers",
    "transformers",
    "filelock",
    "scipy",
    "cv2",
)

texts = st.text(max_size=8)
paths = st.sampled_from([Path("/a"), Path("/a/b c"), Path("/ü")])
numbers = st.floats(allow_nan=False)
models = st.builds(base.ModelSpec, texts, st.none() | texts, st.none() | texts)
loras = st.builds(base.LoraSpec, st.integers(0, 64), numbers, st.lists(texts, max_size=3).map(tuple))
captions = st.lists(texts | st.lists(texts, min_size=1, max_size=2).map(tuple), max_size=3).map(tuple)
adapters = st.builds(
    base.AdapterSpec, style=texts, captions=captions, seed=st.integers(0, 2**63 - 1), unet=loras, text_encoder=loras,
    unet_lr=numbers, text_encoder_lr=numbers, max_grad_norm=st.none() | numbers,
    enhancer=st.none() | st.builds(base.EnhancerSpec, numbers, numbers, st.sampled_from(["first", "last"])),
    tokens=st.none() | st.builds(base.TokensSpec, texts, st.integers(1, 3), texts, numbers),
    sources=st.lists(texts, max_size=2).map(tuple),
)  # fmt: skip
folders = st.dictionaries(texts, paths, max_size=2)
pictures = st.builds(
    base.PictureSpec, texts, texts, texts, st.integers(0, 2**63 - 1),
    plain=st.none() | st.builds(base.PlainPrompt, texts, texts, numbers),
)  # fmt: skip
draws = st.builds(
    base.StyleDrawJob, texts, st.none() | paths, st.lists(pictures, max_size=2).map(tuple),
    init=st.none() | st.builds(base.InitSpec, paths, numbers, st.booleans()),
    blend=st.none() | st.builds(base.BlendSpec, st.just(("1",)), numbers, st.just(()), numbers, st.none() | paths),
)  # fmt: skip
jobs = st.one_of(
    st.builds(
        base.EncodeJob, models, st.builds(base.CropSpec, st.integers(8, 64)),
        st.dictionaries(texts, st.lists(texts, max_size=2).map(tuple), max_size=2),
    ),
    st.builds(
        base.TrainJob, models, st.lists(adapters, max_size=2).map(tuple), folders,
        st.lists(st.integers(1, 9), max_size=3).map(tuple), betas=st.tuples(numbers, numbers),
        prior_moments=st.dictionaries(texts, st.lists(paths, max_size=2).map(tuple), max_size=2), resume=folders,
    ),
    st.builds(
        base.GenerateJob, models, st.builds(base.SamplerSpec, st.just("ddim"), st.integers(1, 9), numbers),
        st.integers(8, 64), st.lists(draws, max_size=2).map(tuple),
    ),
    st.builds(
        base.StyliseJob, models, st.builds(base.StyleIdSpec, st.just(("7",)), numbers, numbers, st.integers(2, 9)),
        st.integers(8, 64),
        st.lists(
            st.builds(
                base.StyleStyliseJob, texts, st.lists(paths, max_size=2).map(tuple),
                st.dictionaries(texts, st.tuples(paths, st.integers(0, 3)), max_size=2),
            ),
            max_size=2,
        ).map(tuple),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("order")


@settings(deadline=None)
@given(job=jobs)
def test_a_job_comes_back_equal(order: Path, job: base.EncodeJob) -> None:
    write_job(order, job)
    kind, back = read_job(order)
    assert back == job
    assert type(back) is type(job) is KINDS[kind]
    assert repr(back) == repr(job)  # tuples and paths, not what merely compares equal


def test_relative_paths_become_absolute(order: Path) -> None:
    job = base.TrainJob(base.ModelSpec("m"), (), {"00": Path("moments")}, (1,))
    write_job(order, job)
    assert read_job(order)[1].moments == {"00": Path.cwd() / "moments"}


def test_another_protocol_is_refused(order: Path) -> None:
    (order / "job.json").write_text('{"protocol": 99, "kind": "train", "job": {}}')
    with pytest.raises(ValueError, match="speaks protocol 99, this worker 1"):
        read_job(order)


def test_the_worker_imports_only_what_its_interpreter_has(tmp_path: Path) -> None:
    """Every module of the worker, in an interpreter in which the trial's libraries cannot be imported."""
    path = import_path(tmp_path / "path")
    modules = sorted(
        ".".join(file.relative_to(path).with_suffix("").parts)
        for file in (path / "jdx" / "backends" / "jittor" / "worker").rglob("*.py")
        if file.stem != "__main__"
    )
    assert "jdx.backends.jittor.worker.loop" in modules
    code = f"""
import importlib, sys, types
class Absent:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ImportError(name + " is not in a Jittor interpreter")
sys.meta_path.insert(0, Absent())
class Stand(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return Stand(name)
    def __call__(self, *a, **k): return a[0] if len(a) == 1 and callable(a[0]) else Stand("x")
    def __mro_entries__(self, bases): return (object,)
sys.modules["jittor"] = Stand("jittor"); sys.modules["jittor.nn"] = Stand("nn")
for name in {modules!r}:
    importlib.import_module(name.removesuffix(".__init__"))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
