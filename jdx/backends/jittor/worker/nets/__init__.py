"""Stable Diffusion's networks on PyPI's jittor and NumPy alone, from the folders that diffusers writes.

Values and gradients are those of diffusers' and transformers' modules on the same weights. Paths of modules, LoRA
targets and adapter files are the same too. Nothing here imports torch, diffusers or transformers.
"""
