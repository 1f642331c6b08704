"""Programs that train the networks of `examples/speedrun_*.toml` in PyTorch and in JAX."""
