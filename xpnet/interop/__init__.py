"""Conversion of networks to and from other libraries, which are imported only when needed."""
