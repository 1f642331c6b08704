"""The report of a run: an HTML page, and runs side by side."""
