"""The folder of a run: written by one process at a time, and read back."""
