"""How fast xpnet is, beside the floor that no implementation gets below and beside its peers."""
