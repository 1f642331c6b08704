"""Faster training steps: kernels, recording, CUDA graphs. Does not import `xpnet.network`."""
