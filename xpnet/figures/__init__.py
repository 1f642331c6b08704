"""The pictures: curves, confusion, weights, drawn by matplotlib."""
