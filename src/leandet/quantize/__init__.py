"""INT8 models from float32 ones, handed over only where they are faster and as accurate."""
