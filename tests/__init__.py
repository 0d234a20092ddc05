from __future__ import annotations

import os

import torch

# Triton decides when it is first imported, by diffusers say, whether kernels are compiled or interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
