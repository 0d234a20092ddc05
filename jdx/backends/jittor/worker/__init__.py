"""What runs in the interpreter that has Jittor: standard library, NumPy, Jittor, safetensors, tokenizers, Pillow."""
