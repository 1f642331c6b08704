"""Figures drawn with matplotlib: curves, confusion matrix, weights."""
