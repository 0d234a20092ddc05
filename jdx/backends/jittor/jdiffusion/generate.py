"""Pictures through JDiffusion's StableDiffusionPipeline, from the same first noise as with every backend."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
from PIL import Image
from safetensors import safe_open

from jdx.backends import adapter_files, enhancer_files, word_files
from jdx.backends.adapter_files import LoraPair
from jdx.backends.base import GenerateJob, StyleDrawJob
from jdx.backends.draw_checks import drawing_faults
from jdx.backends.jittor.jdiffusion.networks import Floats, JdModels, linears, load, weighted
from jdx.backends.jittor.limits import JDIFFUSION_SAMPLERS as SAMPLERS
from jdx.backends.jittor.protocol import NOISE
from jdx.backends.jittor.worker.nets.weights import arrays
from jdx.backends.jittor.worker.tell import Tell
from jdx.backends.lora_keys import canonical_te_path
from jdx.errors import BackendError, ConfigError, Fault
from jdx.files import write_bytes


def run(job: GenerateJob, out: Path, tell: Tell) -> None:
    """Write out/STYLE/FILE for every picture, one at a time, see `Backend.generate`; finished ones are kept.

    Raises: ConfigError with every fault of the job before drawing.
    """
    models = load(job.model, tell)
    if faults := [*drawing_faults(job, models.vae_factor), *_limits(job)]:
        raise ConfigError(faults, what="drawing job")
    pipeline = pipeline_of(models, job.sampler.name, lambda: tell.advance(0))
    tell.progress("drawing", sum(len(style.pictures) for style in job.styles))
    for style in job.styles:
        folder = out / style.style
        folder.mkdir(parents=True, exist_ok=True)
        with worn(models, style):
            _draw(job, style, folder, pipeline, tell)
        tell.style(style.style, folder)


def _limits(job: GenerateJob) -> list[Fault]:
    """What the pipeline does not draw, for whoever gives a job directly; a trial is told before it starts."""
    found = []
    if job.sampler.name not in SAMPLERS:
        found.append(
            Fault("sampler.name", job.sampler.name, f"backend=jdiffusion has {' and '.join(SAMPLERS)}")
        )
    for style in job.styles:
        asked = {
            "init": style.init is not None,
            "blend": style.blend is not None,
            "plain prompts": any(picture.plain is not None for picture in style.pictures),
        }
        allowed = "JDiffusion's pipeline draws from noise and one prompt only"
        found += [Fault(f"style {style.style}: {name}", "", allowed) for name, yes in asked.items() if yes]
    return found


def pipeline_of(models: JdModels, sampler: str, tick: Callable[[], None]) -> Any:
    """JDiffusion's pipeline around networks whose weights were checked; tick: called in every step of a drawing."""
    from JDiffusion import StableDiffusionPipeline

    if sampler == "unipc":
        from JDiffusion import UniPCMultistepScheduler as Scheduler
    else:
        from diffusers import DDIMScheduler as Scheduler
    return StableDiffusionPipeline(
        vae=models.vae,
        text_encoder=models.text_encoder,
        tokenizer=models.tokenizer,
        unet=models.unet,
        scheduler=_heard(Scheduler.from_config(dict(models.scheduler)), tick),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _heard(scheduler: Any, tick: Callable[[], None]) -> Any:
    """The scheduler, telling of its steps: on a CPU a picture may take longer than a worker may be silent."""
    step = scheduler.step

    @functools.wraps(step)  # pipelines look at its parameters
    def heard(*given: Any, **settings: Any) -> Any:
        tick()
        return step(*given, **settings)

    scheduler.step = heard
    return scheduler


def _draw(job: GenerateJob, style: StyleDrawJob, folder: Path, pipeline: Any, tell: Tell) -> None:
    with safe_open(str(tell.inputs / NOISE), framework="np") as noise:
        for picture in style.pictures:
            file = folder / picture.file
            if not file.exists():
                first = np.asarray(noise.get_tensor(str(picture.seed))[:1], np.float32)
                drawn = pipeline(
                    prompt=picture.prompt,
                    negative_prompt=picture.negative_prompt,
                    height=job.resolution,
                    width=job.resolution,
                    num_inference_steps=job.sampler.steps,
                    guidance_scale=job.sampler.guidance_scale,
                    latents=jt.array(first),
                    output_type="np",
                ).images[0]
                _write(np.asarray(drawn, np.float32), file)
            tell.advance()


def _write(unit: Floats, file: Path) -> None:
    """Write a picture (H, W, 3) in [0, 1], rounded as by diffusers. Raises: BackendError for what is no number."""
    if not np.isfinite(unit).all():
        raise BackendError(
            f"{file.name} left the finite numbers; another seed, or fewer steps of training, may help"
        )
    buffer = io.BytesIO()
    Image.fromarray((unit * 255).round().astype(np.uint8)).save(buffer, format="PNG")
    write_bytes(file, buffer.getvalue())


@contextmanager
def worn(models: JdModels, style: StyleDrawJob) -> Iterator[None]:
    """Inside the block the networks have the style's adapter, of whichever backend: W + scale · alpha/r · B A."""
    if style.adapter is None:
        yield
        return
    networks = {"unet": models.unet, "text_encoder": models.text_encoder}
    found = {
        "unet": linears(models.unet),
        "text_encoder": {canonical_te_path(path): one for path, one in linears(models.text_encoder).items()},
    }
    names = {canonical_te_path(path): path for path in linears(models.text_encoder)}
    pairs = read_adapter(style.adapter, found)
    changes = {name: {} for name in networks}  # type: dict[str, dict[str, Any]]
    for name, some in pairs.items():
        for path, pair in some.items():
            delta = pair.up @ pair.down * np.float32(style.lora_scale * pair.alpha / pair.rank)
            changes[name][names.get(path, path) if name == "text_encoder" else path] = jt.array(delta)
    with weighted(models.unet, changes["unet"]), weighted(models.text_encoder, changes["text_encoder"]):
        yield


def read_adapter(path: Path, layers: dict[str, dict[str, Any]]) -> dict[str, dict[str, LoraPair[Floats]]]:
    """The LoRA weights of a folder or file by network, checked. Raises: ConfigError; BackendError for .bin files."""
    others = [name for name in (enhancer_files.FILE, word_files.FILE) if (path / name).is_file()]
    if others:
        allowed = "of an adapter is drawn by backend=jittor or torch"
        raise ConfigError([Fault("file", name, allowed) for name in others], f"adapter {path}")
    file = adapter_files.find(path)
    if file.suffix != ".safetensors":
        raise BackendError(
            f"{file}: legacy .bin files are read by backend=torch; save it once as safetensors there"
        )
    with safe_open(str(file), framework="np") as opened:
        config = adapter_files.config_of(file, opened.metadata() or {})
    sizes = {
        name: {p: (int(one.weight.shape[0]), int(one.weight.shape[1])) for p, one in some.items()}
        for name, some in layers.items()
    }
    found: Any = adapter_files.pairs_of(file, arrays(file), config, sizes)  # type: ignore[arg-type]
    if any(pair.magnitude is not None for some in found.values() for pair in some.values()):
        raise ConfigError(
            [Fault("dora", "true", "DoRA is drawn by backend=jittor or torch")], f"adapter {file}"
        )
    return dict(found)
