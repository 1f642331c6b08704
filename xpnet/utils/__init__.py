"""Checks of arguments and arrays, and other small helpers without networks."""
