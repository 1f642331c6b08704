"""How a step is made fast: kernels, recording, CUDA graphs. Imports no network."""
