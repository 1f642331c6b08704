"""Networks out to other libraries and in from them; none is imported before it is asked for."""
