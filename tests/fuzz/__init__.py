"""Hostile files: what every reader is fed, by Hypothesis and by a coverage-guided fuzzer."""
