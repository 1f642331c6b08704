"""The compiled executor on the CPU (extra `fast`): loops, matrix products and threads, by numba."""
