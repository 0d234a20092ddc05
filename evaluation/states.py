"""Weight files of judges as tensors; what lies where is `evaluation.weights`' business, which needs no torch."""

import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from evaluation.errors import JudgesError


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors`, `.pt`, `.pth` or TorchScript file; runs no pickled code.

    Raises:
        JudgesError: it is none of these.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if _is_torchscript(path):
            archive = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            return dict(archive.state_dict())
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise half a dozen types for a damaged file
        raise JudgesError(f"{path}: no readable weight file ({error})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise JudgesError(f"{path}: a state dict (names to tensors) is wanted")
    return state


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())
