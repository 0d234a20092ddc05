"""The PyTorch backend: one device and precision, models loaded when first needed."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from jdx.backends.base import (
    Dtype,
    EncodeJob,
    GenerateJob,
    ModelSpec,
    OnLosses,
    OnSnapshot,
    OnStyle,
    StyliseJob,
    TrainJob,
    TrainOutcome,
)
from jdx.backends.diffusers_layout import DiffusersBackend
from jdx.backends.torch import repeatable
from jdx.backends.torch.compile import keep_in
from jdx.backends.torch.devices import limit_memory, pick_device, pick_dtype
from jdx.backends.torch.encode import encode
from jdx.backends.torch.fusing import offered
from jdx.backends.torch.generate import generate
from jdx.backends.torch.hub import spec_faults
from jdx.backends.torch.models import Models, load
from jdx.progress import Progress

LIBRARIES = ("torch", "diffusers", "transformers", "safetensors")


class TorchBackend(DiffusersBackend):
    """Encodes, trains, draws and stylises with PyTorch on one device.

    device: auto (a GPU if there is one), cpu, cuda or cuda:N. dtype: auto (bfloat16 on a GPU that has it,
    else float32), float32, bfloat16 or float64. threads: of the CPU for the whole process, 0 = PyTorch's
    choice. memory: GiB that tensors may take on the device, 0 = what is free. kernels: folder where compiled code is
    kept for other processes, None = PyTorch's own. deterministic: whether trainings will be asked to be so.
    fused: fused kernels, where the device has them (`fusing`).
    Raises BackendError when this machine lacks the device, or the precision is not offered.
    """

    name = "torch"

    def __init__(
        self,
        device: str = "auto",
        dtype: Literal["auto"] | Dtype = "auto",
        threads: int = 0,
        *,
        memory: float = 0.0,
        kernels: Path | None = None,
        deterministic: bool = False,
        fused: bool = True,
    ) -> None:
        if deterministic:
            repeatable.prepare()  # before CUDA starts
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.fused = fused
        limit_memory(self.device, memory)
        if kernels is not None:
            keep_in(kernels)
        if threads:
            torch.set_num_threads(threads)

    def describe(self) -> dict[str, str]:
        """Device, precision and library versions."""
        cuda = self.device.type == "cuda"
        device = torch.cuda.get_device_name(self.device) if cuda else f"cpu ({os.cpu_count()} cores)"
        record = {"backend": self.name, "device": device, "dtype": str(self.dtype).removeprefix("torch.")}
        record["threads"] = str(torch.get_num_threads())
        if cuda:
            record["cuda"] = str(torch.version.cuda)
            record["fused"] = str(self.fused and offered(self.device, self.dtype)).lower()
        return record | {library: version(library) for library in LIBRARIES}

    def check(self, model: ModelSpec) -> list[str]:
        """Faults of the model, read from names and small configs."""
        return spec_faults(model)

    def models(self, spec: ModelSpec) -> Models:
        """The loaded model, from the process's cache."""
        return load(spec, self.device, self.dtype, fused=self.fused)

    def encode(self, job: EncodeJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        """VAE moments of the training views, see `encode.encode`."""
        encode(job, self.models(job.model), out, progress, on_style)

    def train(
        self, job: TrainJob, out: Path, progress: Progress, on_snapshot: OnSnapshot, on_losses: OnLosses
    ) -> TrainOutcome:
        """All adapters together on one frozen base, see `training.train`."""
        from jdx.backends.torch.training import train

        return train(job, self.models(job.model), out, progress, on_snapshot, on_losses)

    def generate(self, job: GenerateJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        """All pictures, style by style, see `generate.generate`."""
        generate(job, self.models(job.model), out, progress, on_style)

    def stylise(self, job: StyliseJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        """StyleID (Chung et al. 2024) on given pictures, see `styleid.stylise`."""
        from jdx.backends.torch.styleid import stylise

        stylise(job, self.models(job.model), out, progress, on_style)
