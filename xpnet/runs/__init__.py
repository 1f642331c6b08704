"""The folder of a run: created, locked and read back; and a network from its settings."""
