"""The report: one page that needs nothing else."""

from sim.lab.report.page import write

__all__ = ["write"]
