"""The commands, and the parser and console output that they share."""
