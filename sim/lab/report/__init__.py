"""The report: a page with its pictures, and all tables as CSV files beside it."""

from sim.lab.report.page import write

__all__ = ["write"]
