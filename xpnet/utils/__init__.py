"""Checks of arguments and arrays, and other small helpers that know nothing of networks."""
