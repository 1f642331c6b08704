"""The report of a run as an HTML page, and the comparison of several runs."""
