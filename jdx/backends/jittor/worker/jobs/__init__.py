"""What a worker can be asked for, one module with `run` each: encode, train, generate, stylise."""
