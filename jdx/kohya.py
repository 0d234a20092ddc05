"""`python -m jdx.kohya RUN`: a run's adapters as LoRA files for programs that read kohya's names.

sd-scripts, AUTOMATIC1111 and ComfyUI call a weight `lora_unet_PATH_WITH_UNDERSCORES.lora_down.weight` and look for its
`.alpha` beside it. diffusers' own converter writes the rank for alpha and gives text encoders SDXL's name.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from jdx.backends.adapter_files import FILE, NETWORKS, LoraPair, config_of, pairs_of, section, unreadable
from jdx.backends.lora_keys import Network, parse
from jdx.errors import ConfigError, Fault
from jdx.files import write_bytes
from jdx.words import counted

PREFIX: Mapping[Network, str] = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
Tensors = dict[str, torch.Tensor]  # NumPy has no bfloat16, which others save in


def adapters(run: Path) -> dict[str, Path]:
    """{name: adapter file}, last snapshots only, of a run folder, its `adapters` or one adapter's folder.

    Raises: ConfigError where there is none.
    """
    root = run / "adapters" if (run / "adapters").is_dir() else run
    found = {path.parent.name: path for path in sorted(root.glob(f"*/{FILE}"))}
    if not found and (root / FILE).is_file():
        found = {root.absolute().name: root / FILE}
    if not found:
        remedy = f"must be the folder of a run that trained LoRA, or of an adapter: none has {FILE}"
        raise ConfigError([Fault("RUN", str(run), remedy)], what="command")
    return found


def converted(file: Path) -> tuple[Tensors, dict[str, str]]:
    """An adapter's weights under kohya's names, and the header of such a file.

    Raises: ConfigError for a file that is damaged, or has DoRA's lengths, which other programs read in different ways.
    """
    try:
        with safe_open(str(file), framework="pt") as opened:
            header = opened.metadata() or {}
        state = safetensors.torch.load_file(str(file))
    except (OSError, SafetensorError) as error:
        raise unreadable(file, error) from error
    config = config_of(file, header)
    networks = pairs_of(file, state, config, _own_sizes(state))
    tensors: Tensors = {}
    for network in NETWORKS:
        for path, pair in networks[network].items():
            if pair.magnitude is not None:
                remedy = "DoRA cannot be said in kohya's names without doubt: train with lora.dora=false"
                raise ConfigError([Fault(f"{network}.{path}", "has lengths", remedy)], what=f"adapter {file}")
            name = PREFIX[network] + path.replace(".", "_")
            tensors[f"{name}.lora_down.weight"] = pair.down
            tensors[f"{name}.lora_up.weight"] = pair.up
            tensors[f"{name}.alpha"] = torch.tensor(pair.alpha, dtype=pair.down.dtype)
    return tensors, _header(
        [p for pairs in networks.values() for p in pairs.values()], section(config, "jdx")
    )


def _own_sizes(state: Tensors) -> dict[Network, dict[str, tuple[int, int]]]:
    """The base's layers as the file has them: whether they fit a base is asked by who loads the file."""
    sizes: dict[Network, dict[str, list[int]]] = {network: {} for network in NETWORKS}
    for key, tensor in state.items():
        meaning = parse(key)
        if meaning is not None and meaning.role in {"up", "down"} and tensor.ndim == 2:
            side = 0 if meaning.role == "up" else 1
            sizes[meaning.network].setdefault(meaning.path, [0, 0])[side] = int(tensor.shape[side])
    return {network: {path: (a, b) for path, (a, b) in found.items()} for network, found in sizes.items()}


def _header(pairs: Sequence[LoraPair[Any]], about: Mapping[str, Any]) -> dict[str, str]:
    """What sd-scripts writes about a network; rank and alpha are those of most layers."""
    rank = Counter(pair.rank for pair in pairs).most_common(1)[0][0]
    alpha = Counter(pair.alpha for pair in pairs).most_common(1)[0][0]
    header = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
    }
    return header | {f"jdx.{key}": str(value) for key, value in about.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one file per adapter and print its path; exit code 2 with all faults when one cannot be written."""
    parser = argparse.ArgumentParser(
        prog="python -m jdx.kohya", description="Write a run's adapters as LoRA files with kohya's names."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or the folder of an adapter")
    parser.add_argument("--out", type=Path, help="folder of the files (default: RUN/kohya)")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    options = parser.parse_args(arguments)
    out = options.out or options.run / "kohya"
    try:
        found = adapters(options.run)
        places = {name: out / f"{name}.safetensors" for name in found}
        taken = [path for path in places.values() if path.exists() and not options.force]
        if taken:
            remedy = "--force replaces files, --out names another folder"
            raise ConfigError([Fault(str(path), "", f"is there: {remedy}") for path in taken], what="command")
        contents = {name: safetensors.torch.save(*converted(file)) for name, file in found.items()}
        for name, content in contents.items():
            write_bytes(places[name], content)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{out}: {counted(len(places), 'adapter')} ({', '.join(places)})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
