"""Steps compiled for a CPU."""
