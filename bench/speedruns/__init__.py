"""Programs that train the network of `examples/speedrun_98.toml` in PyTorch and in JAX."""
