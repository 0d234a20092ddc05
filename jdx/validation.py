"""From a composed config to a checked `TrialConfig`, all faults in one report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from jdx.backends.jittor.limits import config_faults as limit_faults
from jdx.errors import ConfigError, Fault
from jdx.methods.schedule import PREFIX_SAFE
from jdx.prompt_faults import prompt_faults
from jdx.schema import REFERENCES, TrialConfig, plain
from jdx.spelling import nearest, told
from jdx.window_faults import window_faults

FOREIGN = ("launcher",)
"""Groups that the sweeper reads; `launcher.factory.build` checks them."""
_LINK = re.compile(r"\$\{([\w.]+)\}")


def build(
    config: Mapping[str, Any], borrowed: Mapping[str, str] | None = None, *, files: bool = True
) -> TrialConfig:
    """Check a plain nested mapping and return the trial's record; where it is launched is no part of a trial.

    borrowed: {setting: the one whose value it takes over}; a wrong value is told under the latter's name alone.
    files: whether the files that settings name must be on this machine.
    Raises: ConfigError with every fault; cross-field faults are looked for only where the fields themselves are right.
    """
    config = {key: value for key, value in config.items() if key not in FOREIGN}
    faults = [
        Fault(key, "???", "this setting has no default: give it a value on the command line or in conf/local")
        for key in _missing(config)
    ]
    asked = {fault.key for fault in faults}
    try:
        # As JSON, since pydantic's strict mode takes nested mappings for records only from there.
        trial = TypeAdapter(TrialConfig).validate_json(json.dumps(config))
    except ValidationError as error:
        faults += [fault for fault in told(error.errors()) if fault.key not in asked]
        wrong, lent = {fault.key for fault in faults}, borrowed or {}
        raise ConfigError([fault for fault in faults if lent.get(fault.key) not in wrong]) from None
    faults += contradictions(trial) + (file_faults(trial) if files else [])
    if faults:
        raise ConfigError(faults)
    return trial


def nested(config: DictConfig, *, resolve: bool) -> dict[str, Any]:
    """A composed configuration as nested dicts. Raises: OmegaConfBaseException where an interpolation leads nowhere."""
    found = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=False)
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def borrowed(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{setting: setting} of values that are nothing but `${another.setting}` in an unresolved configuration."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= borrowed(value, f"{prefix}{name}.")
        elif isinstance(value, str) and (link := _LINK.fullmatch(value)):
            found[f"{prefix}{name}"] = link[1]
    return found


LOCATIONS = {
    "data": ("root",),
    "store": ("root",),
    "backend": ("python", "home"),
    "model": ("path",),
    "sampler": ("seeds",),
    "evaluation": ("judges",),
    "evaluation.networks": ("dino", "clip_r", "clip_iqa", "lpips", "fid"),
    "method.init": ("picture",),
    "method.prompts": ("styles", "expand"),
}
"""Settings that hold a path, some of them beside names such as `mini`."""
PLACES = {"data.root", "store.root", "backend.home"}
"""Those that are paths whether there is something or not."""


def anchored(config: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The configuration with its relative paths taken from `base`, the folder in which the command was typed.

    Hydra's `hydra.job.chdir=true` and some launchers run a job elsewhere; its paths must mean the same there.
    """
    fixed: dict[str, Any] = json.loads(json.dumps(config))
    if base == Path.cwd():
        return fixed
    for section, names in LOCATIONS.items():
        group: Any = fixed
        for part in section.split("."):
            group = group.get(part) if isinstance(group, dict) else None
        for name in names:
            path = group.get(name) if isinstance(group, dict) else None
            if not isinstance(path, str) or path in {"", "???"} or path.startswith("~"):
                continue
            if f"{section}.{name}" in PLACES or "{style}" in path or (base / path).exists():
                group[name] = str(base / path)
    return fixed


def _missing(config: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _missing(value, f"{prefix}{key}.")
        elif value == "???":
            yield f"{prefix}{key}"


def contradictions(trial: TrialConfig) -> list[Fault]:
    """Faults that need two settings to see."""
    return [
        *_device_faults(trial),
        *_backend_faults(trial),
        *_training_faults(trial),
        *prompt_faults(trial),
        *_method_faults(trial),
        *window_faults(trial),
        *_blend_faults(trial),
        *_joint_faults(trial),
    ]


def _device_faults(trial: TrialConfig) -> list[Fault]:
    backend = trial.backend
    if trial.train.deterministic and backend.compile not in ("auto", "off"):
        what = "auto or off with train.deterministic: kernels are chosen by timing them, so bits may change"
        return [Fault("backend.compile", backend.compile, what)]
    if backend.devices == "auto" or not backend.devices or backend.device == "auto":
        return []
    what = f"backend.device = {backend.device} names the one device; leave it at auto, or backend.devices=[]"
    return [Fault("backend.devices", str(backend.devices), what)]


def _backend_faults(trial: TrialConfig) -> list[Fault]:
    """Settings that the chosen backend does not know, or cannot serve."""
    backend = trial.backend
    if backend.name != "torch":
        return limit_faults(trial)
    return [
        Fault(f"backend.{name}", value, f"has no effect with backend={backend.name}: null")
        for name, value in (("python", backend.python), ("home", backend.home))
        if value is not None
    ]


def _training_faults(trial: TrialConfig) -> list[Fault]:
    faults = []
    lora, train = trial.lora, trial.train
    if train.crop.flip_tag and train.crop.flip == 0:
        remedy = "no view is mirrored: train.crop.flip above 0, or no tag"
        faults.append(Fault("train.crop.flip_tag", repr(train.crop.flip_tag), remedy))
    for name, network in (("unet", lora.unet), ("text_encoder", lora.text_encoder)):
        if network.rank and not network.targets:
            faults.append(Fault(f"lora.{name}.targets", "[]", "name at least one module, such as to_q"))
    for step in train.snapshots:
        if step > train.steps:
            faults.append(
                Fault(
                    "train.snapshots",
                    str(step),
                    f"must be at most train.steps = {train.steps}; raise train.steps",
                )
            )
    if trial.optim.schedule not in PREFIX_SAFE and train.snapshots:
        faults.append(
            Fault(
                "train.snapshots",
                str(train.snapshots),
                f"with optim.schedule={trial.optim.schedule} a shorter run is not a prefix of a longer one; "
                f"use optim.schedule={' or '.join(sorted(PREFIX_SAFE))}, or one run per step count",
            )
        )
    if trial.optim.schedule == "step" and trial.optim.step_size is None:
        faults.append(
            Fault(
                "optim.step_size",
                "null",
                "optim.schedule=step needs the steps between two decays, such as 200",
            )
        )
    if train.score_snapshots and not train.snapshots:
        faults.append(
            Fault("train.score_snapshots", "true", "name the steps to score at: train.snapshots=[250,500]")
        )
    if trial.optim.warmup_steps > train.steps:
        faults.append(
            Fault(
                "optim.warmup_steps",
                str(trial.optim.warmup_steps),
                f"must be at most train.steps = {train.steps}",
            )
        )
    return faults


def _prior_faults(trial: TrialConfig) -> list[Fault]:
    prior, trains = trial.method.prior, trial.method.train
    faults = []
    useless = "has no effect without training: {}, or method.train=true"
    if prior.weight > 0 and not trains:
        faults.append(Fault("method.prior.weight", str(prior.weight), useless.format(0)))
    if prior.fraction is not None and not trains:
        faults.append(Fault("method.prior.fraction", str(prior.fraction), useless.format("null")))
    if prior.fraction is not None and prior.weight > 0:
        allowed = (
            f"excludes method.prior.weight = {prior.weight}: class pictures come as a share of the samples or "
            "as a second loss; set method.prior.weight=0 or method.prior.fraction=null"
        )
        faults.append(Fault("method.prior.fraction", str(prior.fraction), allowed))
    return faults


def _init_faults(trial: TrialConfig) -> list[Fault]:
    """A start from which nothing is drawn."""
    init, steps, faults = trial.method.init, trial.sampler.steps, []
    if init.picture == "none":
        return []
    if init.strength == 0:
        remedy = (
            "no step would be run and every picture would be its start: above 0, or method.init.picture=none"
        )
        faults.append(Fault("method.init.strength", "0.0", remedy))
    elif int(steps * init.strength) < 1:
        remedy = f"leaves none of sampler.steps = {steps} to run: at least {1 / steps:.3g}"
        faults.append(Fault("method.init.strength", str(init.strength), remedy))
    return faults


def _select_faults(trial: TrialConfig) -> list[Fault]:
    """Choosing needs judges, and something to judge by."""
    select, faults = trial.method.select, []
    if select.candidates == 1:
        return []
    if trial.evaluation.judges == "none":
        remedy = "the judges choose: name some with evaluation=..., or method.select.candidates=1"
        faults.append(Fault("method.select.candidates", str(select.candidates), remedy))
    if select.style_weight == select.text_weight == 0:
        remedy = "with both weights 0 all candidates are equal: raise one of them"
        faults.append(Fault("method.select.style_weight", "0.0", remedy))
    return faults


def _method_faults(trial: TrialConfig) -> list[Fault]:
    faults = []
    method = trial.method
    faults += _prior_faults(trial)
    faults += _enhancer_faults(trial)
    faults += _init_faults(trial)
    faults += _select_faults(trial)
    styleid = method.styleid
    if isinstance(styleid.reference, str) and styleid.reference not in REFERENCES:
        ways = f"must be {', '.join(REFERENCES)}, or an index counted from 0"
        hint = nearest(styleid.reference, REFERENCES)
        faults.append(Fault("method.styleid.reference", repr(styleid.reference), ways + hint))
    if styleid.enabled and not styleid.layers:
        faults.append(Fault("method.styleid.layers", "[]", "name at least one self-attention, such as 7"))
    if styleid.start_step >= styleid.steps:
        faults.append(
            Fault(
                "method.styleid.start_step",
                str(styleid.start_step),
                f"must be below method.styleid.steps = {styleid.steps}, or nothing is injected",
            )
        )
    return faults


def _blend_faults(trial: TrialConfig) -> list[Fault]:
    """Two branches that could not differ, or could not reach each other."""
    blend = trial.method.blend
    if not blend.enabled:
        return []
    faults = []
    if not trial.method.train:
        remedy = "both branches would be the untouched base: method.train=true, or no blending"
        faults.append(Fault("method.blend.enabled", "true", remedy))
    faults += _candidate_faults(trial) if blend.coarse.train else []
    remedy = "nothing would reach the fine branch, whose picture is kept"
    if not blend.c2f.layers:
        faults.append(Fault("method.blend.c2f.layers", "[]", f"{remedy}: name at least one, such as 4"))
    if blend.c2f.share == 0:
        faults.append(
            Fault("method.blend.c2f.share", "0.0", f"{remedy}: above 0, or method.blend.enabled=false")
        )
    return faults


def _enhancer_faults(trial: TrialConfig) -> list[Fault]:
    enhancer, faults = trial.method.enhancer, []
    if enhancer.enabled and not trial.method.train:
        remedy = "has no effect without training: false, or method.train=true"
        faults.append(Fault("method.enhancer.enabled", "true", remedy))
    if enhancer.enabled and enhancer.weight == 0:
        remedy = "would learn nothing and add nothing: above 0 (0.01 as published), or method.enhancer.enabled=false"
        faults.append(Fault("method.enhancer.weight", "0.0", remedy))
    return faults


def _candidate_faults(trial: TrialConfig) -> list[Fault]:
    """Pictures of a coarse branch that cannot be drawn or kept."""
    key, some = "method.blend.coarse.candidates", trial.method.blend.coarse.candidates
    faults = []
    if some.keep > some.per_reference:
        remedy = f"must be at most per_reference = {some.per_reference}"
        faults.append(Fault(f"{key}.keep", str(some.keep), remedy))
    if len(set(some.strengths)) < len(some.strengths):
        faults.append(
            Fault(f"{key}.strengths", str(some.strengths), "name each strength once: they take turns")
        )
    for strength in some.strengths:
        if int(some.sampler.steps * strength) < 1:
            remedy = f"leaves none of {key}.sampler.steps = {some.sampler.steps} to run"
            faults.append(Fault(f"{key}.strengths", str(strength), remedy))
    if not trial.lora.text_encoder.targets:
        remedy = "the coarse branch trains them: name at least one module, such as q_proj"
        faults.append(Fault("lora.text_encoder.targets", "[]", remedy))
    return faults


def _joint_faults(trial: TrialConfig) -> list[Fault]:
    if not trial.lora.joint:
        return []
    faults = []
    if not trial.method.train:
        remedy = "nothing is trained: method.train=true, or lora.joint=false"
        faults.append(Fault("lora.joint", "true", remedy))
    if trial.method.enhancer.enabled:
        remedy = "belongs to one style, and a joint adapter to all: switch one of them off"
        faults.append(Fault("method.enhancer.enabled", "true", remedy))
    if trial.method.tokens.vectors:
        remedy = "a learnt word belongs to one style, and a joint adapter to all: 0, or lora.joint=false"
        faults.append(Fault("method.tokens.vectors", str(trial.method.tokens.vectors), remedy))
    return faults


def file_faults(trial: TrialConfig) -> list[Fault]:
    """Files that settings name and that are not there; start pictures of single styles are looked for later."""
    faults = []
    picture = trial.method.init.picture
    if picture not in {"none", "average"} and "{style}" not in picture and not Path(picture).is_file():
        remedy = (
            "must be none, average, or the path of a picture, in which {style} may stand for the style's id"
        )
        faults.append(Fault("method.init.picture", repr(picture), remedy))
    if trial.sampler.seeds is not None and not Path(trial.sampler.seeds).is_file():
        faults.append(Fault("sampler.seeds", trial.sampler.seeds, "no such file; null draws the seeds"))
    judges = trial.evaluation.judges
    if judges not in {"challenge", "mini", "none"} and not Path(judges).is_file():
        faults.append(
            Fault("evaluation.judges", judges, "must be challenge, mini, none, or the path of a judges.json")
        )
    for name, path in plain(trial.evaluation.networks).items():
        if path is not None and not Path(path).expanduser().exists():
            faults.append(Fault(f"evaluation.networks.{name}", path, "no such file or folder"))
    return faults
