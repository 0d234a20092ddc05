"""How fast, against what people run today: random weights of Stable Diffusion 2.1's sizes, one GPU or several.

    python -m benchmarks.sd21_gpu [--only roof train draw styleid memory set shared scaling] [--out outputs/sd21]
                                  [--compile auto] [--fused auto] [--graphs auto] [--quick]
    python -m benchmarks.sd21_gpu --table outputs/sd21 [--write benchmarks/RESULTS.md]     # runs nothing

Several of these commands may fill one --out at once, each on a card of its own (CUDA_VISIBLE_DEVICES) with other
subjects. --quick shrinks everything and also runs on a CPU: to see that the program works, not for numbers.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.sd21 import model, peers, whole
from benchmarks.sd21.measure import GIB, Rows, matmul_roof
from benchmarks.sd21.ours import Bed
from benchmarks.sd21.table import tables, write
from jdx.backends import make_backend
from jdx.backends.base import CompileSetting, ModelSpec
from tests.tiny_sd import build_tiny_sd

LAYERS = ("7", "8", "9", "10", "11")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    side: int = 512
    windows: int = 5  # of the training clock
    every: int = 10  # steps in a window
    draw_steps: int = 40
    styleid_steps: int = 50
    pictures: int = 25
    train_steps: int = 800
    styles: int = 15
    judges: str = "full"


QUICK = Sizes(64, 2, 1, 2, 3, 2, 2, 2, "tiny")


@dataclass(frozen=True)
class Bench:
    """One process: what it measures on, how much, and where the numbers go."""

    rows: Rows
    out: Path
    sizes: Sizes
    compile: CompileSetting
    device: torch.device
    stacks: tuple[int, ...] = ()  # how many styles train at once, for `train`; () = 1, 4, 15 and 30
    cards: tuple[int, ...] = ()  # how many, for `scaling` and `shared`; () = 1, 2, 4, ... and all of several
    primed: bool = False  # whether the set's first trial only warms up the process
    graphs: bool = True  # training steps and passes of drawing as CUDA graphs
    fused: bool = True  # fused kernels

    @property
    def model(self) -> Path:
        """The model's folder, written at first use."""
        if self.sizes is QUICK:
            return model.once(self.out / "tiny", build_tiny_sd)
        return model.once(self.out / "model", partial(model.write, device=self.device))

    def bed(self, **settings: object) -> Bed:
        """Our backend with some settings, on this process's device."""
        backend = make_backend(
            "torch", device=str(self.device), kernels=self.out / "kernels", fused=self.fused, **settings
        )
        folder = self.out / f"work{os.getpid()}"
        return Bed(backend, ModelSpec(str(self.model)), folder, self.sizes.side, self.compile, self.graphs)

    def pipe(self) -> Any:
        """The same model as a diffusers pipeline."""
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        return peers.pipeline(self.model, self.device, dtype)


def roof(bench: Bench) -> None:
    """What the card's matrix units do at best."""
    bench.rows.add("roof", "bfloat16 matmul 8192", matmul_roof(bench.device), "TFLOP/s")


def train(bench: Bench) -> None:
    """Samples per second of training, ours and the script's."""
    rows, sizes = bench.rows, bench.sizes
    rows.add("roof", "bfloat16 matmul 8192", matmul_roof(bench.device), "TFLOP/s", "same process as training")
    pipe = bench.pipe()
    for label, whole_step in (("UNet only", False), ("whole step", True)):
        rate, gib = peers.script_rate(
            pipe, bench.device, sizes.windows * peers.WINDOW, sizes.side, whole_step=whole_step
        )
        rows.add("train", f"diffusers' script with PEFT, {label}", rate, "samples/s", gib=gib)
    del pipe
    for styles in bench.stacks or (1, 4, sizes.styles, 2 * sizes.styles):
        _train_ours(bench, styles)


def _train_ours(bench: Bench, styles: int) -> None:
    sizes = bench.sizes
    done = bench.bed().train(styles, (sizes.windows + 1) * sizes.every, sizes.every)
    note = f"first {sizes.every} steps {done.first:.1f} s; compile={bench.compile}"
    note += "" if bench.graphs else ", no graphs"
    note += "" if bench.fused else ", no fused kernels"
    bench.rows.add("train", f"jdx, {styles} styles at once", done.rate, "samples/s", note, done.gib)


def draw(bench: Bench) -> None:
    """Pictures per second, decoded and written, ours and the pipeline's."""
    rows, sizes = bench.rows, bench.sizes
    rows.add("roof", "bfloat16 matmul 8192", matmul_roof(bench.device), "TFLOP/s", "same process as drawing")
    pipe = bench.pipe()
    for prompts, calls in ((1, 4), (5, 2), (sizes.pictures, 1)):
        rate, gib = peers.pictures_per_second(pipe, prompts, calls, sizes.side, sizes.draw_steps)
        rows.add("draw", f"diffusers' pipeline, {prompts} prompts a call", rate, "pictures/s", gib=gib)
    del pipe
    bed = bench.bed()
    adapters = bed.train(3, 2, 1).adapters
    rate, first, gib = bed.draw(adapters, sizes.pictures, sizes.draw_steps)
    note = f"3 styles of {sizes.pictures}; the first took {first:.1f} s more"
    rows.add("draw", "jdx", rate, "pictures/s", note, gib)


def styleid(bench: Bench) -> None:
    """Seconds for the pictures of one style, ours and picture by picture."""
    rows, sizes = bench.rows, bench.sizes
    from jdx.backends.torch.styleid_layers import resolve_layers

    pipe = bench.pipe()
    layers = resolve_layers(pipe.unet, LAYERS)
    each, style = peers.styleid_seconds(pipe, bench.device, sizes.styleid_steps, sizes.side, layers)
    del pipe
    total = sizes.pictures * each + 3 * style
    note = f"{sizes.pictures} × {each:.2f} s + 3 × {style:.2f} s, one of each measured"
    rows.add("styleid", "picture by picture, guidance's doubled batch", total, "s", note)
    (first, second, gamma), gib = bench.bed().styleid(sizes.pictures, 3, sizes.styleid_steps, LAYERS)
    rows.add("styleid", "jdx, first style", first, "s", "with compiling, if any")
    rows.add("styleid", "jdx", second, "s", f"{sizes.pictures} pictures, 3 references", gib)
    rows.add("styleid", "jdx, another gamma", gamma, "s", "inversions in memory")


def memory(bench: Bench) -> None:
    """Everything again within 22 GiB, as on a 24 GB card."""
    rows, sizes, cap = bench.rows, bench.sizes, 22.0
    bed = bench.bed(memory=cap)
    done = bed.train(sizes.styles, 4 * sizes.every, sizes.every)
    rows.add("22 GiB", f"train, {sizes.styles} styles", done.rate, "samples/s", gib=done.gib)
    some = dict(list(done.adapters.items())[:2])
    rate, _, gib = bed.draw(some, sizes.pictures, sizes.draw_steps)
    rows.add("22 GiB", "draw", rate, "pictures/s", gib=gib)
    (_, second, gamma), gib = bed.styleid(sizes.pictures, 3, sizes.styleid_steps, LAYERS)
    rows.add("22 GiB", "StyleID", second, "s", f"another gamma {gamma:.1f} s", gib)


def whole_set(bench: Bench) -> None:
    """The A set in a fresh process, and again in the same process with another learning rate."""
    folder = bench.out / f"set{os.getpid()}"
    # The second trial is a sweep's next one: it finds class pictures and encodings in the store, nothing else.
    for name, rate in (("cold", 1e-4), ("warm", 2e-4)):
        short = name == "cold" and bench.primed
        few = ["train.steps=20", "sampler.steps=2", "method.styleid.steps=2"] if short else []
        label = "primed by few steps" if short else name
        _set(bench, folder, label, [_devices(1), f"optim.unet.lr={rate}", *few])


def shared_set(bench: Bench) -> None:
    """The A set with further cards making their share of the styles, in a fresh process and again in the same.

    What their processes import is counted.
    """
    cards = torch.cuda.device_count()
    for count in bench.cards or ([cards] if cards > 1 else []):
        folder = bench.out / f"set{os.getpid()}-{count}"
        for name, rate in (("cold", 1e-4), ("warm", 2e-4)):
            _set(bench, folder, f"{name}, {count} cards", [_devices(count), f"optim.unet.lr={rate}"])


def _set(bench: Bench, folder: Path, label: str, words: Sequence[str]) -> None:
    sizes, model_folder = bench.sizes, bench.model
    whole.made_up_set(folder, sizes.judges, sizes.styles, sizes.pictures)
    extra = [*_kernels(bench), f"train.steps={sizes.train_steps}", *_small(sizes), *words]
    seconds, record = whole.run(folder, whole.overrides(folder, model_folder, extra), label)
    stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in record["seconds"].items())
    bench.rows.add("set", f"A set, {label}", seconds / 60, "min", stages)


def _devices(count: int) -> str:
    """The setting that shares a trial's styles among the first cards, or stand-ins on the CPU."""
    names = (f"cuda:{i}" if torch.cuda.is_available() else "cpu" for i in range(count))
    return f"backend.devices=[{','.join(names)}]"


def _kernels(bench: Bench) -> list[str]:
    """What a trial is told about them."""
    switches = {"fused": bench.fused, "graphs": bench.graphs}
    words = [f"backend.{name}={'auto' if on else 'off'}" for name, on in switches.items()]
    return [f"backend.compile={bench.compile}", *words]


def _small(sizes: Sizes) -> list[str]:
    """What a trial is told so that --quick is quick."""
    if sizes is not QUICK:
        return []
    words = ["train.resolution=64", "sampler.steps=2", "data.max_references=2"]
    return [*words, "method.styleid.steps=3", "method.prior.sampler.steps=2"]


def scaling(bench: Bench) -> None:
    """One trial's training of all styles on 1, 2, ... cards: seconds of the whole trial, in a warm process.

    A trial before them makes the class pictures and encodings of all, and a short one for each number of cards starts
    their processes. Learning rates of their own keep the trials' adapters apart, so that none goes on from another's
    steps.
    """
    folder, sizes = bench.out / f"scaling{os.getpid()}", bench.sizes
    whole.made_up_set(folder, "tiny", sizes.styles + 1, 1)
    model_folder, cards = bench.model, torch.cuda.device_count()
    common = ["method=prior", "method.styleid.enabled=false", "evaluation.judges=none"]

    def seconds(count: int, steps: int, rate: str) -> float:
        own = [_devices(count), f"train.steps={steps}", f"optim.unet.lr={rate}"]
        words = whole.overrides(folder, model_folder, [*common, *own, *_kernels(bench), *_small(sizes)])
        return whole.run(folder, words, f"{count}-{steps}-{rate}")[0]

    few, all_of_them = 20, 20 + sizes.train_steps
    seconds(1, few, "9.5e-5")
    for count in bench.cards or [n for n in (1, 2, 4, 8) if n <= max(1, cards)]:
        short, taken = seconds(count, few, f"{count}e-5"), seconds(count, all_of_them, f"{count}.5e-5")
        note = (
            f"{all_of_them} steps; {few} steps before it, with the cards' processes to start, {short:.0f} s"
        )
        bench.rows.add("scaling", f"{count} cards", taken, "s", note)


SUBJECTS: dict[str, Callable[[Bench], None]] = {
    "roof": roof,
    "train": train,
    "draw": draw,
    "styleid": styleid,
    "memory": memory,
    "set": whole_set,
    "shared": shared_set,
    "scaling": scaling,
}


def main() -> None:
    """Measure, or tabulate what was measured."""
    args = _arguments()
    if args.table:
        records = [json.loads(file.read_text()) for file in sorted(args.table.glob("*.json"))]
        text = tables(records)
        print(text)
        if args.write:
            write(args.write, text)
        return
    logging.basicConfig(level=logging.WARNING)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = QUICK if args.quick else Sizes()
    out = args.out.absolute()
    rows = Rows(out / f"{'-'.join(args.only)}-{os.getpid()}.json")
    stacks, cards, graphs, fused = (
        tuple(args.stacks),
        tuple(args.cards),
        args.graphs == "auto",
        args.fused == "auto",
    )
    bench = Bench(rows, out, sizes, args.compile, device, stacks, cards, args.primed, graphs, fused)
    for name in args.only:
        SUBJECTS[name](bench)
    if device.type == "cuda":
        print(f"most memory reserved: {torch.cuda.max_memory_reserved() / GIB:.1f} GiB")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sd21_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--out", type=Path, default=Path("outputs/sd21"))
    parser.add_argument("--compile", choices=("auto", "off", "regional", "full"), default="auto")
    parser.add_argument(
        "--graphs", choices=("auto", "off"), default="auto", help="steps and passes as CUDA graphs"
    )
    parser.add_argument("--fused", choices=("auto", "off"), default="auto")
    parser.add_argument("--stacks", type=int, nargs="+", default=[], help="styles trained at once for train")
    parser.add_argument(
        "--cards", type=int, nargs="+", default=[], help="numbers of cards for shared and scaling"
    )
    parser.add_argument("--primed", action="store_true", help="set: only warm up before the warm trial")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--write", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
