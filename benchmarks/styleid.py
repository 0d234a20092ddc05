"""Times StyleID on made-up pictures with a random-weight Stable Diffusion 2.1 (time does not depend on weights).

    python -m benchmarks.styleid [--size sd21|tiny] [--pictures 25] [--references 3] [--steps 50]
                                 [--resolution 512] [--batch 0] [--host-only]

Prints Markdown rows: a first job, and a second one with another gamma, which finds its inversions in memory.
--host-only keeps all features in host memory, as a small GPU would have to.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image

from benchmarks.sd21 import model
from jdx.backends.base import ModelSpec, StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.backends.torch import styleid
from jdx.backends.torch.devices import pick_device, pick_dtype
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.styleid_memory import FeatureMemory, places
from jdx.progress import NullProgress
from tests.tiny_sd import SCHEDULER, build_text_encoder, build_tiny_sd, build_tokenizer


def main() -> None:
    """Make pictures and a model, stylise twice, print two Markdown rows."""
    args = _arguments()
    device = pick_device("auto")
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        models = sd21(device) if args.size == "sd21" else tiny(folder / "model", device)
        if args.host_only:
            styleid._memories[models] = FeatureMemory(places(device)[-1:])
        spec = StyleIdSpec(("6", "7", "8", "9", "10", "11"), 0.75, 1.5, args.steps)
        style = made_up(folder, args.pictures, args.references, args.resolution)
        _timed(
            models,
            StyliseJob(models.spec, replace(spec, steps=2), args.resolution, (style,), args.batch),
            folder,
        )
        print("| Device | Model | Pictures | Job | Seconds | UNet passes/s | Peak GiB | Features GiB |")
        print("|---|---|---|---|---|---|---|---|")
        for label, gamma, passes in (("first", 0.75, 2), ("other gamma", 0.3, 1)):
            job = StyliseJob(models.spec, replace(spec, gamma=gamma), args.resolution, (style,), args.batch)
            seconds, peak = _timed(models, job, folder)
            count = args.steps * (passes * args.pictures + (args.references if passes == 2 else 0))
            memory = styleid._memories[models]
            features = sum(memory.used(place) for place in memory.places) / 2**30
            where = f"{_device_name(device)}, torch {torch.__version__}, {models.dtype}".replace("torch.", "")
            size = f"{args.pictures} + {args.references} references at {args.resolution}, {args.steps} steps"
            print(
                f"| {where} | {args.size}, random | {size} | {label} | {seconds:.2f} | {count / seconds:.0f} "
                f"| {peak:.1f} | {features:.1f} |"
            )


def _timed(models: Models, job: StyliseJob, folder: Path) -> tuple[float, float]:
    """Seconds of a job, and the most memory it took on the GPU in GiB (0 on a CPU)."""
    cuda = models.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        start = time.perf_counter()
        styleid.stylise(job, models, Path(out), NullProgress(), lambda style, folder: None)
        seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def made_up(folder: Path, pictures: int, references: int, side: int) -> StyleStyliseJob:
    """Blurred noise; contents take the references in turn."""
    rng = np.random.default_rng(0)
    files = [folder / f"{i}.png" for i in range(pictures + references)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side)).save(file)
    contents = {f"{i}.png": (file, i % references) for i, file in enumerate(files[:pictures])}
    return StyleStyliseJob("00", tuple(files[pictures:]), contents)


def tiny(folder: Path, device: torch.device) -> Models:
    """The model of the tests."""
    return load(ModelSpec(str(build_tiny_sd(folder))), device, pick_dtype("auto", device))


def sd21(device: torch.device) -> Models:
    """Networks of Stable Diffusion 2.1's widths and depths; the text encoder is small, it runs once a job."""
    dtype = pick_dtype("auto", device)
    with device:
        unet, vae = model.unet(), model.vae()
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer, 1024)
    for network, precision in ((unet, dtype), (vae, torch.float32), (text_encoder, dtype)):
        network.to(device, precision).requires_grad_(False).eval()
    return Models(
        spec=ModelSpec("random"),
        folder=Path(),
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler_config=SCHEDULER,
        prediction_type="v_prediction",
        alphas_cumprod=torch.as_tensor(DDIMScheduler.from_config(SCHEDULER).alphas_cumprod).double(),
        vae_scaling=0.18215,
        vae_shift=0.0,
        vae_factor=8,
        latent_channels=4,
        device=device,
        dtype=dtype,
    )


def _device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("sd21", "tiny"), default="sd21")
    parser.add_argument("--pictures", type=int, default=25)
    parser.add_argument("--references", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--host-only", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
