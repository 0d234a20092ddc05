"""What `python -m benchmarks.sd21_gpu` measures, one module per subject."""
