"""The report of a run as an HTML page, and the comparison of several runs."""

from xpnet.report.files import report_again

__all__ = ["report_again"]
