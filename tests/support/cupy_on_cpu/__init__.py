"""The stock CuPy wheel on a CPU, on a pretended CUDA device; see README.md."""
