"""The PyTorch backend: diffusers' models, stacked LoRA training, diffusers' adapter format."""
