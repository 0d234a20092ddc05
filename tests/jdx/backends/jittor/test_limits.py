"""What the Jittor backends do not do is told with everything else that is wrong, before anything is looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jdx import ROOT, validation
from jdx.backends import make_backend, settings_of
from jdx.backends.base import ModelSpec
from jdx.backends.jittor.backend import JittorBackend
from jdx.backends.jittor.limits import JDIFFUSION_LIMITS, LIMITS
from jdx.device_list import device_faults, devices_of
from jdx.errors import ConfigError
from jdx.schema import leaves
from tests.configs import compose_plain


def faults(*overrides: str) -> set[str]:
    try:
        validation.build(compose_plain(*overrides))
    except ConfigError as error:
        return {fault.key for fault in error.faults}
    return set()


def test_limits_name_settings_that_exist() -> None:
    known = leaves()
    for limit in (*LIMITS, *JDIFFUSION_LIMITS):
        assert limit.key in known
        assert limit.remedy


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ("backend.dtype=bfloat16", "backend.dtype"),
        ("backend.devices=[cuda:0,cuda:1]", "backend.devices"),
        ("lora.dora=true", "lora.unet.dora"),
        ("method=blend", "method.blend.enabled"),
        ("train.deterministic=true", "train.deterministic"),
    ],
)
def test_what_jittor_does_not_do(asked: str, key: str) -> None:
    assert key in faults("backend=jittor", asked)
    assert key not in faults(asked)


PRIOR = ("method=prior", "method.prior.sampler.name=euler")


def test_what_jdiffusion_does_not_do() -> None:
    assert faults("backend=jdiffusion", "method=textual_inversion") >= {"method.tokens.vectors"}
    assert faults("backend=jdiffusion", *PRIOR) == {"method.prior.sampler.name"}
    untrained = faults("backend=jdiffusion", *PRIOR, "method.train=false")  # then none are drawn
    assert "method.prior.sampler.name" not in untrained
    assert faults("backend=jittor", *PRIOR) == set()


def test_ordinary_trials_are_fine() -> None:
    methods = ("base", "dreambooth", "prior", "average", "styleid", "styleid_db", "vae_enhancer")
    for method in (*methods, "textual_inversion", "dreambooth_ti"):
        assert faults("backend=jittor", f"method={method}") == set()
    assert faults("backend=jdiffusion", "method=dreambooth") == set()


def test_settings_of_the_worker_have_no_place_with_torch(tmp_path: Path) -> None:
    assert faults("+backend.python=/opt/python", "+backend.home=/opt/home") == {
        "backend.python",
        "backend.home",
    }


def test_a_trials_settings_reach_the_backend(tmp_path: Path) -> None:
    config = validation.build(
        compose_plain(
            "backend=jittor", f"backend.home={tmp_path}", "backend.threads=3", "backend.timeout=77.0"
        )
    )
    assert devices_of(config) == ["auto"]
    backend = make_backend("jittor", **settings_of(config, "cpu"))
    assert isinstance(backend, JittorBackend)
    assert (backend.environment.home, backend.environment.threads) == (tmp_path, 3)
    assert backend.describe()["dtype"] == "float32"
    assert backend.identity() == {"backend": "jittor", "dtype": "float32", "jittor": "1.3.11.0"}
    assert not list(tmp_path.iterdir())  # nothing is made by asking


def test_a_card_of_jittor_is_not_looked_for_among_pytorchs() -> None:
    """PyTorch may be without CUDA beside a Jittor that has it; the backend itself says which cards there are."""
    assert device_faults(validation.build(compose_plain("backend=jittor", "backend.device=cuda:77"))) == []
    listed = validation.build(compose_plain("backend.devices=[cuda:77]"))
    assert [fault.key for fault in device_faults(listed)] == ["backend.devices"]


def test_relative_places_are_the_commands(tmp_path: Path) -> None:
    (tmp_path / "jt").mkdir()
    (tmp_path / "jt" / "python").touch()
    plain = compose_plain("backend=jittor", "backend.python=jt/python", "backend.home=jt/home")
    anchored = validation.anchored(plain, tmp_path)["backend"]
    assert anchored["python"] == str(tmp_path / "jt" / "python")
    assert anchored["home"] == str(tmp_path / "jt" / "home")


def test_a_scheduler_that_the_worker_does_not_know_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ROOT / "data" / "mini" / "weights" / "model", model)
    backend = make_backend("jittor", device="cpu", timeout=60.0)
    assert backend.check(ModelSpec(str(model))) == []
    file = model / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_karras_sigmas": True}))
    (fault,) = backend.check(ModelSpec(str(model)))
    assert "scheduler.use_karras_sigmas = True" in fault
    assert make_backend("jdiffusion", device="cpu", timeout=60.0).check(ModelSpec(str(model))) == []
